"""The Ray Data side of imitation: what the workers' shards are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from trainables.datasets.lerobot import read_dataset
from trainables.imitation.spec import TrainSpec
from trainables.imitation.streaming import episode_stream

if TYPE_CHECKING:
    import ray.data

__all__ = ["Part", "datasets_of"]


@dataclass(frozen=True)
class Part:
    """One folder of several that are trained on together."""

    path: Path
    first_episode: int = 0
    """What its episode 0 is called among those of all parts."""


def datasets_of(parts: Sequence[Part], spec: TrainSpec) -> dict[str, ray.data.Dataset]:
    """Ray Train's datasets by name: ``frames`` in memory, or ``train`` and ``validation`` in a stream."""
    if spec.streamed:
        (part,) = parts
        sides = {"train": spec.train_episodes, "validation": spec.validation_episodes}
        features = [name for name in spec.columns if name in spec.features]
        return {name: episode_stream(part.path, episodes, features, name == "train") for name, episodes in sides.items()}
    first, *others = (_frames(part, spec.columns) for part in parts)
    # Read once, here: workers that hold every CPU of a small machine would leave none for reading tasks.
    return {"frames": (first.union(*others) if others else first).materialize()}


def _frames(part: Part, columns: Sequence[str]) -> ray.data.Dataset:
    frames = read_dataset(part.path, columns=columns)
    if not part.first_episode:
        return frames

    def renumbered(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {**batch, "episode_index": batch["episode_index"] + part.first_episode}

    return frames.map_batches(renumbered, batch_format="numpy")
