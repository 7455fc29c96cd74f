"""The ledger's lines: episodes as they are assigned, outcomes as they come in, and what a verdict may count of them.

An episode is recorded when it is assigned and takes the next ``sequence`` number of its comparison. A verdict reads outcomes in
that order, the order of assignment, and waits at an episode whose outcome is still to come: outcomes that arrive sooner are not
a random sample (a fall ends early), and reading them as they come would favour the arm whose bad episodes last longest. An
episode whose outcome has not come ``outcome_deadline_s`` after its start is missing; an outcome that comes later still is kept
and marked late, and changes nothing that a verdict has already counted.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, and_, insert, select, update
from sqlalchemy.exc import IntegrityError

from cluster.errors import StoreError
from cluster.store.database import Database
from cluster.store.models import (
    CountedEpisode,
    CountedOutcome,
    EpisodeRow,
    History,
    Outcome,
    OutcomeConflictError,
    UnknownComparisonError,
    UnknownEpisodeError,
)
from cluster.store.tables import comparisons, episodes, outcomes

__all__ = [
    "abandon_episodes",
    "comparison_history",
    "get_episode",
    "get_outcome",
    "outcomes_in_order",
    "past_outcomes",
    "record_episode",
    "record_outcome",
    "robot_assignment",
]

# A report may look while an outcome that made its deadline is still being committed: wait this much longer before giving up.
_COMMIT_GRACE_S = 5.0
SERVER_PREFIX = "server_"
"""Figures whose name begins so are those that the server measured itself."""
_NOTHING: Mapping[str, float] = {}
_HISTORY = (
    episodes.c.episode_id,
    episodes.c.sequence,
    episodes.c.arm,
    episodes.c.version,
    episodes.c.propensity,
    episodes.c.weights_version,
    episodes.c.robot_id,
    episodes.c.started_at,
    episodes.c.abandoned_at,
    outcomes.c.late,
    outcomes.c.value,
    outcomes.c.fell,
    outcomes.c.steps,
    outcomes.c.duration_s,
)


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

    In a comparison by robot, an episode gets the assignment of its robot's first episode in it, whatever was asked for: two replicas
    that begin with a robot at the same moment, one of them behind with the split, agree here, where one waits for the other.

    Returns:
        What is stored: ``episode``, or the assignment that it already had, or its robot's. The caller serves what is returned, so
        that an episode never changes its version, whatever happened to the weights meanwhile.

    Raises:
        UnknownComparisonError: there is no such comparison.
        StoreError: the comparison is by robot and the episode names none.
    """
    stored = get_episode(db, episode.policy, episode.episode_id)
    if stored is not None:
        return stored
    try:
        with db.write() as connection:
            sequence = None
            if episode.comparison_id is not None:
                # Holds the comparison's row to the end: its episodes are recorded one after the other.
                found = connection.execute(
                    update(comparisons)
                    .where(comparisons.c.id == episode.comparison_id)
                    .values(episode_count=comparisons.c.episode_count + 1)
                    .returning(comparisons.c.episode_count, comparisons.c.options)
                ).one_or_none()
                if found is None:
                    raise UnknownComparisonError(f"no comparison {episode.comparison_id!r}; `gaitway ab ls` lists them")
                sequence = found.episode_count
                if (found.options or {}).get("unit") == "robot":
                    episode = _as_its_robot(connection, episode)
            connection.execute(insert(episodes).values(sequence=sequence, **episode.model_dump()))
    except IntegrityError:
        # Another replica was first with the same episode.
        stored = get_episode(db, episode.policy, episode.episode_id)
        if stored is None:
            raise
        return stored
    return episode


def robot_assignment(db: Database, comparison_id: str, robot_id: str) -> EpisodeRow | None:
    """The first episode of a robot in a comparison; None when it has none yet."""
    with db.read() as connection:
        return _first_of_robot(connection, comparison_id, robot_id)


def record_outcome(db: Database, episode_id: str, outcome: Outcome, *, policy: str, server: Mapping[str, float] | None = None) -> bool:
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


def comparison_history(db: Database, comparison_id: str, now: datetime | None = None, figures: Collection[str] = ()) -> History:
    """What a verdict may count at this moment; a later call with no less time gone only ever appends to ``episodes``.

    Args:
        db: the database.
        comparison_id: the comparison.
        now: the moment, UTC; None: now.
        figures: which of the outcomes' figures to read, by name; those that the server measured begin with ``server_``. Reading
            all of them would take longer than everything else.
    """
    now = datetime.now(UTC) if now is None else now
    of_robot = [name for name in sorted(figures) if not name.startswith(SERVER_PREFIX)]
    of_server = [name.removeprefix(SERVER_PREFIX) for name in sorted(figures) if name.startswith(SERVER_PREFIX)]
    asked = [*(outcomes.c.metrics[name].as_float() for name in of_robot), *(outcomes.c.server[name].as_float() for name in of_server)]
    counted: list[CountedEpisode] = []
    assigned: list[CountedEpisode] = []
    in_flight = waiting = late = 0
    with db.read() as connection:
        deadline_s = connection.execute(select(comparisons.c.outcome_deadline_s).where(comparisons.c.id == comparison_id)).scalar()
        if deadline_s is None:
            raise UnknownComparisonError(f"no comparison {comparison_id!r}; `gaitway ab ls` lists them")
        limit_s = float(deadline_s) + _COMMIT_GRACE_S
        silent_since = now - timedelta(seconds=limit_s)
        rows = connection.execute(
            select(*_HISTORY, *asked)
            .select_from(
                episodes.outerjoin(outcomes, and_(episodes.c.policy == outcomes.c.policy, episodes.c.episode_id == outcomes.c.episode_id))
            )
            .where(episodes.c.comparison_id == comparison_id)
            .order_by(episodes.c.sequence)
        )
        for name, sequence, arm, version, propensity, split, robot, started_at, gone, is_late, value, fell, steps, took_s, *rest in rows:
            is_open = is_late is None and gone is None and started_at >= silent_since
            outcome, server = None, _NOTHING
            if is_late is not None and not is_late:
                metrics = _present(of_robot, rest) if of_robot else _NOTHING
                server = _present(of_server, rest[len(of_robot) :]) if of_server else _NOTHING
                outcome = CountedOutcome(value, fell, steps, took_s, metrics)
            episode = CountedEpisode(name, sequence, arm, version, propensity, split or 1, robot, started_at, outcome, is_open, server)
            assigned.append(episode)
            if is_open:
                in_flight += 1
            elif not in_flight:
                counted.append(episode)
            elif outcome is not None:
                waiting += 1
            late += bool(is_late)
    return History(counted, in_flight, waiting, late, assigned, now, limit_s)


def outcomes_in_order(db: Database, comparison_id: str) -> list[CountedEpisode]:
    """The episodes that a verdict counts now, in the order of assignment."""
    return comparison_history(db, comparison_id).episodes


def past_outcomes(db: Database, policy: str, version: str, metric: str, at_most: int = 5_000) -> list[tuple[float, str | None]]:
    """A version's latest outcomes in comparisons of one metric, each with its robot, the oldest first."""
    with db.read() as connection:
        rows = connection.execute(
            select(outcomes.c.value, episodes.c.robot_id)
            .join(episodes, and_(episodes.c.policy == outcomes.c.policy, episodes.c.episode_id == outcomes.c.episode_id))
            .join(comparisons, episodes.c.comparison_id == comparisons.c.id)
            .where(episodes.c.policy == policy, episodes.c.version == version, comparisons.c.metric == metric, ~outcomes.c.late)
            .order_by(outcomes.c.received_at.desc(), outcomes.c.episode_id)
            .limit(at_most)
        ).all()
    return [(row.value, row.robot_id) for row in reversed(rows)]


def _repeat(known_sha256: str, payload_sha256: str, episode_id: str) -> bool:
    if known_sha256 != payload_sha256:
        raise OutcomeConflictError(f"episode {episode_id!r} already has a different outcome; the first one counts")
    return False


def _present(names: Sequence[str], values: Sequence[float | None]) -> dict[str, float]:
    return {name: value for name, value in zip(names, values, strict=False) if value is not None}


def _as_its_robot(connection: Connection, episode: EpisodeRow) -> EpisodeRow:
    if episode.robot_id is None or episode.comparison_id is None:
        raise StoreError(f"episode {episode.episode_id!r}: comparison {episode.comparison_id} is by robot; give the robot_id")
    first = _first_of_robot(connection, episode.comparison_id, episode.robot_id)
    if first is None:
        return episode
    same = {name: getattr(first, name) for name in ("arm", "version", "propensity", "weights_version")}
    return episode.model_copy(update=same)


def _first_of_robot(connection: Connection, comparison_id: str, robot_id: str) -> EpisodeRow | None:
    row = connection.execute(
        select(episodes)
        .where(episodes.c.comparison_id == comparison_id, episodes.c.robot_id == robot_id)
        .order_by(episodes.c.sequence)
        .limit(1)
    ).one_or_none()
    return None if row is None else EpisodeRow.model_validate({name: row._mapping[name] for name in EpisodeRow.model_fields})


def _episode(connection: Connection, policy: str, episode_id: str) -> EpisodeRow | None:
    row = connection.execute(select(episodes).where(episodes.c.policy == policy, episodes.c.episode_id == episode_id)).one_or_none()
    return None if row is None else EpisodeRow.model_validate({name: row._mapping[name] for name in EpisodeRow.model_fields})
