"""What a sweep is: a PPO configuration, what varies in it, who is stopped when, and what counts as best. Imports no Ray."""

from __future__ import annotations

import difflib
from typing import Any, Literal

from pydantic import Field, model_validator

from cluster.config import Config, parse_config
from cluster.errors import ConfigError
from trainables.ppo.config import PPOConfig

__all__ = ["AshaConfig", "Bound", "Domain", "SweepConfig", "apply_sample", "sample_default"]


class Domain(Config):
    """Where one parameter is drawn from; exactly one of the forms."""

    uniform: tuple[float, float] | None = Field(None, description="evenly between low and high")
    loguniform: tuple[float, float] | None = Field(None, description="evenly between low and high on a logarithmic scale")
    choice: tuple[Any, ...] | None = Field(None, min_length=1, description="one of these values")
    randint: tuple[int, int] | None = Field(None, description="a whole number from low up to, not including, high")

    @model_validator(mode="after")
    def _one_form(self) -> Domain:
        given = {name: value for name, value in self if value is not None}
        if len(given) != 1:
            raise ValueError(f"give exactly one of uniform, loguniform, choice, randint (given: {', '.join(given) or 'none'})")
        name, value = next(iter(given.items()))
        if name != "choice" and not value[0] < value[1]:
            raise ValueError(f"{name} needs low < high, given {list(value)}")
        if name == "loguniform" and value[0] <= 0:
            raise ValueError(f"loguniform needs low > 0, given {list(value)}")
        return self

    @property
    def example(self) -> Any:
        """A value in the domain, to check that the parameter exists and takes it."""
        for _, value in self:
            if value is not None:
                return value[0]
        raise AssertionError("a domain has one form")


class AshaConfig(Config):
    """Asynchronous successive halving (Li et al. 2020)."""

    grace_period_env_steps: int = Field(50_000, ge=1, description="no trial is stopped before this many environment steps")
    reduction_factor: float = Field(3.0, gt=1, description="one in this many trials passes each rung")


class Bound(Config):
    """What a figure must satisfy."""

    at_least: float | None = Field(None, description="smallest value allowed")
    at_most: float | None = Field(None, description="largest value allowed")

    def violation(self, value: float) -> float:
        """By how much ``value`` is outside; 0 inside."""
        below = max(0.0, self.at_least - value) if self.at_least is not None else 0.0
        above = max(0.0, value - self.at_most) if self.at_most is not None else 0.0
        return below + above


class SweepConfig(Config):
    """One sweep of PPO trials under ASHA."""

    ppo: PPOConfig = Field(default_factory=PPOConfig, description="what all trials share; total_env_steps is the budget of each")
    search_space: dict[str, Domain] = Field(
        default_factory=dict, description="dotted PPO parameter, such as learning_rate or task_config.reward.energy -> domain"
    )
    metric: str = Field("evaluation/return", description="reported figure that ranks checkpoints and trials")
    mode: Literal["max", "min"] = Field("max", description="whether more of the metric is better")
    constraints: dict[str, Bound] = Field(
        default_factory=dict,
        description="figures that a good checkpoint must keep within bounds; one that does not ranks below all that do",
    )
    num_trials: int = Field(4, ge=1, description="trials; the first runs the configuration as written")
    scheduler: AshaConfig | None = Field(default_factory=AshaConfig, description="early stopping; null: every trial runs to its end")
    max_concurrent_trials: int | None = Field(None, ge=1, description="trials at a time; null: as many as the CPUs allow")
    cpus_per_trial: float = Field(1.0, gt=0, description="CPUs of a trial's own process; env runners come on top, one each")
    max_failures: int = Field(1, ge=0, description="how often a trial is restarted from its last checkpoint after a failure")
    time_budget_s: float | None = Field(None, gt=0, description="stop all trials after this long; the best checkpoint so far counts")
    seed: int = Field(0, ge=0, description="seed of the search; the trials themselves use ppo.seed")

    @model_validator(mode="after")
    def _consistent(self) -> SweepConfig:
        if self.scheduler and self.scheduler.grace_period_env_steps > self.ppo.total_env_steps:
            raise ValueError(
                f"scheduler.grace_period_env_steps {self.scheduler.grace_period_env_steps} must not be above "
                f"ppo.total_env_steps {self.ppo.total_env_steps}"
            )
        for path, domain in self.search_space.items():
            try:
                apply_sample(self.ppo, {path: domain.example})
            except ConfigError as error:
                raise ValueError(f"search_space.{path}: {error}") from None
        if self.num_trials > 1 and not self.search_space:
            raise ValueError("search_space is empty: several trials would be the same; name parameters to vary, or set num_trials: 1")
        return self


def apply_sample(ppo: PPOConfig, sample: dict[str, Any]) -> PPOConfig:
    """``ppo`` with the dotted parameters of one trial. Raises ``ConfigError`` for an unknown parameter or a value out of range."""
    data = ppo.model_dump(mode="python")
    for path, value in sample.items():
        head, *rest = path.split(".")
        if head not in PPOConfig.model_fields:
            near = difflib.get_close_matches(head, PPOConfig.model_fields, n=1)
            raise ConfigError(f"unknown parameter {path!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
        node, key = data, head
        for part in rest:
            node = node.setdefault(key, {})
            key = part
            if not isinstance(node, dict):
                raise ConfigError(f"unknown parameter {path!r}: {head} has no keys")
        node[key] = value
    resolved = parse_config(data, PPOConfig, source="trial")
    _task_config(resolved)
    return resolved


def sample_default(ppo: PPOConfig, path: str) -> Any:
    """The value of a dotted parameter as written or as its default; None when it has none."""
    value: Any = ppo
    for part in path.split("."):
        if isinstance(value, PPOConfig) and part == "task_config":
            value = _task_config(value)
        elif isinstance(value, dict):
            value = value.get(part)
        else:
            value = getattr(value, part, None)
    return value


def _task_config(ppo: PPOConfig) -> Any:
    """The task's own configuration with its defaults, checked."""
    from trainables.envs.vector import validate_task_config

    return validate_task_config(ppo.task, ppo.task_config)
