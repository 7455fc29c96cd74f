"""The driver's book of a sweep's trials: takes in what Tune tells, keeps one ``TrialRecord`` each, writes the sweep's record."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from trainables.sweeps.config import SweepConfig
from trainables.sweeps.records import (
    ENDED,
    REPORTS_FILE,
    Clone,
    SweepInfo,
    SweepLog,
    SweepRecord,
    TrialRecord,
    load_sweep,
    now,
    read_lines,
)
from trainables.sweeps.reports import NODE, PROGRESS, WORK
from trainables.sweeps.score import SCORE, is_figure
from trainables.sweeps.searchers import parameters, seed_index

__all__ = ["Ledger"]

_WRITE_INTERVAL_S = 1.0


class Ledger:
    """Trials by id, in the order of their creation; continues what an earlier driver wrote.

    Args:
        folder: the sweep's folder.
        info: what the sweep is.
        config: the sweep's configuration.
    """

    def __init__(self, folder: Path, info: SweepInfo, config: SweepConfig) -> None:
        self.log, self._config = SweepLog(folder), config
        self.log.write_info(info)
        self.past: SweepRecord = load_sweep(folder)
        self.trials: dict[str, TrialRecord] = {trial.trial_id: trial for trial in self.past.trials}
        self._mlflow_runs: dict[str, str] = {}
        self.status = "running"
        self._written_s = 0.0
        self._base_seed = config.swept.base.seed

    @property
    def work(self) -> int:
        """What all trials did so far, in the sweep's unit."""
        return sum(trial.work for trial in self.trials.values())

    @property
    def best(self) -> TrialRecord | None:
        """The trial with the best report so far."""
        scored = [trial for trial in self.trials.values() if trial.best_score is not None]
        return max(scored, key=lambda trial: trial.best_score or 0.0, default=None)

    def counts(self) -> dict[str, int]:
        """How many trials have each status, in words."""
        counts: dict[str, int] = {}
        for trial in self.trials.values():
            counts[trial.status] = counts.get(trial.status, 0) + 1
        return counts

    def created(self, trial_id: str, tune_config: Mapping[str, Any]) -> None:
        """A trial exists. Called in the order of creation, which is not the order in which trials start."""
        self._known(trial_id, tune_config)

    def started(self, trial_id: str, tune_config: Mapping[str, Any]) -> TrialRecord:
        """A trial begins, or begins again."""
        record = self._known(trial_id, tune_config)
        again = record.started_at is not None and record.status in ("running", "failed", "unfinished")
        self._set(
            trial_id,
            status="running",
            reason="",
            sample=parameters(dict(tune_config)),
            started_at=record.started_at or now(),
            ended_at=None,
            restarts=record.restarts + again,
            error=None,
            traceback=None,
        )
        return self.trials[trial_id]

    def reported(self, trial_id: str, tune_config: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, float]:
        """Take in a report; returns its figures, those that are not finite left out."""
        record = self._known(trial_id, tune_config)
        figures = {name: float(value) for name, value in result.items() if is_figure(name, value) or name == self._config.metric_name}
        figures = {name: value for name, value in figures.items() if math.isfinite(value)}
        progress, work, score = int(result[PROGRESS]), int(result.get(WORK, 0)), float(result[SCORE])
        value = figures.get(self._config.metric_name)
        changes: dict[str, Any] = {
            "status": "running",
            "sample": parameters(dict(tune_config)),
            "progress": progress,
            "work": record.work + work,
            "last_value": value,
            "last_figures": figures,
            "node": result.get(NODE, record.node),
            "warm_start_error": result.get("warm_start_error", record.warm_start_error),
        }
        if math.isfinite(score) and (record.best_score is None or score > record.best_score):
            changes |= {"best_score": score, "best_value": value, "best_progress": progress}
        self.log.add_report(trial_id, progress, value, score, work, float(result.get("time_total_s", 0.0)), figures)
        self._set(trial_id, **changes)
        return figures

    def paused(self, trial_id: str) -> None:
        """A trial waits for its turn."""
        if trial_id in self.trials and self.trials[trial_id].status == "running":
            self._set(trial_id, status="paused")

    def completed(self, trial_id: str, reason: str) -> None:
        """A trial ended by itself or was stopped; ``reason`` says why in the latter case."""
        whole = self.trials[trial_id].progress >= self._config.swept.budget
        self._set(trial_id, status="finished" if whole else "stopped early", reason="" if whole else reason, ended_at=now())

    def failed(self, trial_id: str, tune_config: Mapping[str, Any], error: str, traceback: str) -> None:
        """A trial failed for good."""
        self._known(trial_id, tune_config)
        self._set(trial_id, status="failed", error=error, traceback=traceback, ended_at=now())

    def cloned(self, clone: Clone) -> None:
        """An exploit of population-based training: the trial's policy now stands where its donor's did."""
        self.log.add_clone(clone)
        self._set(clone.trial, progress=clone.donor_progress)

    def reconcile(self, trials: Iterable[Any]) -> None:
        """Bring in what a killed driver had not written of Tune's trials; their reports are on disk, Tune knows how they ended."""
        reports: dict[str, list[dict[str, Any]]] = {}
        for line in read_lines(self.log.folder / REPORTS_FILE):
            reports.setdefault(line["trial"], []).append(line)
        for trial in trials:
            record, lines = self._known(trial.trial_id, trial.config), reports.get(trial.trial_id, [])
            if lines and record.progress < lines[-1]["progress"]:
                self._replay(trial.trial_id, lines)
            if trial.status == "TERMINATED" and record.status not in ENDED:
                self.completed(trial.trial_id, "it ended while its driver was killed")

    def _replay(self, trial_id: str, lines: list[dict[str, Any]]) -> None:
        last = lines[-1]
        changes = {"progress": int(last["progress"]), "last_value": last["value"], "last_figures": last["figures"]}
        changes |= {"work": sum(int(line["work"]) for line in lines)}
        scored = [line for line in lines if line["score"] is not None]
        if scored:
            best = max(scored, key=lambda line: line["score"])
            changes |= {"best_score": best["score"], "best_value": best["value"], "best_progress": int(best["progress"])}
        self._set(trial_id, **changes)

    def tracked(self, trial_id: str, mlflow_run_id: str) -> None:
        """The trial's run in MLflow. Called from the tracker's thread, and perhaps before the trial itself is known again."""
        self._mlflow_runs[trial_id] = mlflow_run_id

    def set_checkpoint(self, trial_id: str, path: str, value: float | None, progress: int) -> None:
        """Its best checkpoint that is still there."""
        self._set(trial_id, checkpoint=path, checkpoint_value=value, checkpoint_progress=progress)

    def close(self, status: str, reason: str = "") -> None:
        """The sweep's end.

        Args:
            status: finished | stopped | failed. Of trials without an end of their own, those that a finished sweep cut short were
                stopped early; all others are unfinished, and a resumed sweep goes on with them.
            reason: why, in words.
        """
        for trial_id, trial in self.trials.items():
            if trial.status not in ENDED:
                cut = status == "finished" and trial.started_at is not None
                self._set(trial_id, status="stopped early" if cut else "unfinished", reason=reason, ended_at=now())
        self.status = status
        self.write()

    def write(self) -> None:
        """Bring the file with all trials up to date."""
        self._written_s = time.monotonic()
        for trial_id, trial in self.trials.items():
            run_id = self._mlflow_runs.get(trial_id)
            if run_id and run_id != trial.mlflow_run_id:
                self._set(trial_id, mlflow_run_id=run_id)
        self.log.write_trials(self.status, self.trials.values())

    def write_if_due(self) -> None:
        """``write``, at most once a second."""
        if time.monotonic() - self._written_s >= _WRITE_INTERVAL_S:
            self.write()

    def _known(self, trial_id: str, tune_config: Mapping[str, Any]) -> TrialRecord:
        if trial_id not in self.trials:
            sample = parameters(dict(tune_config))
            text = json.dumps(sample, sort_keys=True, default=str)
            self.trials[trial_id] = TrialRecord(
                trial_id=trial_id,
                number=len(self.trials) + 1,
                configuration=hashlib.sha256(text.encode()).hexdigest()[:8],
                sample=sample,
                seed=self._base_seed + seed_index(dict(tune_config)),
            )
        return self.trials[trial_id]

    def _set(self, trial_id: str, **changes: Any) -> None:
        self.trials[trial_id] = replace(self.trials[trial_id], **changes)
