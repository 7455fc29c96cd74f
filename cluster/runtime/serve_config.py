"""``configs/serve/*.yaml``: what is served, how traffic is split, and on how many replicas."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from cluster.config import Config
from cluster.runtime.served import FeedbackConfig
from cluster.store.models import MAX_ARMS, Auto, Guardrail, RampStage, Unit

__all__ = ["ServeConfig", "ServedOptions", "ServedPolicyConfig", "SplitConfig"]


class SplitConfig(Config):
    """The comparison to start when the policy has none running; one that runs already is continued as it is."""

    arms: dict[str, float] = Field(
        description="alias -> share of the episodes; the first is the version in service, the others want its place"
    )
    metric: str = Field(description="value of an episode's outcome that is compared, with its unit as suffix; more is better")
    low: float = Field(description="lowest value that the metric can take")
    high: float = Field(description="highest value that the metric can take")
    alpha: float = Field(0.05, gt=0, lt=0.5, description="largest accepted probability of a wrong promotion")
    outcome_deadline_s: float = Field(
        300.0, gt=0, description="an outcome later than this after its episode began counts as missing, seconds"
    )

    guardrails: tuple[Guardrail, ...] = Field((), description="what no arm may do too often; a challenger that does gets no more episodes")
    max_episodes: int | None = Field(None, ge=2, description="episodes after which it pauses without a verdict; null: as long as it takes")
    auto: Auto = Field("off", description="off | recommend: a verdict waits for `gaitway ab promote`; promote: it takes effect by itself")
    unit: Unit = Field("episode", description="episode: every one is assigned anew; robot: a robot is, with all its episodes")
    episodes_per_robot: int = Field(5, ge=1, description="assigned by robot: mean of how many of its episodes is its one observation")
    ramp: tuple[RampStage, ...] = Field((), description="stages of the share that the arms after the first get together")
    bandit: bool = Field(False, description="whether better arms get more episodes while it runs")
    bandit_uniform_share: float = Field(0.2, gt=0, le=1, description="bandit: share of the episodes that is split evenly")

    @model_validator(mode="after")
    def _check(self) -> SplitConfig:
        if not 2 <= len(self.arms) <= MAX_ARMS or min(self.arms.values(), default=0.0) <= 0:
            raise ValueError(f"arms {self.arms}: give 2 to {MAX_ARMS} aliases, each with a share above 0")
        if not self.low < self.high:
            raise ValueError(f"low {self.low} must be below high {self.high}")
        if self.ramp and self.bandit:
            raise ValueError("ramp and bandit: both set the split; give one of them")
        return self


class ServedPolicyConfig(Config):
    """One policy behind the endpoint."""

    policy: str = Field("pidog-run", description="policy name in the registry")
    default: str = Field("champion", description="alias or number of the version that serves episodes outside a comparison")
    split: SplitConfig | None = Field(None, description="comparison to start; None: start none")
    feedback: FeedbackConfig | None = Field(None, description="which served episodes are written as datasets; None: none")


class ServedOptions(Config):
    """What every replica is told."""

    policies: tuple[ServedPolicyConfig, ...] = Field((ServedPolicyConfig(),), min_length=1, description="what is served")
    max_body_bytes: int = Field(1 << 16, ge=1 << 10, description="largest request body or session frame accepted")
    requests_per_s: float = Field(
        20_000.0, gt=0, description="steps and requests a second, in each replica, of one token that has no limit of its own"
    )

    @model_validator(mode="after")
    def _different_policies(self) -> ServedOptions:
        names = [policy.policy for policy in self.policies]
        if len(set(names)) != len(names):
            raise ValueError(f"policies {names}: each may stand once")
        return self


class ServeConfig(ServedOptions):
    """The endpoint. Where it listens is ``GAITWAY_HTTP_HOST`` and ``GAITWAY_HTTP_PORT``."""

    num_replicas: int = Field(1, ge=1, le=256, description="replicas; each holds every live version")
    cpus_per_replica: float = Field(0.0, ge=0, description="CPUs reserved for each; 0: start also while training holds all of them")
    max_ongoing_requests: int = Field(
        1024, ge=1, description="requests under way in one replica before others wait; an open session is one"
    )
    haproxy: Literal["auto", "on", "off"] = Field(
        "auto", description="HAProxy in front, or Serve's own proxy; auto: HAProxy where it is installed"
    )
    proxies: Literal["HeadOnly", "EveryNode"] = Field("HeadOnly", description="nodes that accept requests; EveryNode: each with a replica")
    start_timeout_s: float = Field(90.0, gt=0, description="longest wait until the endpoint answers, seconds")

    @field_validator("haproxy", mode="before")
    @classmethod
    def _yaml_truth(cls, value: object) -> object:
        """YAML reads a bare ``on`` or ``off`` as true or false."""
        return {True: "on", False: "off"}.get(value, value) if isinstance(value, bool) else value
