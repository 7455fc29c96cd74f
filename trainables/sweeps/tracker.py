"""A sweep in MLflow: a parent run with one child a trial, written by a thread of its own so that Tune never waits for a database.

After a crash the same runs are continued, and what the killed driver had not written yet is written from the sweep's own record.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from cluster.config import write_text_atomic
from cluster.settings import Settings
from cluster.store.tracking import TrackedRun, start_run
from trainables.sweeps.records import REPORTS_FILE, read_lines

__all__ = ["SweepTracker"]

RECORD_FILE = "mlflow.json"
_PROGRESS = "progress"


class SweepTracker:
    """Calls return at once; what they ask for happens in order.

    Args:
        settings: where MLflow is.
        experiment: MLflow experiment.
        name: name of the parent run.
        params: parameters of the parent run.
        folder: the sweep's folder, which keeps the run ids over a crash.
        on_run: called with trial id and MLflow run id, from the tracker's thread, once a trial's run exists.
    """

    def __init__(
        self, settings: Settings, experiment: str, name: str, params: dict[str, Any], folder: Path, on_run: Callable[[str, str], None]
    ) -> None:
        self._settings, self._experiment, self._folder, self._on_run = settings, experiment, folder, on_run
        self._record = folder / RECORD_FILE
        known = json.loads(self._record.read_text(encoding="utf-8")) if self._record.is_file() else {}
        self._run_ids: dict[str, str] = known.get("trials", {})
        self._ended: list[str] = known.get("ended", [])
        self.parent = start_run(settings, experiment, name, params=None if known else params, run_id=known.get("parent"))
        self._children: dict[str, TrackedRun] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="mlflow")
        self._waiting: list[Future[None]] = []
        self._write_record()
        if known:
            self._do(self._catch_up)

    def start(self, trial_id: str, sample: Mapping[str, Any]) -> None:
        """A trial begins, or begins again."""
        self._do(lambda: self._child(trial_id, sample) and None)

    def report(self, trial_id: str, sample: Mapping[str, Any], figures: Mapping[str, float], progress: int) -> None:
        """One report; finite figures only."""
        self._do(lambda: self._child(trial_id, sample).log_metrics({**figures, _PROGRESS: progress}, step=progress))

    def end(self, trial_id: str, status: Any) -> None:
        """A trial ended: FINISHED or FAILED."""
        self._do(lambda: self._end(trial_id, status))

    def close(self, status: Any, figures: Mapping[str, float] | None = None, tags: Mapping[str, Any] | None = None) -> None:
        """End the parent and the trials that are still open, and wait until all is written. Raises what went wrong on the way."""

        def finish() -> None:
            for child in self._children.values():
                child.finish(status)
            self.parent.log_metrics(figures or {})
            self.parent.set_tags(tags or {})
            self.parent.finish(status)

        self._do(finish)
        self._thread.shutdown()
        for future in self._waiting:
            future.result()

    def _child(self, trial_id: str, sample: Mapping[str, Any]) -> TrackedRun:
        if trial_id not in self._children:
            known = self._run_ids.get(trial_id)
            self._children[trial_id] = start_run(
                self._settings,
                self._experiment,
                trial_id,
                parent_run_id=self.parent.run_id,
                params=None if known else sample,
                run_id=known,
            )
            self._run_ids[trial_id] = self._children[trial_id].run_id
            self._write_record()
        self._on_run(trial_id, self._run_ids[trial_id])
        return self._children[trial_id]

    def _end(self, trial_id: str, status: Any) -> None:
        if child := self._children.pop(trial_id, None):
            child.finish(status)
        if trial_id not in self._ended:
            self._ended.append(trial_id)
            self._write_record()

    def _catch_up(self) -> None:
        """Write the reports that the last driver had put down in the sweep's record, but not in MLflow."""
        from cluster.store.mlflow_access import mlflow_client

        client = mlflow_client(self._settings)
        reports: dict[str, list[dict[str, Any]]] = {}
        for line in read_lines(self._folder / REPORTS_FILE):
            reports.setdefault(line["trial"], []).append(line)
        for trial_id, lines in reports.items():
            if trial_id in self._ended:
                continue
            child = self._child(trial_id, {})
            written = {point.step for point in client.get_metric_history(child.run_id, _PROGRESS)}
            for line in lines:
                if line["progress"] not in written:
                    child.log_metrics({**line["figures"], _PROGRESS: line["progress"]}, step=int(line["progress"]))
            child.flush()

    def _do(self, work: Callable[[], None]) -> None:
        # What went wrong earlier is raised here rather than only at the end of a long sweep.
        for future in [future for future in self._waiting if future.done()]:
            self._waiting.remove(future)
            future.result()
        self._waiting.append(self._thread.submit(work))

    def _write_record(self) -> None:
        write_text_atomic(self._record, json.dumps({"parent": self.parent.run_id, "trials": self._run_ids, "ended": self._ended}))
