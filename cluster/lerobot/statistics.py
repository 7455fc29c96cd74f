"""Statistics of a feature, an episode at a time: minimum, maximum, mean, standard deviation, count, per component.

Those of a whole dataset are put together from its episodes (Chan, Golub and LeVeque's parallel variance), so that no process ever
holds all frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Statistics"]


@dataclass(frozen=True)
class Statistics:
    """Of one feature. Every array has the feature's shape; ``std`` is the population's."""

    minimum: np.ndarray
    maximum: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    count: int

    @classmethod
    def of(cls, values: np.ndarray) -> Statistics:
        """Over the frames of ``values``. Shape (frames, ...), at least one frame."""
        values = values.reshape(len(values), -1) if values.ndim == 1 else values
        wide = values.astype(np.float64)
        # Of the values themselves: float64 does not hold every int64, and int64 not every uint64.
        kind = np.int64 if values.dtype.kind in "iub" and values.dtype != np.uint64 else np.float64
        return cls(values.min(axis=0).astype(kind), values.max(axis=0).astype(kind), wide.mean(axis=0), wide.std(axis=0), len(values))

    @classmethod
    def combined(cls, parts: Sequence[Statistics]) -> Statistics:
        """Of all the frames that ``parts`` are of."""
        counts = np.array([part.count for part in parts], dtype=np.float64)
        weights = counts / counts.sum()
        means = np.stack([part.mean for part in parts])
        spread = np.stack([part.std for part in parts]) ** 2
        weights = weights.reshape(-1, *[1] * (means.ndim - 1))
        mean = (weights * means).sum(axis=0)
        variance = (weights * (spread + (means - mean) ** 2)).sum(axis=0)
        return cls(
            np.min([part.minimum for part in parts], axis=0),
            np.max([part.maximum for part in parts], axis=0),
            mean,
            np.sqrt(variance),
            int(counts.sum()),
        )

    def to_json(self) -> dict[str, Any]:
        """As in ``stats.json``; nested lists of the feature's shape."""
        return {
            "min": self.minimum.tolist(),
            "max": self.maximum.tolist(),
            "mean": self.mean.tolist(),
            "std": self.std.tolist(),
            "count": [self.count],
        }
