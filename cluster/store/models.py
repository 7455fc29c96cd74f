"""Comparisons, arms, episodes and outcomes as values, and the errors that speak of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, StringConstraints, model_validator

from cluster.config import Config
from cluster.errors import StoreError

__all__ = [
    "MAX_ARMS",
    "OPTIONS",
    "Arm",
    "Auto",
    "Comparison",
    "CountedEpisode",
    "CountedOutcome",
    "EpisodeRow",
    "Guardrail",
    "History",
    "NewComparison",
    "Outcome",
    "OutcomeConflictError",
    "RampStage",
    "Status",
    "Unit",
    "UnknownComparisonError",
    "UnknownEpisodeError",
    "Weights",
]

Status = Literal["running", "paused", "promoted", "kept", "stopped"]
Auto = Literal["off", "recommend", "promote"]
Unit = Literal["episode", "robot"]
OPTIONS = ("unit", "episodes_per_robot", "ramp", "bandit", "bandit_uniform_share", "plan")
"""Fields of a comparison that are stored together: no query looks at them."""
MAX_ARMS = 4
ShortName = Annotated[str, StringConstraints(min_length=1, max_length=128)]


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
    weight: float = Field(ge=0, description="share of the episodes, relative to the other arms'; 0 for a shadow")
    shadow: bool = Field(False, description="sees the traffic and never acts: its actions are compared with those that were taken")


class RampStage(Config):
    """One step of a ramp: how much traffic the challengers get together, and how long at least."""

    share: float = Field(
        gt=0, lt=1, description="share of the episodes that the challengers get together; all of it is the verdict's to give"
    )
    episodes: int = Field(ge=1, description="counted episodes, drawn with this share, after which the next stage begins")


class Guardrail(Config):
    """What no arm may do too often, whatever its metric: a share of episodes, with an anytime-valid test of its own for each arm."""

    name: ShortName = Field(
        description="fell: the episode ended in a fall; missing: no outcome came; server_NAME: a figure that the server measured, "
        "such as server_latency_p99_ms or server_error_steps; else a figure of the outcome's metrics"
    )
    above: float | None = Field(None, description="an episode counts when the figure is above this; for fell and missing: None")
    at_most: float = Field(gt=0, lt=1, description="share of an arm's episodes that may count")
    alpha: float = Field(0.05, gt=0, lt=0.5, description="largest accepted probability of calling an arm that keeps within it a breach")

    @model_validator(mode="after")
    def _check(self) -> Guardrail:
        if (self.name in ("fell", "missing")) != (self.above is None):
            raise ValueError(f"guardrail {self.name}: a figure needs above, fell and missing have none")
        if '"' in self.name:
            raise ValueError(f"guardrail {self.name}: a figure's name has no quotation marks")
        return self


class Weights(Config):
    """How new episodes were split from one moment on."""

    version: int = Field(ge=1, description="counts the changes, from 1")
    at: datetime = Field(description="UTC")
    weights: dict[str, float] = Field(description="arm -> weight, relative to the others'")
    reason: str = Field(description="why, in words")
    actor: str = Field(description="who changed them")

    def share(self, arm: str, among: Sequence[str] | None = None) -> float:
        """Probability of an arm, given that it is one of ``among``; 0 when none of these has a weight."""
        total = sum(self.weights[name] for name in (among or self.weights))
        return self.weights[arm] / total if total > 0 else 0.0


class NewComparison(Config):
    """What is asked for when a comparison starts. The first arm is the one in service, the others want its place."""

    policy: ShortName = Field(description="policy whose traffic is split")
    arms: tuple[Arm, ...] = Field(min_length=2, max_length=MAX_ARMS, description="the champion, then the challengers")
    metric: ShortName = Field(description="name of the outcome's value, with its unit as suffix; more is better")
    low: float = Field(description="lowest value the metric can take; anything below is clipped and counted")
    high: float = Field(description="highest value the metric can take; anything above is clipped and counted")
    alpha: float = Field(0.05, gt=0, lt=0.5, description="largest accepted probability of a wrong promotion, however often one looks")
    outcome_deadline_s: float = Field(300.0, gt=0, description="an outcome later than this after the start counts as missing, seconds")
    guardrails: tuple[Guardrail, ...] = Field((), description="what no arm may do too often; a challenger that does gets no more episodes")
    max_episodes: int | None = Field(None, ge=2, description="episodes after which it pauses without a verdict; None: as long as it takes")
    auto: Auto = Field(
        "off", description="what is done about a verdict: off and recommend: nothing but saying so; promote: it takes effect"
    )
    salt: str = Field("", max_length=64, description="key of the assignment hash; empty: a random one")
    unit: Unit = Field("episode", description="what is assigned: every episode anew, or a robot with all its episodes")
    episodes_per_robot: int = Field(5, ge=1, description="assigned by robot: mean of how many of its episodes is its one observation")
    ramp: tuple[RampStage, ...] = Field((), description="stages of the challengers' share; empty: the arms' weights from the start")
    bandit: bool = Field(False, description="whether better arms get more episodes while it runs")
    bandit_uniform_share: float = Field(
        0.2, gt=0, le=1, description="bandit: share of the episodes that is split evenly whatever the evidence"
    )

    @model_validator(mode="after")
    def _check(self) -> NewComparison:
        if not self.low < self.high:
            raise ValueError(f"low {self.low} must be below high {self.high}")
        if len({arm.name for arm in self.arms}) != len(self.arms):
            raise ValueError("two arms have the same name")
        if type(self) is NewComparison and any((arm.weight > 0) == arm.shadow for arm in self.arms):
            raise ValueError("every arm needs a weight above 0, a shadow one of 0: an arm without episodes cannot be compared")
        if self.arms[0].shadow:
            raise ValueError(f"arm {self.arms[0].name}: the first arm is the one in service and cannot be a shadow")
        if self.ramp and self.bandit:
            raise ValueError("ramp and bandit: both set the split; give one of them")
        if (self.ramp or self.bandit) and not self.challengers:
            raise ValueError("ramp and bandit: they move the challengers' share, and all arms but the first are shadows")
        shares = [stage.share for stage in self.ramp]
        if shares != sorted(set(shares)):
            raise ValueError(f"ramp {shares}: each stage's share must be above the one before")
        return self

    @property
    def acting_arms(self) -> tuple[Arm, ...]:
        """The arms that get episodes and are compared: all but the shadows."""
        return tuple(arm for arm in self.arms if not arm.shadow)

    @property
    def challengers(self) -> tuple[Arm, ...]:
        """The acting arms that want the champion's place; none: nothing is compared."""
        return self.acting_arms[1:]

    def at_stage(self, stage: RampStage) -> dict[str, float]:
        """Weights of a ramp's stage: the challengers have its share together, divided as their weights here are."""
        together = sum(arm.weight for arm in self.challengers)
        weights = {arm.name: stage.share * arm.weight / together for arm in self.challengers}
        return {arm.name: weights.get(arm.name, 0.0) for arm in self.arms} | {self.arms[0].name: 1.0 - stage.share}


class Comparison(NewComparison):
    """One comparison as stored; its arms with the weights that hold now."""

    id: str = Field(description="its key")
    status: Status = Field(description="running, or how it ended")
    created_at: datetime = Field(description="when it began, UTC")
    closed_at: datetime | None = Field(None, description="when it ended, UTC")
    applied_at: datetime | None = Field(None, description="when the registry's alias followed the decision, UTC")
    decision: dict[str, Any] | None = Field(None, description="what the decision rested on")
    episode_count: int = Field(0, description="episodes assigned so far")
    weights: tuple[Weights, ...] = Field((), description="every split so far, the first first")
    plan: dict[str, Any] | None = Field(None, description="what it could be expected to find, and after how many episodes, when it began")

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
    weights_version: int | None = Field(None, description="which of the comparison's weights it was drawn with")
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


class CountedOutcome(NamedTuple):
    """An outcome as a verdict reads it; see ``Outcome``. A tuple: a look makes one of each of thousands of rows."""

    value: float
    fell: bool
    steps: int
    duration_s: float
    metrics: Mapping[str, float]
    """Figures that were asked for."""


class CountedEpisode(NamedTuple):
    """One episode that a verdict counts, in the order of assignment."""

    episode_id: str
    sequence: int
    arm: str
    version: str
    propensity: float
    weights_version: int
    robot_id: str | None
    started_at: datetime
    outcome: CountedOutcome | None
    """None: missing, given up at its deadline; or still open."""
    is_open: bool = False
    """Whether it may still bring an outcome; a verdict waits for it, a guardrail takes it for harmless so far."""
    server: Mapping[str, float] = {}
    """What the server measured while it drove the episode, by name, as far as it was asked for."""


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
    assigned: list[CountedEpisode]
    """All of them, those that are open and those behind them included."""
    now: datetime
    """The moment, UTC."""
    limit_s: float
    """Seconds after which a silent episode is given up."""
