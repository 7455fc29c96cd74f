"""The Ray Data side of imitation: what the workers' shards are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trainables.datasets.frames import frame_tables
from trainables.imitation.spec import TrainSpec

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
    columns = tuple(spec.features)
    if spec.streamed:
        (part,) = parts
        sides = {"train": spec.train_episodes, "validation": spec.validation_episodes}
        return {name: frame_tables(part.path, episodes, columns, shuffle=name == "train") for name, episodes in sides.items()}
    every = (*spec.train_episodes, *spec.validation_episodes)
    first, *others = (
        frame_tables(part.path, [episode - part.first_episode for episode in own], columns, first_episode=part.first_episode)
        for part, own in zip(parts, _by_part(parts, every), strict=True)
    )
    # Read once, here: workers that hold every CPU of a small machine would leave none for reading tasks.
    return {"frames": (first.union(*others) if others else first).materialize()}


def _by_part(parts: Sequence[Part], episodes: Sequence[int]) -> list[list[int]]:
    """Episodes of each part; parts stand in the order of their first episodes."""
    ends = [*(part.first_episode for part in parts[1:]), None]
    return [
        [episode for episode in episodes if part.first_episode <= episode and (end is None or episode < end)]
        for part, end in zip(parts, ends, strict=True)
    ]
