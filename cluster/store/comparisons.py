"""Comparisons: how they start, what is known of them, how they end.

The names of ``models`` and ``episodes`` are here too: this is the module to import.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, and_, insert, select, update
from sqlalchemy.exc import IntegrityError

from cluster.errors import StoreError
from cluster.store.database import Database
from cluster.store.episodes import (
    abandon_episodes,
    comparison_history,
    get_episode,
    outcomes_in_order,
    record_episode,
    record_outcome,
)
from cluster.store.models import (
    Arm,
    Comparison,
    CountedEpisode,
    EpisodeRow,
    History,
    NewComparison,
    Outcome,
    OutcomeConflictError,
    Status,
    UnknownComparisonError,
    UnknownEpisodeError,
)
from cluster.store.tables import arms, comparison_events, comparisons

__all__ = [
    "Arm",
    "Comparison",
    "CountedEpisode",
    "EpisodeRow",
    "History",
    "NewComparison",
    "Outcome",
    "OutcomeConflictError",
    "UnknownComparisonError",
    "UnknownEpisodeError",
    "abandon_episodes",
    "active_comparison",
    "close_comparison",
    "comparison_history",
    "create_comparison",
    "get_comparison",
    "get_episode",
    "list_comparisons",
    "mark_applied",
    "outcomes_in_order",
    "record_episode",
    "record_outcome",
]


def create_comparison(db: Database, new: NewComparison) -> Comparison:
    """Start a comparison. Raises ``StoreError`` when the policy has one running, or one whose decision has yet to take effect."""
    comparison_id = secrets.token_hex(6)
    salt = new.salt or secrets.token_hex(16)
    values = new.model_dump(exclude={"arms", "salt"})
    try:
        with db.write() as connection:
            unfinished = connection.execute(
                select(comparisons.c.id).where(
                    comparisons.c.policy == new.policy, comparisons.c.status.in_(("promoted", "kept")), comparisons.c.applied_at.is_(None)
                )
            ).scalar()
            if unfinished is not None:
                raise StoreError(
                    f"comparison {unfinished} of {new.policy} has ended but was interrupted before its winner took over; "
                    f"finish it with `gaitway ab promote {unfinished}`"
                )
            connection.execute(
                insert(comparisons).values(
                    id=comparison_id, salt=salt, status="running", created_at=datetime.now(UTC), episode_count=0, **values
                )
            )
            rows = [{"comparison_id": comparison_id, "position": k, **arm.model_dump()} for k, arm in enumerate(new.arms)]
            connection.execute(insert(arms), rows)
            _log(connection, comparison_id, "created", {"arms": [arm.model_dump() for arm in new.arms]})
    except IntegrityError:
        running = active_comparison(db, new.policy)
        if running is None:
            raise
        raise StoreError(
            f"policy {new.policy} already has the running comparison {running.id}; "
            f"end it with `gaitway ab promote {running.id}` or `gaitway ab stop {running.id}`"
        ) from None
    return get_comparison(db, comparison_id)


def get_comparison(db: Database, comparison_id: str) -> Comparison:
    """One comparison. Raises ``UnknownComparisonError``."""
    with db.read() as connection:
        found = _load(connection, comparisons.c.id == comparison_id)
    if not found:
        raise UnknownComparisonError(f"no comparison {comparison_id!r}; `gaitway ab ls` lists them")
    return found[0]


def list_comparisons(db: Database, policy: str | None = None) -> list[Comparison]:
    """All comparisons, the newest first; only one policy's when it is given."""
    with db.read() as connection:
        return _load(connection, comparisons.c.policy == policy if policy is not None else None)


def active_comparison(db: Database, policy: str) -> Comparison | None:
    """The policy's running comparison, if it has one."""
    with db.read() as connection:
        found = _load(connection, and_(comparisons.c.policy == policy, comparisons.c.status == "running"))
    return found[0] if found else None


def close_comparison(db: Database, comparison_id: str, status: Status, decision: Mapping[str, Any] | None = None) -> Comparison:
    """End a comparison and record what the decision rested on.

    Closing it again with the same status changes nothing. Raises ``StoreError`` when it ended otherwise.
    """
    if status == "running":
        raise ValueError("close with promoted, kept or stopped")
    with db.write() as connection:
        changed = connection.execute(
            update(comparisons)
            .where(comparisons.c.id == comparison_id, comparisons.c.status == "running")
            .values(
                status=status,
                closed_at=datetime.now(UTC),
                # Stopping moves no alias: there is nothing left to apply.
                applied_at=datetime.now(UTC) if status == "stopped" else None,
                decision=None if decision is None else dict(decision),
            )
        ).rowcount
        if changed:
            _log(connection, comparison_id, status, {} if decision is None else dict(decision))
    stored = get_comparison(db, comparison_id)
    if stored.status != status:
        raise StoreError(f"comparison {comparison_id} has already ended as {stored.status}; start a new one with `gaitway ab start`")
    return stored


def mark_applied(db: Database, comparison_id: str) -> Comparison:
    """Record that the registry's alias now follows the decision; the first time counts."""
    with db.write() as connection:
        changed = connection.execute(
            update(comparisons)
            .where(comparisons.c.id == comparison_id, comparisons.c.status != "running", comparisons.c.applied_at.is_(None))
            .values(applied_at=datetime.now(UTC))
        ).rowcount
        if changed:
            _log(connection, comparison_id, "applied", {})
    return get_comparison(db, comparison_id)


def _load(connection: Connection, condition: Any) -> list[Comparison]:
    query = select(comparisons).order_by(comparisons.c.created_at.desc(), comparisons.c.id)
    rows = connection.execute(query if condition is None else query.where(condition)).all()
    wanted = [row.id for row in rows]
    shares: dict[str, list[Arm]] = {key: [] for key in wanted}
    for arm in connection.execute(select(arms).where(arms.c.comparison_id.in_(wanted)).order_by(arms.c.position)):
        shares[arm.comparison_id].append(Arm(name=arm.name, version=arm.version, weight=arm.weight))
    return [Comparison.model_validate({**row._mapping, "arms": tuple(shares[row.id])}) for row in rows]


def _log(connection: Connection, comparison_id: str, kind: str, detail: dict[str, Any]) -> None:
    connection.execute(insert(comparison_events).values(comparison_id=comparison_id, at=datetime.now(UTC), kind=kind, detail=detail))
