"""The schedulers and searchers that a sweep can choose from, by name or with their options. Imports no Ray.

Periods count in the sweep's unit of progress: environment steps of PPO, epochs of imitation.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from cluster.config import Config

__all__ = [
    "AshaConfig",
    "BayesOptConfig",
    "FifoConfig",
    "GridConfig",
    "HyperbandConfig",
    "MedianConfig",
    "OptunaConfig",
    "Pb2Config",
    "PbtConfig",
    "RandomConfig",
    "Scheduler",
    "Searcher",
    "kind_or_mapping",
]


class AshaConfig(Config):
    """Asynchronous successive halving (Li et al. 2020): at each rung the best 1 in ``reduction_factor`` go on."""

    kind: Literal["asha"] = Field("asha", description="asha")
    grace_period: int | None = Field(None, ge=1, description="no trial is stopped before this much progress; null: a ninth of the budget")
    reduction_factor: float = Field(3.0, gt=1, description="one in this many trials passes each rung")


class HyperbandConfig(Config):
    """HyperBand (Li et al. 2018): successive halving in brackets of different aggressiveness; counts in reports."""

    kind: Literal["hyperband"] = Field("hyperband", description="hyperband")
    reduction_factor: float = Field(3.0, gt=1, description="one in this many trials passes each rung")


class MedianConfig(Config):
    """The median rule (Golovin et al. 2017): whose best is below the median of the others' running means is stopped."""

    kind: Literal["median"] = Field("median", description="median")
    grace_period: int | None = Field(None, ge=1, description="no trial is stopped before this much progress; null: a ninth of the budget")
    min_trials: int = Field(3, ge=1, description="trials that must have got as far for a median to count")


class PbtConfig(Config):
    """Population-based training (Jaderberg et al. 2017): the worst copy the best, and change."""

    kind: Literal["pbt"] = Field("pbt", description="pbt")
    perturbation_interval: int | None = Field(None, ge=1, description="progress between two comparisons; null: an eighth of the budget")
    burn_in: int = Field(0, ge=0, description="progress before the first comparison")
    quantile_fraction: float = Field(0.25, gt=0, le=0.5, description="share of the population that copies, and that is copied from")
    resample_probability: float = Field(0.25, ge=0, le=1, description="how often a parameter is drawn anew instead of scaled")
    perturbation_factors: tuple[float, float] = Field((1.2, 0.8), description="by which of the two a parameter is scaled")
    synchronous: bool = Field(False, description="everybody waits for everybody at each comparison; repeatable, slower")


class Pb2Config(Config):
    """Population-based bandits (Parker-Holder et al. 2020): as PBT, but a Gaussian process proposes the changes."""

    kind: Literal["pb2"] = Field("pb2", description="pb2")
    perturbation_interval: int | None = Field(None, ge=1, description="progress between two comparisons; null: an eighth of the budget")
    quantile_fraction: float = Field(0.25, gt=0, le=0.5, description="share of the population that copies, and that is copied from")


class FifoConfig(Config):
    """Nobody is stopped."""

    kind: Literal["fifo"] = Field("fifo", description="fifo")


class RandomConfig(Config):
    """Independent draws."""

    kind: Literal["random"] = Field("random", description="random")


class GridConfig(Config):
    """Every combination of the choices."""

    kind: Literal["grid"] = Field("grid", description="grid")


class OptunaConfig(Config):
    """Optuna's samplers."""

    kind: Literal["optuna"] = Field("optuna", description="optuna")
    sampler: Literal["tpe", "gp", "cma"] = Field(
        "tpe", description="tree-structured Parzen estimator, Gaussian process, or CMA-ES (needs the extra gaitway[cma])"
    )
    startup_trials: int = Field(8, ge=1, description="random draws before the sampler has something to learn from")


class BayesOptConfig(Config):
    """Bayesian optimisation with a Gaussian process over uniform domains (needs the extra gaitway[bayesopt])."""

    kind: Literal["bayesopt"] = Field("bayesopt", description="bayesopt")
    startup_trials: int = Field(8, ge=1, description="random draws before the process has something to learn from")


Scheduler = Annotated[
    AshaConfig | HyperbandConfig | MedianConfig | PbtConfig | Pb2Config | FifoConfig,
    Field(discriminator="kind"),
]
Searcher = Annotated[RandomConfig | GridConfig | OptunaConfig | BayesOptConfig, Field(discriminator="kind")]


def kind_or_mapping(value: Any) -> Any:
    """``asha`` -> ``{"kind": "asha"}``; null -> nobody is stopped; a mapping or a model stays."""
    if value is None:
        return {"kind": "fifo"}
    return {"kind": value} if isinstance(value, str) else value
