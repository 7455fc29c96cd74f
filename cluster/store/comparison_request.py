"""What is asked for when a comparison starts, by the command line or over HTTP: arms by version or alias, before the registry was asked."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints, model_validator

from cluster.config import Config, parse_config
from cluster.errors import UsageError
from cluster.settings import Settings
from cluster.store.models import MAX_ARMS, Auto, Guardrail, NewComparison, RampStage, Unit

__all__ = ["AskedArm", "ComparisonRequest", "new_comparison"]

_FarAway = Annotated[float, Field(ge=-1e12, le=1e12)]
_Figure = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_./-]{0,127}$")]
_ArmName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
_Version = Annotated[str, StringConstraints(pattern=r"^@?[A-Za-z0-9][A-Za-z0-9._-]{0,126}$")]

_SHORT_FORM = frozenset({"champion", "challengers", "shadows", "share"})
"""What stands for ``arms``."""


class AskedArm(Config):
    """One arm as asked for."""

    name: _ArmName = Field(description="what the arm is called, such as champion")
    version: _Version = Field(description="registered version, or an alias such as @challenger")
    weight: float = Field(ge=0, le=1e6, description="share of the episodes, relative to the other arms'; 0 for a shadow")
    shadow: bool = Field(False, description="sees the traffic and never acts")


class ComparisonRequest(Config):
    """A comparison to start. Either ``arms``, or ``champion``, ``challengers`` and the ``share`` that these get together."""

    policy: str = Field("pidog-run", min_length=1, max_length=128, description="policy whose traffic is split")
    arms: tuple[AskedArm, ...] = Field(
        (), max_length=MAX_ARMS, description="the arm in service, then those that want its place; empty: champion and challengers"
    )
    champion: _Version = Field("champion", description="without arms: version or alias in service")
    challengers: tuple[_Version, ...] = Field(
        (),
        max_length=MAX_ARMS - 1,
        description="without arms: versions or aliases that want its place; empty: challenger, or none beside shadows",
    )
    shadows: tuple[_Version, ...] = Field(
        (), max_length=MAX_ARMS - 1, description="without arms: versions or aliases that see the traffic and never act"
    )
    share: float = Field(0.1, ge=0.01, le=0.99, description="without arms: share of the episodes that the challengers get together")
    metric: _Figure = Field("forward_velocity_m_s", description="outcome value that is compared, its unit as suffix; more is better")
    low: _FarAway = Field(-0.5, description="lowest value that the metric can take")
    high: _FarAway = Field(0.5, description="highest value that the metric can take")
    alpha: float = Field(0.05, ge=1e-6, lt=0.5, description="largest accepted probability of a wrong promotion, however often one looks")
    outcome_deadline_s: float = Field(
        300.0, gt=0, le=1e7, description="an outcome later than this after the start counts as missing, seconds"
    )
    guardrails: tuple[Guardrail, ...] = Field((), max_length=16, description="what no arm may do too often")
    max_episodes: int | None = Field(
        None, ge=2, le=10**9, description="episodes after which it pauses without a verdict; null: as long as it takes"
    )
    auto: Auto = Field("off", description="off, recommend, or promote: a verdict takes effect by itself")
    unit: Unit = Field("episode", description="what is assigned: every episode anew, or a robot with all its episodes")
    episodes_per_robot: int = Field(5, ge=1, le=10**6, description="assigned by robot: mean of how many episodes is one observation")
    ramp: tuple[RampStage, ...] = Field((), max_length=32, description="stages of the challengers' share; empty: none")
    bandit: bool = Field(False, description="whether better arms get more episodes while it runs")
    bandit_uniform_share: float = Field(0.2, gt=0, le=1, description="bandit: share of the episodes that is always split evenly")

    @model_validator(mode="after")
    def _check(self) -> ComparisonRequest:
        if not self.low < self.high:
            raise ValueError(f"low {self.low:g} must be below high {self.high:g}")
        if self.arms and not self.model_fields_set.isdisjoint(_SHORT_FORM):
            raise ValueError("arms say which versions and how much; give them, or champion, challengers, shadows and share, not both")
        return self

    def asked_arms(self) -> tuple[AskedArm, ...]:
        """``arms``, or those that champion, challengers, shadows and share mean; these are named by ``new_comparison``."""
        if self.arms:
            return self.arms
        challengers = self.challengers or (() if self.shadows else ("challenger",))
        return (
            AskedArm(name="champion", version=self.champion, weight=1.0 - self.share if challengers else 1.0),
            *(AskedArm(name="challenger", version=version, weight=self.share / len(challengers)) for version in challengers),
            *(AskedArm(name="shadow", version=version, weight=0.0, shadow=True) for version in self.shadows),
        )


def new_comparison(settings: Settings, request: ComparisonRequest) -> NewComparison:
    """The comparison that is meant: aliases become the versions that they name now.

    Raises:
        StoreError: a policy, version or alias is not registered.
        UsageError: two arms are the same version.
        ConfigError: the arms do not make a comparison.
    """
    from cluster.store.registry import get_version

    asked = request.asked_arms()
    versions = [str(get_version(settings, request.policy, arm.version).version) for arm in asked]
    for position, version in enumerate(versions):
        if version in versions[:position]:
            twins = [arm.version for arm, other in zip(asked, versions, strict=True) if other == version]
            raise UsageError(f"{' and '.join(twins)} are both version {version} of {request.policy}; give different ones")
    several = len(request.challengers) > 1
    arms = []
    for arm, version in zip(asked, versions, strict=True):
        # Of several challengers, and of shadows, only the version tells which is which.
        numbered = not request.arms and (arm.shadow or (several and arm.name == "challenger"))
        arms.append(arm.model_dump() | {"version": version, "name": f"{arm.name}-{version}" if numbered else arm.name})
    values = request.model_dump(exclude={"arms", *_SHORT_FORM})
    return parse_config(values | {"arms": arms}, NewComparison, source="comparison")
