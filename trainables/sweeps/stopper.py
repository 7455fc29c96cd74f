"""Stop rules of a sweep: figures reached, no progress any more, budgets spent, the target met."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from ray import tune

from cluster.progress import format_duration
from trainables.sweeps.config import SweepConfig
from trainables.sweeps.reports import WORK
from trainables.sweeps.score import SCORE

__all__ = ["SweepStopper"]


class SweepStopper(tune.Stopper):
    """Ends trials, or the sweep, and says why.

    Args:
        config: the sweep.
        spent: work that trials did before a restart, in the sweep's unit.

    Attributes:
        reasons: trial id -> why it was ended, in words.
        sweep_reason: why the whole sweep was; empty while it goes on.
    """

    def __init__(self, config: SweepConfig, spent: int = 0) -> None:
        self._config, self._spent = config, spent
        self._best: dict[str, tuple[float, int]] = {}
        self._deadline_s = time.monotonic() + config.time_budget_s if config.time_budget_s else float("inf")
        self.reasons: dict[str, str] = {}
        self.sweep_reason = ""
        self._awaited: str | None = None

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """After each report: whether this trial ends."""
        config, stop = self._config, self._config.stop
        self._spent += int(result.get(WORK, 0))
        value = result.get(config.metric_name)
        if not self.sweep_reason:
            if stop.target is not None and value is not None and self._reached(float(value), stop.target):
                self.sweep_reason = f"the target {config.metric_name} = {stop.target:g} was reached"
            elif config.work_budget and self._spent >= config.work_budget:
                self.sweep_reason = f"the sweep's work budget of {config.work_budget:,} {config.swept.unit} is spent"
            if self.sweep_reason:
                # Tune ends a sweep without waiting for checkpoints: the one of this very report, perhaps the best, would be lost.
                self._awaited = trial_id
                return True
        if stop.figures and _all_within(stop.figures.items(), result):
            self.reasons[trial_id] = "its figures reached the stop rule"
            return True
        if stop.patience:
            score = float(result[SCORE])
            best, since = self._best.get(trial_id, (float("-inf"), 0))
            self._best[trial_id] = (score, 0) if score > best else (best, since + 1)
            if self._best[trial_id][1] >= stop.patience:
                self.reasons[trial_id] = f"no better score in {stop.patience} reports"
                return True
        return False

    def settled(self, trial_id: str) -> None:
        """The trial's last report has its checkpoint, or will never have one."""
        if self._awaited == trial_id:
            self._awaited = None

    def stop_all(self) -> bool:
        """Whether the sweep ends now."""
        if time.monotonic() >= self._deadline_s and not self.sweep_reason:
            self.sweep_reason = f"the sweep's time budget of {format_duration(self._config.time_budget_s or 0)} is spent"
        return bool(self.sweep_reason) and self._awaited is None

    def _reached(self, value: float, target: float) -> bool:
        return value >= target if self._config.direction == "max" else value <= target


def _all_within(bounds: Iterable[tuple[str, Any]], result: Mapping[str, Any]) -> bool:
    return all(name in result and bound.violation(float(result[name])) == 0 for name, bound in bounds)
