"""Population-based training that stays inside the search space and tells who copied whom.

What an exploit copies is a checkpoint: weights, optimizer, statistics and counters. What it explores is the donor's configuration;
``PPOLearner.set_state`` sees to it that an explored learning rate is in force from the first update after the clone.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import PopulationBasedTraining, TrialScheduler
from ray.tune.schedulers.pb2 import PB2
from sklearn.exceptions import ConvergenceWarning

from trainables.sweeps.domain import Domain
from trainables.sweeps.records import Clone, now

__all__ = ["Population", "PopulationBandits"]


class _Lineage:
    """Mixed into Tune's schedulers: bounds what was explored, records every exploit."""

    _domains: Mapping[str, Domain]
    _add_clone: Callable[[Clone], None]

    def _exploit(self, tune_controller: Any, trial: Trial, trial_to_clone: Trial) -> None:
        donor_config = dict(trial_to_clone.config)
        progress = self._trial_state[trial].last_train_time  # type: ignore[attr-defined]
        donor_progress = (self._trial_state[trial_to_clone].last_result or {}).get(self._time_attr, 0)  # type: ignore[attr-defined]
        super()._exploit(tune_controller, trial, trial_to_clone)  # type: ignore[misc]
        changes = {path: (donor_config[path], trial.config[path]) for path in self._domains if trial.config[path] != donor_config[path]}
        self._add_clone(Clone(now(), trial.trial_id, trial_to_clone.trial_id, int(progress), int(donor_progress), changes))

    def _get_new_config(self, trial: Trial, trial_to_clone: Trial) -> tuple[dict[str, Any], dict[str, Any]]:
        config, operations = super()._get_new_config(trial, trial_to_clone)  # type: ignore[misc]
        # A factor of 1.2 leaves the search space sooner or later, and a PPO configuration that is not valid would end the trial.
        return {key: self._domains[key].nearest(value) if key in self._domains else value for key, value in config.items()}, operations


class Population(_Lineage, PopulationBasedTraining):
    """PBT over ``search_space``.

    Synchronous, everybody pauses at the same progress, and all are compared once the last one has. Tune would let whoever arrives last
    call the others together. Those that are still saving it then ends at their next checkpoint, for a decision to stop stays behind
    when it takes a trial's save away; and when the one that is waited for has failed, was stopped or had enough, or stands elsewhere
    because its driver was killed, it waits for ever.
    """

    def __init__(self, search_space: Mapping[str, Domain], add_clone: Callable[[Clone], None], **options: Any) -> None:
        self._domains, self._add_clone = search_space, add_clone
        # A list: explored by moving to a neighbour. Tune would multiply the values of its own `choice` by a factor.
        mutations = {path: list(domain.choice) if domain.choice is not None else domain.for_tune() for path, domain in search_space.items()}
        super().__init__(hyperparam_mutations=mutations, **options)

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """A trial joins, a new one or one that a killed driver left."""
        super().on_trial_add(tune_controller, trial)
        if not trial.is_finished():  # of a restored population the next meeting is where nobody has been yet
            self._meet_after((trial.last_result or {}).get(self._time_attr, 0))

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Whether the trial goes on after a report."""
        if not self._synch:
            return super().on_trial_result(tune_controller, trial, result)
        if result[self._time_attr] < self._next_perturbation_sync:
            return TrialScheduler.CONTINUE
        self._save_trial_state(self._trial_state[trial], result[self._time_attr], result, trial)
        return TrialScheduler.PAUSE

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """Who runs next; synchronous, the comparison comes first when everybody has paused for it."""
        chosen = super().choose_trial_to_run(tune_controller)
        if chosen is not None or not self._synch:
            return chosen
        waiting = [trial for trial in tune_controller.get_trials() if not trial.is_finished()]
        if not waiting or any(trial.status != Trial.PAUSED for trial in waiting):
            return None
        worst, best = self._quantiles()
        for trial in sorted(waiting, key=worst.__contains__):  # the donors first: a clone needs their checkpoint
            self._checkpoint_or_exploit(trial, tune_controller, best, worst)
        self._meet_after(max(self._trial_state[trial].last_train_time for trial in waiting))
        return super().choose_trial_to_run(tune_controller)

    def _meet_after(self, progress: int) -> None:
        interval = self._perturbation_interval
        self._next_perturbation_sync = max(self._next_perturbation_sync, interval * (progress // interval + 1))


class PopulationBandits(_Lineage, PB2):
    """PB2 over ``search_space``."""

    def __init__(self, search_space: Mapping[str, Domain], add_clone: Callable[[Clone], None], **options: Any) -> None:
        self._domains, self._add_clone = search_space, add_clone
        super().__init__(**options)

    def _get_new_config(self, trial: Trial, trial_to_clone: Trial) -> tuple[dict[str, Any], dict[str, Any]]:
        with warnings.catch_warnings():
            # Scikit-learn's word on a kernel parameter at its bound, which a process over a handful of points often is.
            warnings.simplefilter("ignore", ConvergenceWarning)
            return super()._get_new_config(trial, trial_to_clone)
