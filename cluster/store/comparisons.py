"""Comparisons: how they start, what is known of them, how they end.

The names of ``models`` and ``episodes`` are here too: this is the module to import.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, and_, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from cluster.errors import StoreError, UsageError
from cluster.store.database import Database
from cluster.store.episodes import (
    abandon_episodes,
    comparison_history,
    get_episode,
    outcomes_in_order,
    record_episode,
    record_outcome,
    robot_assignment,
)
from cluster.store.models import (
    OPTIONS,
    Arm,
    Comparison,
    CountedEpisode,
    CountedOutcome,
    EpisodeRow,
    Guardrail,
    History,
    NewComparison,
    Outcome,
    OutcomeConflictError,
    Status,
    UnknownComparisonError,
    UnknownEpisodeError,
    Weights,
)
from cluster.store.tables import arms, comparison_events, comparisons, weights
from cluster.store.tokens import record_audit

__all__ = [
    "Arm",
    "Comparison",
    "CountedEpisode",
    "CountedOutcome",
    "EpisodeRow",
    "Guardrail",
    "History",
    "NewComparison",
    "Outcome",
    "OutcomeConflictError",
    "UnknownComparisonError",
    "UnknownEpisodeError",
    "Weights",
    "abandon_episodes",
    "active_comparison",
    "change_weights",
    "close_comparison",
    "comparison_history",
    "create_comparison",
    "current_splits",
    "get_comparison",
    "get_episode",
    "list_comparisons",
    "mark_applied",
    "outcomes_in_order",
    "pause_comparison",
    "record_episode",
    "record_outcome",
    "record_undo",
    "replace_weights",
    "robot_assignment",
    "unfinished_decisions",
]


def create_comparison(db: Database, new: NewComparison, plan: Mapping[str, Any] | None = None) -> Comparison:
    """Start a comparison. Raises ``StoreError`` when the policy has one running, or one whose decision has yet to take effect.

    Args:
        db: the database.
        new: what is asked for; with a ramp, its first stage is in force at once.
        plan: what it can be expected to find (``serve_apps.comparison.plan``), kept with it.
    """
    comparison_id = secrets.token_hex(6)
    salt = new.salt or secrets.token_hex(16)
    values = new.model_dump(mode="json", exclude={"arms", "salt"})
    options = {name: values.pop(name) for name in OPTIONS if name in values} | {"plan": None if plan is None else dict(plan)}
    split = new.at_stage(new.ramp[0]) if new.ramp else {arm.name: arm.weight for arm in new.arms}
    try:
        with db.write() as connection:
            paused = connection.execute(
                select(comparisons.c.id).where(comparisons.c.policy == new.policy, comparisons.c.status == "paused")
            ).scalar()
            if paused is not None:
                raise StoreError(
                    f"comparison {paused} of {new.policy} is paused without a verdict; "
                    f"end it with `gaitway ab promote {paused} --arm ARM --force` or `gaitway ab stop {paused}`"
                )
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
                    id=comparison_id, salt=salt, status="running", created_at=datetime.now(UTC), episode_count=0, options=options, **values
                )
            )
            rows = [{"comparison_id": comparison_id, "position": k, **arm.model_dump()} for k, arm in enumerate(new.arms)]
            connection.execute(insert(arms), rows)
            _add_weights(connection, comparison_id, 1, split, "as it began", "")
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
    if status in ("running", "paused"):
        raise ValueError("close with promoted, kept or stopped")
    with db.write() as connection:
        changed = connection.execute(
            update(comparisons)
            .where(comparisons.c.id == comparison_id, comparisons.c.status.in_(("running", "paused")))
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


def change_weights(db: Database, comparison_id: str, changed: Mapping[str, float], reason: str, actor: str) -> Comparison:
    """Split new episodes otherwise from now on; replicas follow within a second, episodes under way stay where they are.

    Args:
        db: the database.
        comparison_id: a running comparison.
        changed: arm -> weight; arms that are not named keep theirs. 0: no new episodes.
        reason: why, in words.
        actor: who, for the trail.

    Raises:
        UsageError: an arm that is not there, a weight below 0, or nothing left that has one.
        StoreError: the comparison has ended.
    """
    comparison = get_comparison(db, comparison_id)
    if comparison.status not in ("running", "paused"):
        raise StoreError(f"comparison {comparison_id} has ended as {comparison.status}; its weights are history")
    merged = {arm.name: arm.weight for arm in comparison.arms}
    if unknown := sorted(set(changed) - set(merged)):
        raise UsageError(f"comparison {comparison_id} has no arm {unknown[0]!r}; it has {', '.join(merged)}")
    if shadows := sorted(arm.name for arm in comparison.arms if arm.shadow and changed.get(arm.name)):
        raise UsageError(
            f"arm {shadows[0]} of comparison {comparison_id} is a shadow: it gets no episodes; start another comparison with it"
        )
    merged |= {name: float(weight) for name, weight in changed.items()}
    if merged == {arm.name: arm.weight for arm in comparison.arms}:
        return comparison  # two replicas that see one breach change the split once
    if min(merged.values()) < 0 or not 0 < sum(merged.values()) < math.inf:
        raise UsageError(f"weights {merged}: give numbers from 0, at least one above it")
    if not replace_weights(db, comparison_id, comparison.weights[-1].version, merged, reason, actor):
        return change_weights(db, comparison_id, changed, reason, actor)  # somebody else was first with this version
    return get_comparison(db, comparison_id)


def replace_weights(db: Database, comparison_id: str, version: int, split: Mapping[str, float], reason: str, actor: str) -> bool:
    """Put a split in the place of the one with this version; False when somebody has replaced that already: nothing is written then.

    Two replicas that look at the same comparison and draw the same conclusion so change it once.
    """
    try:
        with db.write() as connection:
            latest = connection.execute(select(func.max(weights.c.version)).where(weights.c.comparison_id == comparison_id)).scalar_one()
            if latest != version:
                return False
            _add_weights(connection, comparison_id, version + 1, split, reason, actor)
            _log(connection, comparison_id, "weights", {"weights": dict(split), "reason": reason})
            record_audit(connection, actor, "comparison.weights", comparison_id, {"weights": dict(split), "reason": reason})
    except IntegrityError:
        return False  # at the same moment
    return True


def current_splits(db: Database, ids: Sequence[str]) -> dict[str, tuple[int, dict[str, float], str, str | None]]:
    """Of each comparison: version of its weights, the weights, its status, and the version that won it, if one did.

    What replicas ask all the time: two small queries.
    """
    if not ids:
        return {}
    with db.read() as connection:
        rows = connection.execute(
            select(weights.c.comparison_id, weights.c.version, weights.c.weights)
            .where(weights.c.comparison_id.in_(ids))
            .order_by(weights.c.version)
        )
        latest = {row.comparison_id: (row.version, dict(row.weights)) for row in rows}
        states = connection.execute(
            select(comparisons.c.id, comparisons.c.status, comparisons.c.decision).where(comparisons.c.id.in_(ids))
        ).all()
    return {row.id: (*latest[row.id], row.status, (row.decision or {}).get("version")) for row in states if row.id in latest}


def pause_comparison(db: Database, comparison_id: str, reason: str) -> bool:
    """Its budget is spent without a verdict: new episodes go to the champion until somebody decides. True when it was running."""
    with db.write() as connection:
        changed = connection.execute(
            update(comparisons).where(comparisons.c.id == comparison_id, comparisons.c.status == "running").values(status="paused")
        ).rowcount
        if changed:
            _log(connection, comparison_id, "paused", {"reason": reason})
    return bool(changed)


def unfinished_decisions(db: Database) -> list[str]:
    """Comparisons whose decision was written down and has not taken effect, the oldest first."""
    with db.read() as connection:
        query = select(comparisons.c.id).where(comparisons.c.status.in_(("promoted", "kept")), comparisons.c.applied_at.is_(None))
        return list(connection.execute(query.order_by(comparisons.c.closed_at)).scalars())


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


def record_undo(db: Database, comparison_id: str, detail: Mapping[str, Any], actor: str) -> None:
    """Record that a promotion was taken back, in the comparison's events and in the trail."""
    with db.write() as connection:
        _log(connection, comparison_id, "undone", dict(detail))
        record_audit(connection, actor, "comparison.undo", comparison_id, dict(detail))


def _load(connection: Connection, condition: Any) -> list[Comparison]:
    query = select(comparisons).order_by(comparisons.c.created_at.desc(), comparisons.c.id)
    rows = connection.execute(query if condition is None else query.where(condition)).all()
    wanted = [row.id for row in rows]
    splits: dict[str, list[Weights]] = {key: [] for key in wanted}
    for row in connection.execute(select(weights).where(weights.c.comparison_id.in_(wanted)).order_by(weights.c.version)):
        split = Weights(version=row.version, at=row.at, weights=row.weights, reason=row.reason, actor=row.actor)
        splits[row.comparison_id].append(split)
    shares: dict[str, list[Arm]] = {key: [] for key in wanted}
    for arm in connection.execute(select(arms).where(arms.c.comparison_id.in_(wanted)).order_by(arms.c.position)):
        weight = splits[arm.comparison_id][-1].weights[arm.name]
        shares[arm.comparison_id].append(Arm(name=arm.name, version=arm.version, weight=weight, shadow=bool(arm.shadow)))
    return [_comparison(dict(row._mapping), shares[row.id], splits[row.id]) for row in rows]


def _comparison(values: Mapping[str, Any], its_arms: list[Arm], splits: list[Weights]) -> Comparison:
    given = {name: value for name, value in values.items() if value is not None or name not in ("guardrails", "auto", "options")}
    options = given.pop("options", {})
    return Comparison.model_validate({**given, **options, "arms": tuple(its_arms), "weights": tuple(splits)})


def _add_weights(connection: Connection, comparison_id: str, version: int, split: Mapping[str, float], reason: str, actor: str) -> None:
    values = {"version": version, "at": datetime.now(UTC), "weights": dict(split), "reason": reason[:400], "actor": actor[:160]}
    connection.execute(insert(weights).values(comparison_id=comparison_id, **values))


def _log(connection: Connection, comparison_id: str, kind: str, detail: dict[str, Any]) -> None:
    connection.execute(insert(comparison_events).values(comparison_id=comparison_id, at=datetime.now(UTC), kind=kind, detail=detail))
