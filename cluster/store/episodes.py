"""The ledger's lines: episodes as they are assigned, outcomes as they come in, and what a verdict may count of them.

An episode is recorded when it is assigned and takes the next ``sequence`` number of its comparison. A verdict reads outcomes in
that order, the order of assignment, and waits at an episode whose outcome is still to come: outcomes that arrive sooner are not
a random sample (a fall ends early), and reading them as they come would favour the arm whose bad episodes last longest. An
episode whose outcome has not come ``outcome_deadline_s`` after its start is missing; an outcome that comes later still is kept
and marked late, and changes nothing that a verdict has already counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, and_, insert, select, update
from sqlalchemy.exc import IntegrityError

from cluster.store.database import Database
from cluster.store.models import (
    CountedEpisode,
    EpisodeRow,
    History,
    Outcome,
    OutcomeConflictError,
    UnknownComparisonError,
    UnknownEpisodeError,
)
from cluster.store.tables import comparisons, episodes, outcomes

__all__ = ["abandon_episodes", "comparison_history", "get_episode", "get_outcome", "outcomes_in_order", "record_episode", "record_outcome"]

# A report may look while an outcome that made its deadline is still being committed: wait this much longer before giving up.
_COMMIT_GRACE_S = 5.0


def get_episode(db: Database, policy: str, episode_id: str) -> EpisodeRow | None:
    """An episode's assignment as stored, or None."""
    with db.read() as connection:
        return _episode(connection, policy, episode_id)


def get_outcome(db: Database, policy: str, episode_id: str) -> Outcome | None:
    """An episode's outcome as stored, or None."""
    with db.read() as connection:
        row = connection.execute(
            select(*(outcomes.c[name] for name in Outcome.model_fields)).where(
                outcomes.c.policy == policy, outcomes.c.episode_id == episode_id
            )
        ).one_or_none()
    return None if row is None else Outcome.model_validate(dict(row._mapping))


def record_episode(db: Database, episode: EpisodeRow) -> EpisodeRow:
    """Store an episode's assignment, once.

    Returns:
        What is stored: ``episode``, or the assignment that it already had. The caller serves what is returned, so that an
        episode never changes its version, whatever happened to the weights meanwhile.
    """
    stored = get_episode(db, episode.policy, episode.episode_id)
    if stored is not None:
        return stored
    try:
        with db.write() as connection:
            sequence = None
            if episode.comparison_id is not None:
                sequence = connection.execute(
                    update(comparisons)
                    .where(comparisons.c.id == episode.comparison_id)
                    .values(episode_count=comparisons.c.episode_count + 1)
                    .returning(comparisons.c.episode_count)
                ).scalar_one_or_none()
                if sequence is None:
                    raise UnknownComparisonError(f"no comparison {episode.comparison_id!r}; `gaitway ab ls` lists them")
            connection.execute(insert(episodes).values(sequence=sequence, **episode.model_dump()))
    except IntegrityError:
        # Another replica was first with the same episode.
        stored = get_episode(db, episode.policy, episode.episode_id)
        if stored is None:
            raise
        return stored
    return episode


def record_outcome(db: Database, episode_id: str, outcome: Outcome, *, policy: str, server: Mapping[str, Any] | None = None) -> bool:
    """Store an episode's outcome; when this returns, it is on disk.

    Args:
        db: the database.
        episode_id: an episode that was assigned.
        outcome: how it ended, as the robot says.
        policy: the policy that drove it.
        server: what the replica measured itself: ``steps``, ``error_steps``, ``latency_p50_ms``, ``latency_p99_ms``,
            ``latency_max_ms``. Of an episode that moved between replicas it is the last one's part. It says nothing about the
            outcome: one that is repeated with other figures is the same, and the first figures stay.

    Returns:
        True when it is new, False when the same outcome was stored before.

    Raises:
        UnknownEpisodeError: the policy never assigned this episode.
        OutcomeConflictError: the episode already has a different outcome.
    """
    payload_sha256 = outcome.sha256()
    try:
        with db.write() as connection:
            stored = connection.execute(
                select(episodes.c.started_at, episodes.c.abandoned_at, comparisons.c.outcome_deadline_s)
                .select_from(episodes.outerjoin(comparisons, episodes.c.comparison_id == comparisons.c.id))
                .where(episodes.c.policy == policy, episodes.c.episode_id == episode_id)
                # Against abandon_episodes at the same moment: either it sees this outcome, or this outcome is late.
                .with_for_update(of=episodes)
            ).one_or_none()
            if stored is None:
                raise UnknownEpisodeError(f"policy {policy} has no episode {episode_id!r}; an episode begins with its first act")
            known = connection.execute(
                select(outcomes.c.payload_sha256).where(outcomes.c.policy == policy, outcomes.c.episode_id == episode_id)
            ).scalar_one_or_none()
            if known is not None:
                return _repeat(known, payload_sha256, episode_id)
            now = datetime.now(UTC)
            overdue = stored.outcome_deadline_s is not None and now > stored.started_at + timedelta(seconds=stored.outcome_deadline_s)
            connection.execute(
                insert(outcomes).values(
                    policy=policy,
                    episode_id=episode_id,
                    payload_sha256=payload_sha256,
                    received_at=now,
                    late=overdue or stored.abandoned_at is not None,
                    server=None if server is None else dict(server),
                    **outcome.model_dump(),
                )
            )
    except IntegrityError:
        with db.read() as connection:
            known = connection.execute(
                select(outcomes.c.payload_sha256).where(outcomes.c.policy == policy, outcomes.c.episode_id == episode_id)
            ).scalar_one_or_none()
        if known is None:
            raise
        return _repeat(known, payload_sha256, episode_id)
    return True


def abandon_episodes(db: Database, comparison_id: str) -> int:
    """Give up every episode in flight now: for whoever knows that the robots have stopped. Returns how many."""
    with db.write() as connection:
        # Takes the same row lock as record_episode: nothing is assigned in between.
        connection.execute(update(comparisons).where(comparisons.c.id == comparison_id).values(episode_count=comparisons.c.episode_count))
        has_outcome = select(outcomes.c.episode_id).where(
            outcomes.c.policy == episodes.c.policy, outcomes.c.episode_id == episodes.c.episode_id
        )
        result = connection.execute(
            update(episodes)
            .where(episodes.c.comparison_id == comparison_id, episodes.c.abandoned_at.is_(None), ~has_outcome.exists())
            .values(abandoned_at=datetime.now(UTC))
        )
        return int(result.rowcount)


def comparison_history(db: Database, comparison_id: str, now: datetime | None = None) -> History:
    """What a verdict may count at this moment; a later call with no less time gone only ever appends to ``episodes``."""
    now = datetime.now(UTC) if now is None else now
    with db.read() as connection:
        deadline_s = connection.execute(select(comparisons.c.outcome_deadline_s).where(comparisons.c.id == comparison_id)).scalar()
        if deadline_s is None:
            raise UnknownComparisonError(f"no comparison {comparison_id!r}; `gaitway ab ls` lists them")
        rows = connection.execute(
            select(
                episodes, outcomes.c.value, outcomes.c.fell, outcomes.c.steps, outcomes.c.duration_s, outcomes.c.metrics, outcomes.c.late
            )
            .select_from(
                episodes.outerjoin(outcomes, and_(episodes.c.policy == outcomes.c.policy, episodes.c.episode_id == outcomes.c.episode_id))
            )
            .where(episodes.c.comparison_id == comparison_id)
            .order_by(episodes.c.sequence)
        ).all()
    limit_s = float(deadline_s) + _COMMIT_GRACE_S
    counted: list[CountedEpisode] = []
    assigned: list[CountedEpisode] = []
    in_flight = waiting = late = 0
    for row in rows:
        reported = row.late is not None and not row.late
        late += int(bool(row.late))
        given_up = row.late is not None or row.abandoned_at is not None or now > row.started_at + timedelta(seconds=limit_s)
        assigned.append(_counted(row, reported, is_open=not reported and not given_up))
        if assigned[-1].is_open:
            in_flight += 1
        elif in_flight:
            waiting += int(reported)
        else:
            counted.append(assigned[-1])
    return History(counted, in_flight, waiting, late, assigned)


def outcomes_in_order(db: Database, comparison_id: str) -> list[CountedEpisode]:
    """The episodes that a verdict counts now, in the order of assignment."""
    return comparison_history(db, comparison_id).episodes


def _repeat(known_sha256: str, payload_sha256: str, episode_id: str) -> bool:
    if known_sha256 != payload_sha256:
        raise OutcomeConflictError(f"episode {episode_id!r} already has a different outcome; the first one counts")
    return False


def _episode(connection: Connection, policy: str, episode_id: str) -> EpisodeRow | None:
    row = connection.execute(select(episodes).where(episodes.c.policy == policy, episodes.c.episode_id == episode_id)).one_or_none()
    return None if row is None else EpisodeRow.model_validate({name: row._mapping[name] for name in EpisodeRow.model_fields})


def _counted(row: Row[Any], reported: bool, is_open: bool) -> CountedEpisode:
    return CountedEpisode(
        episode_id=row.episode_id,
        sequence=row.sequence,
        arm=row.arm,
        version=row.version,
        propensity=row.propensity,
        weights_version=row.weights_version or 1,
        robot_id=row.robot_id,
        started_at=row.started_at,
        outcome=Outcome(value=row.value, fell=row.fell, steps=row.steps, duration_s=row.duration_s, metrics=row.metrics)
        if reported
        else None,
        is_open=is_open,
    )
