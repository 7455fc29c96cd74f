"""The driver's side of imitation: start Ray Train, follow it, bring home the last checkpoint."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train import CheckpointConfig, DataConfig, FailureConfig, RunConfig, ScalingConfig, UserCallback
from ray.train.torch import TorchTrainer

from cluster.errors import ClusterError, GaitwayError
from trainables.imitation.loop import load_state, train_loop_per_worker
from trainables.imitation.reading import Part, datasets_of
from trainables.imitation.spec import TrainSpec

__all__ = ["OnRows", "discard", "train_models"]

OnRows = Callable[[str, list[dict[str, float]]], None]
"""Called in the driver with a model's name and the new rows of its loss curve."""

POLL_S = 0.25
READING_CPUS = 1
"""What a reading task takes."""
CONTROLLER_POLL_S = "0.2"
"""A worker's report waits for the controller to fetch it; Ray Train's own 2 s would be longer than the epochs of a small run."""


class _ReportWriter(UserCallback):
    """Runs in Ray Train's controller, which is on the driver's node: appends every report to a file that the driver reads."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(metrics[0]) + "\n")


class _Trainer(TorchTrainer):
    """Ray Train without its placement-group guard where that has nothing to guard.

    The guard outlives a killed driver to free the workers' resources, and asks the dashboard whether the driver lives. A private
    local Ray dies with its driver and has no dashboard: there the guard would only hold up every run's end by 12 s.
    """

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        node = ray._private.worker._global_node
        if node is None or not node.head:
            return callbacks
        return [callback for callback in callbacks if type(callback).__name__ != "PlacementGroupCleanerCallback"]


def train_models(
    parts: Sequence[Part], spec: TrainSpec, storage: Path, name: str, scratch: Path, on_rows: OnRows
) -> dict[str, dict[str, Any]]:
    """Train all models of ``spec`` in one Ray Train run and return ``Fit.state_dict()`` by model name.

    Args:
        parts: the folders to train on.
        spec: what the workers are told.
        storage: folder that every node sees; Ray Train keeps its checkpoints in ``storage/name``.
        name: identity of this training. A run of the same name that was killed is continued from its last checkpoint.
        scratch: folder on this machine for the file of reports.
        on_rows: follows the loss curves while they grow.

    Raises:
        ClusterError: the cluster has fewer CPUs or GPUs than the workers need.
        GaitwayError: training failed more often than ``max_failures``, with its cause.
    """
    config = spec.config
    _check_resources(config.num_workers * config.cpus_per_worker, config.num_workers * int(config.use_gpu), spec.streamed)
    reports = scratch / "reports.jsonl"
    scratch.mkdir(parents=True, exist_ok=True)
    reports.unlink(missing_ok=True)
    trainer = _Trainer(
        train_loop_per_worker,
        train_loop_config={"spec": spec},
        datasets=datasets_of(parts, spec),
        # In memory every worker holds all frames and takes its share of each batch, as one worker would have drawn it.
        dataset_config=DataConfig(datasets_to_split="all" if spec.streamed and config.num_workers > 1 else []),
        scaling_config=ScalingConfig(
            num_workers=config.num_workers, use_gpu=config.use_gpu, resources_per_worker=_resources(config.cpus_per_worker, config.use_gpu)
        ),
        run_config=RunConfig(
            name=name,
            storage_path=str(storage),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            failure_config=FailureConfig(max_failures=config.max_failures),
            callbacks=[_ReportWriter(reports)],
        ),
    )
    checkpoint = _fit_and_follow(trainer, reports, on_rows)
    with checkpoint.as_directory() as folder:
        states = load_state(Path(folder))
    shutil.rmtree(scratch, ignore_errors=True)
    for model in config.models:
        if not states.get(model, {}).get("finished"):
            raise GaitwayError(f"imitation ended without finishing {model}; run the same command again to resume")
    return states


def discard(storage: Path, name: str) -> None:
    """Remove what Ray Train stored, once the policies are safely elsewhere."""
    shutil.rmtree(storage / name, ignore_errors=True)


def _fit_and_follow(trainer: TorchTrainer, reports: Path, on_rows: OnRows) -> ray.train.Checkpoint:
    """Run ``fit`` in a thread and hand every new report to ``on_rows`` in this one."""
    outcome: dict[str, Any] = {}

    def fit() -> None:
        try:
            with _controller_poll():
                outcome["result"] = trainer.fit()
        except BaseException as error:  # carried to the main thread, where it is raised
            outcome["error"] = error

    thread = threading.Thread(target=fit, name="ray-train", daemon=True)
    thread.start()
    position = 0
    running = True
    while running:
        thread.join(POLL_S)
        running = thread.is_alive()
        position = _forward(reports, position, on_rows)
    if "error" in outcome:
        raise _explained(outcome["error"])
    checkpoint = outcome["result"].checkpoint
    if checkpoint is None:
        raise GaitwayError("imitation ended without a checkpoint; run the same command again")
    return checkpoint


@contextmanager
def _controller_poll() -> Iterator[None]:
    """Ray Train hands this variable from the driver to its controller; one that the user set is kept."""
    name = "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"
    if name in os.environ:
        yield
        return
    os.environ[name] = CONTROLLER_POLL_S
    try:
        yield
    finally:
        del os.environ[name]


def _forward(reports: Path, position: int, on_rows: OnRows) -> int:
    if not reports.exists():
        return position
    with reports.open("rb") as file:
        file.seek(position)
        text = file.read()
    complete = text[: text.rfind(b"\n") + 1]
    for line in complete.splitlines():
        report = json.loads(line)
        on_rows(report["model"], report["rows"])
    return position + len(complete)


def _explained(error: BaseException) -> BaseException:
    """A failure of Ray Train as one line with the first worker's own words; anything else as it is."""
    if not isinstance(error, ray.train.TrainingFailedError):
        return error
    logging.getLogger(__name__).error("Ray Train failed", exc_info=error)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return GaitwayError(f"imitation training failed: {lines[-1][:300] if lines else type(error).__name__}")


def _resources(cpus: float, use_gpu: bool) -> dict[str, float]:
    return {"CPU": cpus, "GPU": 1} if use_gpu else {"CPU": cpus}


def _check_resources(cpus: float, gpus: int, streamed: bool) -> None:
    """Ray Train would wait for missing resources for ever, in silence."""
    available = ray.cluster_resources()
    if streamed and cpus + READING_CPUS > available.get("CPU", 0) >= cpus:
        raise ClusterError(
            f"imitation streams its data and needs a CPU for reading beside {cpus:g} for its workers; the cluster has "
            f"{available.get('CPU', 0):g}; lower num_workers or cpus_per_worker, or raise streaming.memory_gb"
        )
    for name, wanted in (("CPU", cpus), ("GPU", gpus)):
        if wanted > available.get(name, 0):
            raise ClusterError(
                f"imitation needs {math.ceil(wanted)} {name}s for its workers and the cluster has {available.get(name, 0):g}; "
                "lower num_workers or cpus_per_worker, or add nodes"
            )
