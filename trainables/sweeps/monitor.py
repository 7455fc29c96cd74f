"""What people see of a running sweep: one progress line, and every trial's curves in MLflow. Lives in the driver."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from ray import tune

from cluster.config import write_text_atomic
from cluster.progress import Task
from cluster.settings import Settings
from cluster.store.tracking import TrackedRun, start_run
from trainables.sweeps.score import SCORE, is_figure

__all__ = ["SweepMonitor"]

_TUNE_KEYS = ("time_total_s",)


class SweepMonitor(tune.Callback):
    """Follows the trials. MLflow gets a parent run with one child per trial; after a crash the same runs are continued.

    Args:
        settings: where MLflow is.
        experiment: MLflow experiment.
        name: name of the parent run.
        params: parameters of the parent run.
        record: file that keeps the MLflow run ids over a crash.
        task: progress to report to.
        metric: figure shown as the best so far.
        trial_env_steps: budget of one trial, environment steps.
    """

    def __init__(
        self,
        settings: Settings,
        experiment: str,
        name: str,
        params: dict[str, Any],
        record: Path,
        task: Task,
        metric: str,
        trial_env_steps: int,
    ) -> None:
        self._settings, self._experiment, self._record = settings, experiment, record
        self._task, self._metric, self._trial_env_steps = task, metric, trial_env_steps
        known = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
        self._run_ids: dict[str, str] = known.get("trials", {})
        self.parent = start_run(settings, experiment, name, params=None if known else params, run_id=known.get("parent"))
        self._children: dict[str, TrackedRun] = {}
        self._env_steps: dict[str, int] = {}
        self._scores: list[tuple[float, float]] = []
        self._write_record()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial starts, or starts again."""
        self._child(trial)
        self._show(trials)

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any) -> None:
        """Log a report and move the progress line."""
        env_steps = int(result["env_steps"])
        figures = {name: value for name, value in result.items() if is_figure(name, value) or name in (SCORE, *_TUNE_KEYS)}
        self._child(trial).log_metrics({name: value for name, value in figures.items() if math.isfinite(value)}, step=env_steps)
        self._env_steps[trial.trial_id] = env_steps
        if self._metric in result:
            self._scores.append((result[SCORE], result[self._metric]))
        self._show(trials)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial ended, by itself or stopped early."""
        self._finish(trial, "FINISHED")
        self._show(trials)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial failed for good."""
        self._finish(trial, "FAILED")
        self._show(trials)

    def close(self, figures: dict[str, float], tags: dict[str, Any]) -> None:
        """End the parent run with the sweep's outcome; trials cut off by a time budget end with it."""
        for child in self._children.values():
            child.finish("FINISHED")
        self.parent.log_metrics(figures)
        self.parent.set_tags(tags)
        self.parent.finish("FINISHED")

    def abandon(self) -> None:
        """End all runs as failed."""
        for run in (*self._children.values(), self.parent):
            run.finish("FAILED")

    def _child(self, trial: Any) -> TrackedRun:
        name = trial.trial_id
        if name not in self._children:
            known = self._run_ids.get(name)
            params = None if known else trial.config["sample"]
            self._children[name] = start_run(
                self._settings, self._experiment, name, parent_run_id=self.parent.run_id, params=params, run_id=known
            )
            self._run_ids[name] = self._children[name].run_id
            self._write_record()
        return self._children[name]

    def _finish(self, trial: Any, status: Any) -> None:
        if trial.trial_id in self._children:
            self._children[trial.trial_id].finish(status)

    def _show(self, trials: list[Any]) -> None:
        running = sum(trial.status == "RUNNING" for trial in trials)
        failed = sum(trial.status == "ERROR" for trial in trials)
        ended = sum(trial.status == "TERMINATED" for trial in trials)
        best = {self._metric.rpartition("/")[2]: max(self._scores)[1]} if self._scores else {}
        message = f"{running} running, {ended} ended" + (f", {failed} failed" if failed else "")
        self._task.update(completed=sum(self._env_steps.values()), message=message, **best)

    def _write_record(self) -> None:
        write_text_atomic(self._record, json.dumps({"parent": self.parent.run_id, "trials": self._run_ids}))
