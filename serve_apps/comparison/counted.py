"""The observations that a verdict counts, as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cluster.store.comparisons import Arm, Comparison, CountedEpisode
from serve_apps.comparison.units import Unit

__all__ = ["Counted"]


@dataclass(frozen=True)
class Counted:
    """Observations (episodes, or robots) in the order of assignment, of the arms that act."""

    comparison: Comparison
    arms: tuple[Arm, ...]
    """The champion, then the challengers; shadows are not among them."""
    outcome: NDArray[np.float64]
    """Mean of each one's episodes, in [0, 1]. Shape (units,)."""
    index: NDArray[np.int64]
    """Position of its arm. Shape (units,)."""
    versions: NDArray[np.int64]
    """Version of the weights that it was drawn with. Shape (units,)."""
    splits: NDArray[np.float64]
    """Probability of every arm when it was drawn. Shape (units, arms)."""
    episodes: Sequence[CountedEpisode]
    """All of their episodes, in one row."""
    raw: NDArray[np.float64]
    """Outcome of each episode in the metric's units, a missing one the lowest. Shape (episodes,)."""
    owner: NDArray[np.int64]
    """Which observation each episode belongs to. Shape (episodes,)."""

    @classmethod
    def of(cls, comparison: Comparison, units: Sequence[Unit]) -> Counted:
        """The arrays of a comparison's observations."""
        low, high, arms = comparison.low, comparison.high, comparison.acting_arms
        names = [arm.name for arm in arms]
        position = {name: k for k, name in enumerate(names)}
        episodes = [episode for unit in units for episode in unit]
        owner = np.repeat(np.arange(len(units)), [len(unit) for unit in units])
        raw = np.array([low if episode.outcome is None else episode.outcome.value for episode in episodes], dtype=np.float64)
        share = (np.clip(raw, low, high) - low) / (high - low)
        outcome = np.bincount(owner, share, len(units)) / np.maximum(1, np.bincount(owner, minlength=len(units)))
        index = np.array([position[unit[0].arm] for unit in units], dtype=np.int64)
        versions = np.array([unit[0].weights_version for unit in units], dtype=np.int64)
        total = sum(arm.weight for arm in arms)
        by_version = {1: [arm.weight / total for arm in arms]}
        by_version |= {split.version: [split.share(name, names) for name in names] for split in comparison.weights}
        known, place = np.unique(versions, return_inverse=True)
        table = np.array([by_version[int(version)] for version in known], dtype=np.float64).reshape(len(known), len(names))
        return cls(comparison, arms, outcome, index, versions, table[place], episodes, raw, owner)

    def __len__(self) -> int:
        return len(self.index)

    @property
    def by_robot(self) -> bool:
        """Whether an observation is a robot."""
        return self.comparison.unit == "robot"

    @property
    def alpha(self) -> float:
        """Of one challenger's test."""
        return self.comparison.alpha / max(1, len(self.arms) - 1)

    @property
    def width(self) -> float:
        """Of the metric's bounds."""
        return self.comparison.high - self.comparison.low

    def episodes_with(self, version: int) -> int:
        """How many counted episodes were drawn with one version of the weights."""
        return int(np.count_nonzero(self.versions[self.owner] == version))
