"""What follows a running sweep in its driver: the sweep's record, MLflow, what people see, and requests to stop."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

from ray import tune

from cluster.progress import Task
from trainables.sweeps.config import SweepConfig
from trainables.sweeps.ledger import Ledger
from trainables.sweeps.place import SweepPlace
from trainables.sweeps.room import missing
from trainables.sweeps.snapshots import Snapshots
from trainables.sweeps.stopper import SweepStopper
from trainables.sweeps.tracker import SweepTracker

__all__ = ["SweepMonitor"]

_POLL_S = 1.0
_STARVING_S = 30.0
"""Trials take so long to start at most on a busy machine; after it, somebody should know."""
_TABLE_ROWS = 12
_SCHEDULER_WORDS = {
    "asha": "below the others at its rung",
    "hyperband": "below the others of its bracket",
    "median": "below the median of the others",
}


class SweepMonitor(tune.Callback):
    """Passes on what Tune tells.

    The first Ctrl-C, or the stop file, lets every running trial get to its next report and checkpoint, then ends the sweep; a second
    Ctrl-C ends it at once.

    Attributes:
        interrupted: somebody asked for the sweep to stop.
    """

    def __init__(
        self,
        config: SweepConfig,
        ledger: Ledger,
        tracker: SweepTracker,
        stopper: SweepStopper,
        task: Task,
        place: SweepPlace,
        snapshots: Snapshots,
    ) -> None:
        self._config, self._ledger, self._tracker, self._stopper, self._task = config, ledger, tracker, stopper, task
        self._place, self._snapshots = place, snapshots
        place.clear_stop_request()
        self.interrupted = False
        self._idle_since_s: float | None = None
        self._starving = ""
        self._waiting: set[str] | None = None
        self._polled_s = 0.0
        self._reconciled = False
        self._handler: Any = None

    def setup(self, **info: Any) -> None:
        """Take over Ctrl-C from Tune, whose own handler gives up what trials did since their last report."""
        if threading.current_thread() is threading.main_thread():
            self._handler = signal.signal(signal.SIGINT, self._interrupt)

    def reconcile(self, trials: list[Any]) -> None:
        """Before anything else happens to them: bring in how restored trials stand. Only the first call does something."""
        if not self._reconciled:
            self._reconciled = True
            self._ledger.reconcile(trials)

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Tune begins to act; a trial that it ends from here on is not one that a killed driver had ended."""
        self.reconcile(trials)

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Between two events: look for a request to stop, and end the sweep once all that was asked for is on disk."""
        now_s = time.monotonic()
        if now_s - self._polled_s >= _POLL_S:
            self._polled_s = now_s
            self.interrupted |= self._place.stop_requested()
            for trial in trials:
                if trial.status == "PAUSED":
                    self._ledger.paused(trial.trial_id)
            self._look_for_room(trials)
            self._ledger.write_if_due()
            self._place.push_if_due()
            self._snapshots.look_if_due()
            self.show()
        if not self.interrupted:
            return
        running = {trial.trial_id for trial in trials if trial.status == "RUNNING"}
        if self._waiting is None:
            self._waiting = running
        self._waiting &= running
        if not self._waiting:
            os.kill(os.getpid(), signal.SIGUSR1)  # Tune's own signal to end gracefully
            self._waiting = {"already asked"}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial starts, or starts again."""
        for existing in trials:
            self._ledger.created(existing.trial_id, existing.config)
        record = self._ledger.started(trial.trial_id, trial.config)
        self._tracker.start(trial.trial_id, record.sample)
        self._ledger.write_if_due()

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any) -> None:
        """Take in a report."""
        figures = self._ledger.reported(trial.trial_id, trial.config, result)
        record = self._ledger.trials[trial.trial_id]
        self._tracker.report(trial.trial_id, record.sample, figures, record.progress)

    def on_checkpoint(self, iteration: int, trials: list[Any], trial: Any, checkpoint: Any, **info: Any) -> None:
        """A checkpoint is on disk; Tune registers it after this call."""
        self._snapshots.supersede(trial)
        self._stopper.settled(trial.trial_id)
        if self._waiting:
            self._waiting.discard(trial.trial_id)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial ended, by itself or stopped early."""
        self._stopper.settled(trial.trial_id)
        default = _SCHEDULER_WORDS.get(self._config.scheduler.kind, "stopped")
        reason = self._stopper.reasons.get(trial.trial_id) or self._stopper.sweep_reason or default
        self._ledger.completed(trial.trial_id, reason)
        self._tracker.end(trial.trial_id, "FINISHED")
        self._ledger.write()

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial failed for good."""
        self._stopper.settled(trial.trial_id)
        from trainables.sweeps.failures import cause, error_text

        text = error_text(trial.local_path, trial.get_error())
        self._ledger.failed(trial.trial_id, trial.config, cause(text), text)
        self._tracker.end(trial.trial_id, "FAILED")
        self._ledger.write()

    def restore_signals(self) -> None:
        """Give Ctrl-C back."""
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)

    def _interrupt(self, number: int, frame: Any) -> None:
        if self.interrupted:
            self.restore_signals()
            raise KeyboardInterrupt
        self.interrupted = True
        self._task.update(message="stopping after the running trials' next checkpoints; Ctrl-C again ends at once")

    def _look_for_room(self, trials: list[Any]) -> None:
        """Nodes come and go: say so when trials wait and none can run."""
        statuses = {trial.status for trial in trials}
        if "RUNNING" in statuses or not statuses & {"PENDING", "PAUSED"}:
            self._idle_since_s, self._starving = None, ""
            return
        now_s = time.monotonic()
        self._idle_since_s = self._idle_since_s or now_s
        if now_s - self._idle_since_s > _STARVING_S:
            self._starving = f"waiting for room: {missing(self._config)}"

    def show(self) -> None:
        """Bring what people see up to date; too much work, with many trials, for every report."""
        counts, best = self._ledger.counts(), self._ledger.best
        message = ", ".join(f"{count} {status}" for status, count in counts.items())
        if self._starving:
            message = f"{self._starving}; {message}"
        if self.interrupted:
            message = "stopping after the running trials' next checkpoints (Ctrl-C again ends at once): " + message
        figures = {}
        if best is not None and best.best_value is not None:
            figures[self._config.metric_name.rpartition("/")[2]] = best.best_value
        done = sum(min(trial.progress, self._config.swept.budget) for trial in self._ledger.trials.values())
        self._task.update(completed=done, message=message, table=self._table(), **figures)

    def _table(self) -> list[list[str]]:
        """Header and one row a trial: the best ones and those that run."""
        rows = [["trial", "status", self._config.swept.unit, f"best {self._config.metric_name}", "last", *self._config.search_space]]
        ranked = sorted(
            self._ledger.trials.values(),
            key=lambda trial: (trial.status != "running", -(trial.best_score if trial.best_score is not None else float("-inf"))),
        )
        for trial in ranked[:_TABLE_ROWS]:
            values = ["" if value is None else f"{value:.4g}" for value in (trial.best_value, trial.last_value)]
            sample = [_short(trial.sample.get(path)) for path in self._config.search_space]
            rows.append([trial.trial_id, trial.status, f"{trial.progress:,}", *values, *sample])
        return rows


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
