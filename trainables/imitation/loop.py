"""What every Ray Train worker runs: hold its share of the frames, fit one model after the other, report, resume."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch

from trainables.envs.robot_task import ActionScaling
from trainables.imitation.config import ImitationConfig
from trainables.imitation.fitting import Fit, make_fit
from trainables.imitation.frames import Frames, gather_frames

__all__ = ["STATE_FILE", "TrainSpec", "hold_out", "load_state", "train_loop_per_worker"]

STATE_FILE = "fits.pt"
VALIDATION_SHARE = 0.2  # of every episode, where no whole episode can be held out


@dataclass(frozen=True)
class TrainSpec:
    """What the driver tells the workers beside the frames."""

    config: ImitationConfig
    scaling: ActionScaling
    fields: dict[str, slice]
    """Where each observation field lies in the flat vector."""
    train_episodes: tuple[int, ...]
    validation_episodes: tuple[int, ...]
    """Empty for a dataset of one episode: its last part is held out."""


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
    batches = ray.train.get_dataset_shard("frames").iter_batches(batch_size=None, batch_format="numpy")
    frames = gather_frames(batches, spec.scaling)
    train, validation = hold_out(frames, spec)
    states = _resume()
    for name in config.models:
        fit = _start(name, spec, train, validation, states.get(name))
        reported = fit.epoch
        while not fit.finished:
            fit.run_epoch()
            if fit.finished or fit.epoch % config.checkpoint_interval == 0:
                states[name] = fit.state_dict()
                _report(name, fit, fit.history[reported:], states)
                reported = fit.epoch


def hold_out(frames: Frames, spec: TrainSpec) -> tuple[Frames, Frames]:
    """Frames to train on and to validate on."""
    if spec.validation_episodes:
        return frames.of_episodes(spec.train_episodes), frames.of_episodes(spec.validation_episodes)
    return frames.cut(VALIDATION_SHARE)


def load_state(folder: Path) -> dict[str, dict[str, Any]]:
    """Read a checkpoint -> ``Fit.state_dict()`` by model name. Only tensors and plain values are unpickled."""
    states: dict[str, dict[str, Any]] = torch.load(folder / STATE_FILE, weights_only=True, map_location="cpu")
    return states


def _start(name: str, spec: TrainSpec, train: Frames, validation: Frames, state: dict[str, Any] | None) -> Fit:
    sizes = train.observation.shape[1], train.target.shape[1]
    rank = ray.train.get_context().get_world_rank()
    fit = make_fit(name, spec.config, *sizes, spec.fields, rank, ray.train.torch.get_device())
    fit.attach(train, validation, spec.fields)
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
    metrics = {"model": name, "rows": rows, "finished": fit.finished, "best_loss": fit.best_loss}
    if fit.rank:
        ray.train.report(metrics)
        return
    with tempfile.TemporaryDirectory() as folder:
        torch.save(states, os.path.join(folder, STATE_FILE))
        ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))
