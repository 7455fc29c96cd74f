"""Tune's searchers from a sweep's configuration; all of them maximise ``score``."""

from __future__ import annotations

import importlib.util
from typing import Any

from cluster.errors import UsageError
from trainables.sweeps.choices import BayesOptConfig, GridConfig, OptunaConfig
from trainables.sweeps.config import SweepConfig
from trainables.sweeps.score import SCORE
from trainables.sweeps.swept import sample_default

__all__ = ["SEED", "check_packages", "make_search", "tune_space"]

SEED = "_seed"
"""Tune parameter: which of a configuration's seeds a trial uses, 0, 1, .."""
_REPEAT = "__trial_index__"
"""The same as Tune's Repeater writes it."""


def check_packages(config: SweepConfig) -> None:
    """Raise ``UsageError`` naming the extra to install when the searcher needs a package that is not there."""
    searcher = config.searcher
    if isinstance(searcher, OptunaConfig) and searcher.sampler == "cma" and importlib.util.find_spec("cmaes") is None:
        raise UsageError("searcher optuna with sampler cma needs the package cmaes: pip install 'gaitway[cma]'")
    if isinstance(searcher, BayesOptConfig) and importlib.util.find_spec("bayes_opt") is None:
        raise UsageError("searcher bayesopt needs the package bayesian-optimization: pip install 'gaitway[bayesopt]'")


def tune_space(config: SweepConfig) -> dict[str, Any]:
    """The search space as Tune takes it: dotted parameter -> domain, and the seeds of each configuration."""
    from ray import tune

    grid = isinstance(config.searcher, GridConfig)
    space = {
        path: tune.grid_search(list(domain.choice or ())) if grid else domain.for_tune() for path, domain in config.search_space.items()
    }
    seeds = config.seeds_per_configuration
    if seeds > 1 and not isinstance(config.searcher, (OptunaConfig, BayesOptConfig)):
        space[SEED] = tune.grid_search(list(range(seeds)))
    return space


def seed_index(tune_config: dict[str, Any]) -> int:
    """Which of its configuration's seeds a trial uses."""
    return int(tune_config.get(SEED, tune_config.get(_REPEAT, 0)))


def parameters(tune_config: dict[str, Any]) -> dict[str, Any]:
    """A trial's dotted parameters, without our bookkeeping."""
    return {path: value for path, value in tune_config.items() if path not in (SEED, _REPEAT)}


def make_search(config: SweepConfig, concurrent: int) -> tuple[Any, int]:
    """The search algorithm, and ``num_samples`` for Tune.

    Args:
        config: the sweep.
        concurrent: trials that fit on the cluster at a time; a searcher that learns must not propose more than are under way.
    """
    from ray import tune
    from ray.tune.search import ConcurrencyLimiter, Repeater

    searcher, seeds = config.searcher, config.seeds_per_configuration
    points = _written_points(config)
    limit = min(config.max_concurrent_trials or concurrent, concurrent)
    if isinstance(searcher, (OptunaConfig, BayesOptConfig)):
        learning = _optuna(config, searcher, points) if isinstance(searcher, OptunaConfig) else _bayesopt(config, searcher, points)
        if seeds > 1:
            learning = Repeater(learning, repeat=seeds)
        return ConcurrencyLimiter(learning, max_concurrent=max(1, limit)), config.total_trials
    basic = tune.search.BasicVariantGenerator(
        points_to_evaluate=None if isinstance(searcher, GridConfig) else points,
        max_concurrent=config.max_concurrent_trials or 0,
        constant_grid_search=True,  # the seeds of one configuration share its draws
        random_state=config.seed,
    )
    return basic, 1 if isinstance(searcher, GridConfig) else config.num_trials


def _written_points(config: SweepConfig) -> list[dict[str, Any]] | None:
    """The configuration as written, to be tried first; a parameter without a value, or outside its domain, is drawn like the others."""
    if not config.search_space or not config.first_trial_as_written:
        return None
    base, learning = config.swept.base, isinstance(config.searcher, (OptunaConfig, BayesOptConfig))
    values = {path: sample_default(base, path) for path in config.search_space}
    point = {
        path: value for path, value in values.items() if value is not None and (not learning or config.search_space[path].holds(value))
    }
    whole = len(point) == len(values) or not learning
    return [point] if point and whole else None


def _optuna(config: SweepConfig, searcher: OptunaConfig, points: list[dict[str, Any]] | None) -> Any:
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    startup, seed = searcher.startup_trials, config.seed
    if searcher.sampler == "tpe":
        sampler: Any = optuna.samplers.TPESampler(n_startup_trials=startup, seed=seed, multivariate=True, constant_liar=True)
    elif searcher.sampler == "gp":
        sampler = optuna.samplers.GPSampler(n_startup_trials=startup, seed=seed)
    else:
        sampler = optuna.samplers.CmaEsSampler(n_startup_trials=startup, seed=seed)
    return OptunaSearch(metric=SCORE, mode="max", sampler=sampler, points_to_evaluate=points)


def _bayesopt(config: SweepConfig, searcher: BayesOptConfig, points: list[dict[str, Any]] | None) -> Any:
    from ray.tune.search.bayesopt import BayesOptSearch

    return BayesOptSearch(
        metric=SCORE, mode="max", points_to_evaluate=points, random_search_steps=searcher.startup_trials, random_state=config.seed
    )
