"""Train/validation split by whole episodes, seeded, every task on both sides where it has two episodes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["split_episodes"]


def split_episodes(tasks: Sequence[str], validation_fraction: float, seed: int) -> dict[str, list[int]]:
    """Choose the validation episodes of each task at random.

    Args:
        tasks: task of each episode.
        validation_fraction: share of a task's episodes to hold out, 0 up to 1; at least one where it is above 0 and two exist.
        seed: of the choice; the same tasks and seed give the same split.

    Returns:
        ``{"train": [...], "validation": [...]}``, episode indices in order, disjoint and complete.
    """
    random = np.random.default_rng(seed)
    validation: list[int] = []
    for task in sorted(set(tasks)):
        episodes = np.flatnonzero(np.array(tasks, dtype=object) == task)
        held_out = round(len(episodes) * validation_fraction)
        if validation_fraction > 0 and len(episodes) > 1:
            held_out = min(max(held_out, 1), len(episodes) - 1)
        validation += random.permutation(episodes)[:held_out].tolist()
    chosen = set(validation)
    return {"train": [index for index in range(len(tasks)) if index not in chosen], "validation": sorted(validation)}
