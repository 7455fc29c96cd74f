"""What every Ray Train worker runs: take its frames, fit one model after the other, report, resume."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch

from trainables.imitation.fits import make_fit
from trainables.imitation.fitting import Fit
from trainables.imitation.frames import Frames
from trainables.imitation.spec import TrainSpec, hold_out
from trainables.imitation.streaming import buffers, frames_of_table, gathered, read_ahead

__all__ = ["STATE_FILE", "load_state", "train_loop_per_worker"]

STATE_FILE = "fits.pt"

Attach = Callable[[Fit], None]
"""Gives a fit its frames."""


def train_loop_per_worker(arguments: dict[str, Any]) -> None:
    """Fit every model of the configuration. ``arguments["spec"]`` is a ``TrainSpec``.

    Each report carries the rows of the loss curve since the last one and a checkpoint of all models, from which a new worker
    continues with the same weights, optimiser state and order as if nothing had happened.
    """
    spec: TrainSpec = arguments["spec"]
    config = spec.config
    torch.set_num_threads(max(1, int(config.cpus_per_worker)))
    # Without this a 2-core machine runs the same sums in another order from call to call.
    torch.use_deterministic_algorithms(True, warn_only=True)
    attach = _streams(spec) if spec.streamed else _memory(spec)
    states = _resume()
    for name in config.models:
        fit = _start(name, spec, attach, states.get(name))
        reported = fit.epoch
        while not fit.finished:
            fit.run_epoch()
            if fit.finished or fit.epoch % config.checkpoint_interval == 0:
                states[name] = fit.state_dict()
                _report(name, fit, fit.history[reported:], states)
                reported = fit.epoch


def load_state(folder: Path) -> dict[str, dict[str, Any]]:
    """Read a checkpoint -> ``Fit.state_dict()`` by model name. Only tensors and plain values are unpickled."""
    states: dict[str, dict[str, Any]] = torch.load(folder / STATE_FILE, weights_only=True, map_location="cpu")
    return states


def _memory(spec: TrainSpec) -> Attach:
    """All frames, in this worker's memory."""
    train, validation = hold_out(gathered(_blocks("frames", spec)), spec)

    def attach(fit: Fit) -> None:
        fit.attach(train, validation)

    return attach


def _streams(spec: TrainSpec) -> Attach:
    """This worker's part of the episodes, read again every epoch."""
    size = spec.config.streaming.shuffle_buffer_frames

    def attach(fit: Fit) -> None:
        fit.attach_stream(
            lambda epoch: read_ahead(lambda: buffers(_blocks("train", spec), size)),
            lambda: buffers(_blocks("validation", spec), size),
            spec.moments,
        )

    return attach


def _blocks(name: str, spec: TrainSpec) -> Iterator[Frames]:
    """This worker's shard of a dataset, block by block."""
    shard = ray.train.get_dataset_shard(name)
    assert shard is not None
    for table in shard.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1):
        if len(table):
            yield frames_of_table(table, spec.features, spec.scaling, spec.sides)


def _start(name: str, spec: TrainSpec, attach: Attach, state: dict[str, Any] | None) -> Fit:
    rank = ray.train.get_context().get_world_rank()
    sizes = spec.interface.observation_size, spec.interface.action_size
    fit = make_fit(name, spec.config, *sizes, spec.fields, rank, ray.train.torch.get_device(), spec.interface)
    attach(fit)
    if state is None:
        fit.prepare()
    else:
        fit.load_state_dict(state)
    return fit


def _resume() -> dict[str, dict[str, Any]]:
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return {}
    with checkpoint.as_directory() as folder:
        return load_state(Path(folder))


def _report(name: str, fit: Fit, rows: list[dict[str, float]], states: dict[str, dict[str, Any]]) -> None:
    metrics = {"model": name, "rows": rows, "finished": fit.finished, "best_loss": fit.best_loss, "batch_size": fit.batch_size}
    if fit.rank:
        ray.train.report(metrics)
        return
    with tempfile.TemporaryDirectory() as folder:
        torch.save(states, os.path.join(folder, STATE_FILE))
        ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))
