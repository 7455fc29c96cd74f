"""What a sweep is: a training configuration, what varies in it, who is stopped when, and what counts as best. Imports no Ray."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from cluster.config import Config
from cluster.errors import ConfigError
from trainables.imitation.config import ImitationConfig
from trainables.ppo.config import PPOConfig
from trainables.sweeps.choices import (
    AshaConfig,
    BayesOptConfig,
    GridConfig,
    OptunaConfig,
    Pb2Config,
    PbtConfig,
    RandomConfig,
    Scheduler,
    Searcher,
    kind_or_mapping,
)
from trainables.sweeps.custom import CustomConfig
from trainables.sweeps.domain import Domain
from trainables.sweeps.swept import Swept, apply_sample

__all__ = ["Bound", "StopConfig", "SweepConfig"]


class Bound(Config):
    """What a figure must satisfy."""

    at_least: float | None = Field(None, description="smallest value allowed")
    at_most: float | None = Field(None, description="largest value allowed")

    def violation(self, value: float) -> float:
        """By how much ``value`` is outside; 0 inside."""
        below = max(0.0, self.at_least - value) if self.at_least is not None else 0.0
        above = max(0.0, value - self.at_most) if self.at_most is not None else 0.0
        return below + above


class StopConfig(Config):
    """When to stop besides the budget."""

    figures: dict[str, Bound] = Field(default_factory=dict, description="a trial ends once all these figures are within bounds")
    patience: int | None = Field(None, ge=1, description="a trial ends after this many reports without a better score")
    target: float | None = Field(None, description="the whole sweep ends as soon as one trial's metric gets here")


class SweepConfig(Config):
    """One sweep of trials under Ray Tune. What is swept: ``ppo`` (the default), ``imitation`` or ``custom``."""

    ppo: PPOConfig | None = Field(None, description="what all PPO trials share; total_env_steps is the budget of each")
    imitation: ImitationConfig | None = Field(None, description="what all imitation trials share; its first model is trained")
    custom: CustomConfig | None = Field(None, description="a Tune trainable of your own")
    search_space: dict[str, Domain] = Field(
        default_factory=dict, description="dotted parameter, such as learning_rate or task_config.reward.energy -> domain"
    )
    metric: str | None = Field(
        None, description="figure that ranks trials; null: evaluation/return of PPO, validation/loss of imitation, objective of custom"
    )
    mode: Literal["max", "min"] | None = Field(None, description="whether more of it is better; null: what fits the default metric")
    constraints: dict[str, Bound] = Field(
        default_factory=dict,
        description="figures that a good checkpoint must keep within bounds; one that does not ranks below all that do",
    )
    scheduler: Scheduler = Field(default_factory=AshaConfig, description="who is stopped or cloned when")
    searcher: Searcher = Field(default_factory=RandomConfig, description="who proposes configurations")
    num_trials: int = Field(4, ge=1, description="configurations to try; grid tries all of its own instead")
    seeds_per_configuration: int = Field(1, ge=1, description="trials of each configuration, which differ in their seed only")
    first_trial_as_written: bool = Field(True, description="the first configuration is the one written here, before any is drawn")
    max_concurrent_trials: int | None = Field(None, ge=1, description="trials at a time; null: as many as the CPUs allow")
    cpus_per_trial: float = Field(1.0, gt=0, description="CPUs of a trial's own process; env runners and learners come on top")
    max_failures: int = Field(1, ge=0, description="how often a trial is restarted from its last checkpoint after a failure")
    time_budget_s: float | None = Field(None, gt=0, description="stop all trials after this long; the best checkpoint so far counts")
    work_budget: int | None = Field(None, ge=1, description="stop when all trials together did this many env steps (epochs of imitation)")
    stop: StopConfig = Field(default_factory=StopConfig, description="stop rules besides the budgets")
    warm_start: str | None = Field(
        None, description="policy that PPO trials start from: a policy folder, a run folder, or models:/NAME/VERSION or models:/NAME@ALIAS"
    )
    storage: str | None = Field(
        None,
        description="folder or URL that all nodes reach, for trials' checkpoints; null: the run folder on one machine, "
        "GAITWAY_STORAGE_PATH on several",
    )
    seed: int = Field(0, ge=0, description="seed of the search; the trials themselves use their own configuration's")

    @field_validator("scheduler", "searcher", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        return kind_or_mapping(value)

    @property
    def swept(self) -> Swept:
        """What all trials share, and how a trial is made of it."""
        return Swept.of(self.ppo or self.imitation or self.custom or PPOConfig())

    @property
    def metric_name(self) -> str:
        """The metric, its default resolved."""
        return self.metric or self.swept.metric

    @property
    def direction(self) -> str:
        """``max`` or ``min``, its default resolved."""
        return self.mode or ("max" if self.metric else self.swept.mode)

    @property
    def total_trials(self) -> int:
        """Trials of the whole sweep, seeds counted one by one."""
        configurations = self.num_trials
        if isinstance(self.searcher, GridConfig):
            configurations = 1
            for domain in self.search_space.values():
                configurations *= len(domain.choice or ())
        return configurations * self.seeds_per_configuration

    @model_validator(mode="after")
    def _consistent(self) -> SweepConfig:
        given = [name for name in ("ppo", "imitation", "custom") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"give one of ppo, imitation, custom (given: {', '.join(given)})")
        swept = self.swept
        for path, domain in self.search_space.items():
            try:
                apply_sample(swept.base, {path: domain.example})
            except ConfigError as error:
                raise ValueError(f"search_space.{path}: {error}") from None
        if not self.search_space and self.num_trials > 1:
            raise ValueError("search_space is empty: several trials would be the same; name parameters to vary, or set num_trials: 1")
        if self.warm_start and not isinstance(swept.base, PPOConfig):
            raise ValueError("warm_start is for PPO trials")
        self._check_scheduler(swept)
        self._check_searcher()
        return self

    def _check_scheduler(self, swept: Swept) -> None:
        for name in ("grace_period", "perturbation_interval"):
            value = getattr(self.scheduler, name, None)
            if value is not None and value > swept.budget:
                raise ValueError(f"scheduler.{name} {value} must not be above a trial's budget of {swept.budget} {swept.unit}")
        if isinstance(self.scheduler, (PbtConfig, Pb2Config)):
            kind = self.scheduler.kind
            if not isinstance(self.searcher, RandomConfig):
                raise ValueError(f"scheduler {kind} explores by itself: it needs searcher random, given {self.searcher.kind}")
            if self.total_trials < 2 or not self.search_space:
                raise ValueError(f"scheduler {kind} needs a population of at least 2 trials and a search_space")
            if self.seeds_per_configuration > 1:
                raise ValueError(f"scheduler {kind} changes configurations as it goes: seeds_per_configuration must be 1")
        if isinstance(self.scheduler, Pb2Config):
            discrete = [path for path, domain in self.search_space.items() if domain.choice is not None]
            if discrete:
                raise ValueError(f"scheduler pb2 models continuous parameters only; {discrete[0]} is a choice: use pbt, or leave it out")

    def _check_searcher(self) -> None:
        for path, domain in self.search_space.items():
            if isinstance(self.searcher, GridConfig) and domain.choice is None:
                raise ValueError(f"searcher grid tries every value: search_space.{path} must be a choice")
            if isinstance(self.searcher, BayesOptConfig) and domain.uniform is None:
                raise ValueError(f"searcher bayesopt takes uniform domains only: search_space.{path} is another; use optuna")
            numeric = domain.choice is None or not any(isinstance(value, (list, dict)) for value in domain.choice)
            if isinstance(self.searcher, OptunaConfig) and not numeric:
                raise ValueError(f"searcher optuna takes choices of numbers, words and booleans: search_space.{path} holds others")
