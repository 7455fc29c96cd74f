"""Runs, parameters, metrics and artifacts in MLflow, written in batches.

    with start_run(settings, "quickstart", "imitation", params={"learning_rate": 1e-3}) as run:
        run.log_metrics({"loss": 0.1}, step=1)
        run.log_artifact(folder / "loss.png")

A metric costs a list append; a batch is written when it is full, when it is a few seconds old, and at the end. Call it from a
driver, never from inside a training step: a batch may wait for another process's for a second or two.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from cluster.settings import Settings
from cluster.store.mlflow_access import mlflow_client, mlflow_errors, mlflow_lock, prepare

__all__ = ["TrackedRun", "prepare", "start_run"]

RunStatus = Literal["FINISHED", "FAILED", "KILLED"]

# MLflow refuses more in one call: mlflow.utils.validation.MAX_*_PER_BATCH.
_MAX_METRICS = 1000
_MAX_PARAMS = 100
_MAX_TAGS = 100
_MAX_PARAM_LENGTH = 6000
_MAX_TAG_LENGTH = 8000
_FLUSH_INTERVAL_S = 5.0


class TrackedRun:
    """One MLflow run. As a context manager it finishes itself: FINISHED, FAILED on an exception, KILLED on Ctrl-C."""

    def __init__(self, settings: Settings, client: Any, run_id: str, experiment_id: str) -> None:
        self.run_id = run_id
        self.experiment_id = experiment_id
        self._settings = settings
        self._client = client
        self._metrics: list[Any] = []
        self._flushed_s = time.monotonic()
        self._finished = False

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Note the value of each metric at ``step``; written with its batch."""
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        self._metrics += [Metric(key, float(value), now_ms, int(step)) for key, value in metrics.items()]
        if len(self._metrics) >= _MAX_METRICS or time.monotonic() - self._flushed_s >= _FLUSH_INTERVAL_S:
            self.flush()

    def logged_steps(self, key: str) -> set[int]:
        """Steps at which a metric was written, by whoever carried on with this run before too."""
        with mlflow_errors(self._settings):
            return {int(point.step) for point in self._client.get_metric_history(self.run_id, key)}

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Record what the run was made with; nested mappings become ``a.b`` keys. A parameter never changes once written."""
        from mlflow.entities import Param

        entries = [Param(key, str(value)[:_MAX_PARAM_LENGTH]) for key, value in _flatten(params).items()]
        with mlflow_errors(self._settings):
            for start in range(0, len(entries), _MAX_PARAMS):
                self._client.log_batch(self.run_id, params=entries[start : start + _MAX_PARAMS])

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Set tags; an existing one is replaced."""
        from mlflow.entities import RunTag

        entries = [RunTag(key, str(value)[:_MAX_TAG_LENGTH]) for key, value in tags.items()]
        with mlflow_errors(self._settings):
            for start in range(0, len(entries), _MAX_TAGS):
                self._client.log_batch(self.run_id, tags=entries[start : start + _MAX_TAGS])

    def log_artifact(self, path: str | os.PathLike[str], folder: str | None = None) -> None:
        """Copy a file, or a folder with all that is in it, into the run's artifacts (below ``folder`` there)."""
        with mlflow_errors(self._settings):
            if Path(path).is_dir():
                self._client.log_artifacts(self.run_id, str(path), folder)
            else:
                self._client.log_artifact(self.run_id, str(path), folder)

    def flush(self) -> None:
        """Write every metric noted so far."""
        self._flushed_s = time.monotonic()
        waiting, self._metrics = self._metrics, []
        with mlflow_errors(self._settings):
            for start in range(0, len(waiting), _MAX_METRICS):
                self._client.log_batch(self.run_id, metrics=waiting[start : start + _MAX_METRICS])

    def finish(self, status: RunStatus = "FINISHED") -> None:
        """Write what is left and end the run; a second call does nothing."""
        if self._finished:
            return
        self.flush()
        with mlflow_errors(self._settings):
            self._client.set_terminated(self.run_id, status)
        self._finished = True

    def __enter__(self) -> TrackedRun:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self.finish("FINISHED")
        else:
            self.finish("FAILED" if issubclass(kind, Exception) else "KILLED")


def start_run(
    settings: Settings,
    experiment: str,
    name: str,
    parent_run_id: str | None = None,
    tags: Mapping[str, Any] | None = None,
    params: Mapping[str, Any] | None = None,
    run_id: str | None = None,
) -> TrackedRun:
    """Begin a run, or carry on with an earlier one.

    Args:
        settings: where MLflow's database and artifacts are.
        experiment: MLflow experiment; created when it is new, with its artifacts under ``settings.mlflow_artifact_url``.
        name: what the run is called in MLflow's UI.
        parent_run_id: run under which the UI nests this one.
        tags: tags of the run.
        params: parameters of the run; nested mappings are flattened to ``a.b``.
        run_id: an earlier run to continue, after a crash for instance; its name and parent stay.

    Raises:
        StoreError: the database cannot be reached, or ``run_id`` is not there.
    """
    client = mlflow_client(settings)
    with mlflow_errors(settings):
        if run_id is not None:
            experiment_id = client.get_run(run_id).info.experiment_id
            client.update_run(run_id, status="RUNNING")
        else:
            experiment_id = _experiment_id(settings, client, experiment)
            parent = {"mlflow.parentRunId": parent_run_id} if parent_run_id else {}
            run_id = client.create_run(experiment_id, run_name=name, tags=parent).info.run_id
    run = TrackedRun(settings, client, run_id, experiment_id)
    if tags:
        run.set_tags(tags)
    if params:
        run.log_params(params)
    return run


def _experiment_id(settings: Settings, client: Any, name: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is None:
        with mlflow_lock(settings, "mlflow-experiment"):
            found = client.get_experiment_by_name(name)
            if found is None:
                # Run ids are unique, so all experiments share one folder of runs.
                location = f"{settings.mlflow_artifact_url}/runs"
                return str(client.create_experiment(name, artifact_location=location))
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
