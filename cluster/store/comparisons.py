"""Comparisons, their episodes and outcomes: the ledger that a verdict rests on.

An episode is recorded when it is assigned and takes the next ``sequence`` number of its comparison. A verdict reads outcomes in
that order, the order of assignment, and waits at an episode whose outcome is still to come: outcomes that arrive sooner are not
a random sample (a fall ends early), and reading them as they come would favour the arm whose bad episodes last longest. An
episode whose outcome has not come ``outcome_deadline_s`` after its start is missing; an outcome that comes later still is kept
and marked late, and changes nothing that a verdict has already counted.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, model_validator
from sqlalchemy import Connection, Row, and_, insert, select, update
from sqlalchemy.exc import IntegrityError

from cluster.config import Config
from cluster.errors import StoreError
from cluster.store.database import Database
from cluster.store.tables import arms, comparison_events, comparisons, episodes, outcomes

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

Status = Literal["running", "promoted", "kept", "stopped"]
ShortName = Annotated[str, StringConstraints(min_length=1, max_length=128)]

# A report may look while an outcome that made its deadline is still being committed: wait this much longer before giving up.
_COMMIT_GRACE_S = 5.0


class UnknownComparisonError(StoreError):
    """No comparison has this id."""


class UnknownEpisodeError(StoreError):
    """No episode with this id was assigned by this policy."""


class OutcomeConflictError(StoreError):
    """This episode already has a different outcome, or a different assignment."""


class Arm(Config):
    """One version's share of a comparison."""

    name: ShortName = Field(description="champion or challenger")
    version: ShortName = Field(description="registered version of the policy")
    weight: float = Field(ge=0, description="share of the episodes, relative to the other arms'")


class NewComparison(Config):
    """What is asked for when a comparison starts. The first arm is the one in service, the second wants its place."""

    policy: ShortName = Field(description="policy whose traffic is split")
    arms: tuple[Arm, ...] = Field(min_length=2, max_length=2, description="the champion, then the challenger")
    metric: ShortName = Field(description="name of the outcome's value, with its unit as suffix; more is better")
    low: float = Field(description="lowest value the metric can take; anything below is clipped and counted")
    high: float = Field(description="highest value the metric can take; anything above is clipped and counted")
    alpha: float = Field(0.05, gt=0, lt=1, description="largest accepted probability of a wrong decision, however often one looks")
    outcome_deadline_s: float = Field(300.0, gt=0, description="an outcome later than this after the start counts as missing, seconds")
    salt: str = Field("", max_length=64, description="key of the assignment hash; empty: a random one")

    @model_validator(mode="after")
    def _check(self) -> NewComparison:
        if not self.low < self.high:
            raise ValueError(f"low {self.low} must be below high {self.high}")
        if len({arm.name for arm in self.arms}) != len(self.arms):
            raise ValueError("two arms have the same name")
        if min(arm.weight for arm in self.arms) <= 0:
            raise ValueError("every arm needs a weight above 0: an arm without episodes cannot be compared")
        return self


class Comparison(NewComparison):
    """One comparison as stored."""

    id: str = Field(description="its key")
    status: Status = Field(description="running, or how it ended")
    created_at: datetime = Field(description="when it began, UTC")
    closed_at: datetime | None = Field(None, description="when it ended, UTC")
    applied_at: datetime | None = Field(None, description="when the registry's alias followed the decision, UTC")
    decision: dict[str, Any] | None = Field(None, description="what the decision rested on")
    episode_count: int = Field(0, description="episodes assigned so far")

    def arm(self, name: str) -> Arm:
        """An arm by name. Raises ``StoreError`` when there is none."""
        for arm in self.arms:
            if arm.name == name:
                return arm
        raise StoreError(f"comparison {self.id} has no arm {name!r}; it has {', '.join(arm.name for arm in self.arms)}")


class EpisodeRow(Config):
    """One assigned episode."""

    policy: ShortName = Field(description="policy that it called")
    episode_id: ShortName = Field(description="its key within the policy")
    version: ShortName = Field(description="version that drives it from its first step to its last")
    comparison_id: str | None = Field(None, description="comparison that assigned it; None: no comparison was running")
    arm: str | None = Field(None, description="arm within the comparison")
    propensity: float = Field(1.0, gt=0, le=1, description="probability with which this arm was drawn")
    robot_id: str | None = Field(None, max_length=128, description="robot that runs it, where it said so")
    started_at: datetime = Field(default_factory=lambda: datetime.now(UTC), description="when it was assigned, UTC")

    @model_validator(mode="after")
    def _arm_and_comparison(self) -> EpisodeRow:
        if (self.comparison_id is None) != (self.arm is None):
            raise ValueError("comparison_id and arm are given together or not at all")
        if self.arm is not None and self.propensity >= 1:
            raise ValueError("an arm that is drawn with certainty is not compared with anything: its propensity must be below 1")
        return self


class Outcome(Config):
    """How an episode ended."""

    value: float = Field(description="the comparison's metric, in its own units")
    fell: bool = Field(False, description="whether it ended in a fall")
    steps: int = Field(0, ge=0, le=2**31 - 1, description="control steps")
    duration_s: float = Field(0.0, ge=0, description="how long it took, seconds")
    metrics: dict[str, float] = Field(default_factory=dict, max_length=64, description="further figures by name")

    def sha256(self) -> str:
        """Equal for two outcomes exactly when they say the same."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class CountedEpisode:
    """One episode that a verdict counts, in the order of assignment."""

    episode_id: str
    sequence: int
    arm: str
    version: str
    propensity: float
    robot_id: str | None
    started_at: datetime
    outcome: Outcome | None
    """None: missing, given up at its deadline."""


@dataclass(frozen=True)
class History:
    """What a comparison has to show at one moment."""

    episodes: list[CountedEpisode]
    """The prefix of assigned episodes that have an outcome or are given up."""
    in_flight: int
    """Episodes without an outcome that may still bring one."""
    waiting: int
    """Outcomes that are here but stand behind an episode in flight."""
    late: int
    """Outcomes that came after their deadline."""


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


def get_episode(db: Database, policy: str, episode_id: str) -> EpisodeRow | None:
    """An episode's assignment as stored, or None."""
    with db.read() as connection:
        return _episode(connection, policy, episode_id)


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


def record_outcome(db: Database, episode_id: str, outcome: Outcome, *, policy: str) -> bool:
    """Store an episode's outcome; when this returns, it is on disk.

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
        comparison = _load(connection, comparisons.c.id == comparison_id)
        if not comparison:
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
    limit_s = comparison[0].outcome_deadline_s + _COMMIT_GRACE_S
    counted: list[CountedEpisode] = []
    in_flight = waiting = late = 0
    for row in rows:
        reported = row.late is not None and not row.late
        late += int(bool(row.late))
        given_up = row.late is not None or row.abandoned_at is not None or now > row.started_at + timedelta(seconds=limit_s)
        if not reported and not given_up:
            in_flight += 1
        elif in_flight:
            waiting += int(reported)
        else:
            counted.append(_counted(row, reported))
    return History(counted, in_flight, waiting, late)


def outcomes_in_order(db: Database, comparison_id: str) -> list[CountedEpisode]:
    """The episodes that a verdict counts now, in the order of assignment."""
    return comparison_history(db, comparison_id).episodes


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


def _repeat(known_sha256: str, payload_sha256: str, episode_id: str) -> bool:
    if known_sha256 != payload_sha256:
        raise OutcomeConflictError(f"episode {episode_id!r} already has a different outcome; the first one counts")
    return False


def _load(connection: Connection, condition: Any) -> list[Comparison]:
    query = select(comparisons).order_by(comparisons.c.created_at.desc(), comparisons.c.id)
    rows = connection.execute(query if condition is None else query.where(condition)).all()
    wanted = [row.id for row in rows]
    shares: dict[str, list[Arm]] = {key: [] for key in wanted}
    for arm in connection.execute(select(arms).where(arms.c.comparison_id.in_(wanted)).order_by(arms.c.position)):
        shares[arm.comparison_id].append(Arm(name=arm.name, version=arm.version, weight=arm.weight))
    return [Comparison.model_validate({**row._mapping, "arms": tuple(shares[row.id])}) for row in rows]


def _episode(connection: Connection, policy: str, episode_id: str) -> EpisodeRow | None:
    row = connection.execute(select(episodes).where(episodes.c.policy == policy, episodes.c.episode_id == episode_id)).one_or_none()
    return None if row is None else EpisodeRow.model_validate({name: row._mapping[name] for name in EpisodeRow.model_fields})


def _counted(row: Row[Any], reported: bool) -> CountedEpisode:
    return CountedEpisode(
        episode_id=row.episode_id,
        sequence=row.sequence,
        arm=row.arm,
        version=row.version,
        propensity=row.propensity,
        robot_id=row.robot_id,
        started_at=row.started_at,
        outcome=Outcome(value=row.value, fell=row.fell, steps=row.steps, duration_s=row.duration_s, metrics=row.metrics)
        if reported
        else None,
    )


def _log(connection: Connection, comparison_id: str, kind: str, detail: dict[str, Any]) -> None:
    connection.execute(insert(comparison_events).values(comparison_id=comparison_id, at=datetime.now(UTC), kind=kind, detail=detail))
