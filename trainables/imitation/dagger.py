"""DAgger (Ross, Gordon and Bagnell 2011): train, let the policy drive, ask the expert what it would have done there, train on all of it.

Every round leaves a folder with the frames that it added and the fit that came of all frames so far; a killed run goes on after
the last whole round.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from cluster.errors import GaitwayError
from cluster.lerobot.episodes import episodes_to_table
from cluster.lerobot.info import DatasetInfo, load_info
from cluster.settings import Settings
from trainables.datasets.lerobot import DatasetSpec, Feature
from trainables.datasets.pipeline import quiet_ray_data
from trainables.imitation.config import DaggerConfig
from trainables.imitation.dagger_rollout import Rollout, roll_out
from trainables.imitation.reading import Part
from trainables.imitation.spec import TrainSpec
from trainables.motions.gaits import GAITS

__all__ = ["Lineage", "dagger_gaits", "run_dagger"]

FIT_FILE = "fit.pt"
VALIDATION_FRACTION = 0.15
"""Of a round's episodes, where the dataset does not say its own."""

Lineage = list[dict[str, Any]]
"""Of each part of the aggregated dataset: round, beta, path, digest, frames, falls."""
Train = Callable[[int, Sequence[Part], TrainSpec], dict[str, dict[str, Any]]]
"""Round, parts and spec -> ``Fit.state_dict()`` by model name."""


@dataclass(frozen=True)
class _Place:
    """Where a round keeps what it made."""

    folder: Path

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def fit(self) -> Path:
        return self.folder / FIT_FILE


def dagger_gaits(info: DatasetInfo) -> list[str]:
    """Gaits of a dataset whose expert can be asked. Raises ``GaitwayError`` when there is none."""
    found = [name for name in info.tasks if name in GAITS]
    if not found:
        raise GaitwayError(
            f"{info.path}: dagger asks the expert of a gait, and its tasks are {', '.join(info.tasks)}; known gaits: {', '.join(GAITS)}"
        )
    return found


def run_dagger(
    spec: TrainSpec, info: DatasetInfo, folder: Path, name: str, settings: Settings, train: Train
) -> tuple[dict[str, dict[str, Any]], TrainSpec, Lineage]:
    """All rounds.

    Args:
        spec: of the dataset that the first round trains on.
        info: that dataset.
        folder: where rounds are kept; those of another training in it are removed.
        name: identity of this training.
        settings: where shards may wait.
        train: fits the policy to some parts.

    Returns:
        The last round's fit by model name, its spec, and where all data came from.

    Raises:
        GaitwayError: the dataset has no gait with an expert.
    """
    gaits = dagger_gaits(info)
    (model,) = spec.config.models
    options = spec.config.dagger
    for other in folder.glob("*"):
        if other.name != name:
            shutil.rmtree(other, ignore_errors=True)
    parts = [Part(info.path)]
    lineage: Lineage = [{"round": 0, "beta": 1.0, "path": str(info.path), "digest": info.digest or "", "frames": info.num_frames}]
    states: dict[str, dict[str, Any]] = {}
    for number in range(options.rounds + 1):
        place = _Place(folder / name / f"round_{number}")
        if number:
            added = _drive(number, gaits, states[model], spec, info, place, settings)
            spec, parts = _with_part(spec, parts, added)
            lineage.append(_described(number, options, added))
        if place.fit.is_file():
            states = torch.load(place.fit, weights_only=True, map_location="cpu")
            continue
        states = train(number, parts, spec)
        place.folder.mkdir(parents=True, exist_ok=True)
        torch.save(states, place.folder / f".{FIT_FILE}")
        os.replace(place.folder / f".{FIT_FILE}", place.fit)
    return states, spec, lineage


def _described(number: int, options: DaggerConfig, added: DatasetInfo) -> dict[str, Any]:
    return {
        "round": number,
        "beta": options.beta**number,
        "path": str(added.path),
        "digest": added.digest,
        "frames": added.num_frames,
        "falls": sum(episode.length < options.episode_steps for episode in added.episodes),
    }


def _with_part(spec: TrainSpec, parts: Sequence[Part], added: DatasetInfo) -> tuple[TrainSpec, list[Part]]:
    first = 1 + max((*spec.train_episodes, *spec.validation_episodes))
    sides = {side: tuple(first + index for index in added.splits.get(side, ())) for side in ("train", "validation")}
    grown = replace(
        spec,
        train_episodes=spec.train_episodes + sides["train"],
        validation_episodes=spec.validation_episodes + sides["validation"],
    )
    return grown, [*parts, Part(added.path, first)]


def _drive(
    number: int, gaits: Sequence[str], state: Mapping[str, Any], spec: TrainSpec, info: DatasetInfo, place: _Place, settings: Settings
) -> DatasetInfo:
    """Record a round's frames, or find them recorded by the same policy already."""
    policy = {name: tensor.cpu().numpy() for name, tensor in state["best"].items()}
    digest = _digest(policy)
    try:
        found = load_info(place.data)
        if found.gaitway["lineage"]["policy"] == digest:
            return found
    except (GaitwayError, KeyError, TypeError):
        pass
    shutil.rmtree(place.folder, ignore_errors=True)
    options = spec.config.dagger
    work = _rollouts(number, gaits, spec)
    described = DatasetSpec(
        fps=int(info.fps),
        features=tuple(
            info.features.get(name, fallback)
            for name, fallback in (
                ("observation.state", None),
                ("action", None),
                ("next.reward", Feature("next.reward", "float32", (1,))),
                ("next.done", Feature("next.done", "bool", (1,))),
            )
        ),
        robot_type=info.robot_type,
        provenance={
            "task": spec.interface.task,
            "task_config": dict(spec.interface.task_config),
            "robot": spec.interface.robot,
            "lineage": {
                "kind": "dagger",
                "round": number,
                "beta": options.beta**number,
                "policy": digest,
                "dataset": info.digest,
                "config": options.model_dump(mode="json"),
            },
        },
        validation_fraction=float(info.gaitway.get("validation_fraction") or VALIDATION_FRACTION),
        seed=spec.config.seed,
    )
    _record(work, dict(state["architecture"]), policy, described, place.data, settings)
    return load_info(place.data)


def _rollouts(number: int, gaits: Sequence[str], spec: TrainSpec) -> list[Rollout]:
    options, interface = spec.config.dagger, spec.interface
    physics = {**(interface.task_config.get("physics") or {}), "preset": options.physics}
    task_config = {**interface.task_config, "physics": physics}
    work = []
    for place, gait in enumerate(gaits):
        left = max(1, round(options.frames_per_round / len(gaits) / options.episode_steps))
        batch = 0
        while left > 0:
            robots = min(left, options.robots_per_task)
            seed = int(np.random.SeedSequence([spec.config.seed, number, place, batch]).generate_state(1)[0])
            key = f"{place:03d}-{batch:05d}"
            work.append(Rollout(key, gait, robots, options.episode_steps, seed, interface.task, task_config, options.beta**number))
            left, batch = left - robots, batch + 1
    return work


def _record(
    work: Sequence[Rollout],
    architecture: dict[str, Any],
    weights: dict[str, np.ndarray],
    described: DatasetSpec,
    path: Path,
    settings: Settings,
) -> None:
    """The Ray Data pipeline: one row a batch -> a task that simulates it -> one row an episode -> the sink."""
    import ray.data

    from trainables.datasets.pipeline import own_errors
    from trainables.datasets.sink import LeRobotSink

    quiet_ray_data()
    sink = LeRobotSink(path, described, settings.shared_path / "staging", overwrite=True)
    features = sink.features

    def simulate(batch: pa.Table) -> pa.Table:
        episodes = [episode for index in batch["index"].to_pylist() for episode in roll_out(work[index], architecture, weights)]
        return episodes_to_table(episodes, features)

    rows = ray.data.from_items([{"index": index} for index in range(len(work))], override_num_blocks=len(work))
    path.parent.mkdir(parents=True, exist_ok=True)
    with own_errors():
        rows.map_batches(simulate, batch_format="pyarrow", batch_size=None, num_cpus=1).write_datasink(sink)


def _digest(weights: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(json.dumps([name, list(weights[name].shape)]).encode())
        digest.update(np.ascontiguousarray(weights[name]).tobytes())
    return digest.hexdigest()
