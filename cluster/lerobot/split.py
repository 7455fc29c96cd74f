"""Train/validation split by whole episodes, seeded, every task on both sides where it has two episodes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cluster.lerobot.shards import ShardEpisode

__all__ = ["complete_split", "split_episodes", "without_held_out_copies"]


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


def complete_split(episodes: Sequence[ShardEpisode], validation_fraction: float, seed: int) -> dict[str, str]:
    """Side of every episode by key: as settled, else drawn. An episode and its copies are drawn together, as one.

    Args:
        episodes: in the order of their keys.
        validation_fraction: see ``split_episodes``.
        seed: of the draw.
    """
    sides = {episode.key: episode.split for episode in episodes if episode.split}
    open_ = [episode for episode in episodes if not episode.split]
    roots: dict[str, str] = {}  # original -> task, in the order in which they come
    for episode in open_:
        roots.setdefault(episode.origin or episode.key, episode.task)
    drawn = split_episodes(list(roots.values()), validation_fraction, seed)
    held_out = {list(roots)[index] for index in drawn["validation"]}
    for episode in open_:
        root = episode.origin or episode.key
        sides[episode.key] = sides.get(root) or ("validation" if root in held_out else "train")
    return sides


def without_held_out_copies(episodes: Sequence[ShardEpisode], sides: dict[str, str]) -> list[ShardEpisode]:
    """All but the changed copies of validation episodes, which would be measured in place of what was recorded."""
    keys = {episode.key for episode in episodes}
    return [episode for episode in episodes if not (sides[episode.key] == "validation" and episode.origin in keys)]
