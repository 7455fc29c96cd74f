"""Tune's schedulers from a sweep's configuration; all of them maximise ``score``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, HyperBandScheduler, MedianStoppingRule, TrialScheduler

from trainables.sweeps.choices import AshaConfig, HyperbandConfig, MedianConfig, Pb2Config, PbtConfig
from trainables.sweeps.config import SweepConfig
from trainables.sweeps.population import Population, PopulationBandits
from trainables.sweeps.records import Clone
from trainables.sweeps.reports import PROGRESS

__all__ = ["grace_period", "make_scheduler", "rungs"]


class _Past:
    """What a rung needs to know of a trial."""

    def __init__(self, trial_id: str) -> None:
        self.trial_id = trial_id


def grace_period(config: SweepConfig) -> int:
    """Progress before which nobody is stopped."""
    given = getattr(config.scheduler, "grace_period", None)
    return given or max(1, config.swept.budget // 9)


def rungs(config: SweepConfig) -> tuple[int, ...]:
    """Progress at which successive halving compares; empty for schedulers without rungs."""
    if not isinstance(config.scheduler, AshaConfig):
        return ()
    found, rung = [], float(grace_period(config))
    while rung < config.swept.budget:
        found.append(int(rung))
        rung *= config.scheduler.reduction_factor
    return tuple(found)


def make_scheduler(config: SweepConfig, past: Iterable[tuple[str, float, float]], add_clone: Callable[[Clone], None]) -> TrialScheduler:
    """The scheduler that the configuration names.

    Args:
        config: the sweep.
        past: (trial id, progress, score) of reports before a restart. Tune restores trials and searcher but not the scheduler:
            without the old rungs a restored sweep would stop nobody for a while.
        add_clone: called at each exploit of population-based training.
    """
    choice, swept = config.scheduler, config.swept
    if isinstance(choice, AshaConfig):
        scheduler = ASHAScheduler(
            time_attr=PROGRESS, max_t=swept.budget, grace_period=grace_period(config), reduction_factor=choice.reduction_factor
        )
        for trial_id, progress, score in past:
            scheduler._brackets[0].on_result(_Past(trial_id), progress, score)
        return scheduler
    if isinstance(choice, HyperbandConfig):
        # In reports: its brackets are powers of the reduction factor, and with environment steps most would end after a handful.
        reports = math.ceil(swept.budget / swept.report_interval) + 1
        return HyperBandScheduler(time_attr="training_iteration", max_t=max(2, reports), reduction_factor=choice.reduction_factor)
    if isinstance(choice, MedianConfig):
        return MedianStoppingRule(
            time_attr=PROGRESS, grace_period=grace_period(config), min_samples_required=choice.min_trials, min_time_slice=0
        )
    if isinstance(choice, (PbtConfig, Pb2Config)):
        return _population(config, choice, add_clone)
    return FIFOScheduler()


def _population(config: SweepConfig, choice: PbtConfig | Pb2Config, add_clone: Callable[[Clone], None]) -> TrialScheduler:
    options: dict[str, Any] = {
        "time_attr": PROGRESS,
        "perturbation_interval": choice.perturbation_interval or max(1, config.swept.budget // 8),
        "quantile_fraction": choice.quantile_fraction,
        "log_config": False,  # our own lineage replaces Tune's text files
    }
    if isinstance(choice, Pb2Config):
        bounds = {path: [float(bound) for bound in domain.form[1]] for path, domain in config.search_space.items()}
        return PopulationBandits(config.search_space, add_clone, hyperparam_bounds=bounds, **options)
    return Population(
        config.search_space,
        add_clone,
        burn_in_period=choice.burn_in,
        resample_probability=choice.resample_probability,
        perturbation_factors=choice.perturbation_factors,
        synch=choice.synchronous,
        **options,
    )
