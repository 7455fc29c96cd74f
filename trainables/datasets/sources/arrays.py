"""Arrays of an episode that some format names its own way, as features of ours."""

from __future__ import annotations

import numpy as np

from cluster.lerobot.errors import DatasetError

__all__ = ["STANDARD_NAMES", "column_of", "rate_hz"]

STANDARD_NAMES = {
    "obs": "observation.state",
    "observation": "observation.state",
    "observations": "observation.state",
    "state": "observation.state",
    "states": "observation.state",
    "action": "action",
    "actions": "action",
    "reward": "next.reward",
    "rewards": "next.reward",
    "done": "next.done",
    "dones": "next.done",
    "terminal": "next.done",
    "terminals": "next.done",
    "timestamp": "timestamp",
    "timestamps": "timestamp",
    "time": "timestamp",
}
"""Names that robot learning has for the same few things -> LeRobot's."""


def column_of(values: np.ndarray) -> np.ndarray:
    """The array as a column: a scalar feature has no second axis; native byte order."""
    values = values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values
    return np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("="))


def rate_hz(timestamps_s: np.ndarray, where: str) -> int:
    """Whole frames a second of some timestamps, by their median step. Raises ``DatasetError`` when there is none."""
    steps = np.diff(timestamps_s.astype(np.float64).reshape(-1))
    step = float(np.median(steps)) if len(steps) else 0.0
    if not step > 0:
        raise DatasetError(f"{where}: its timestamps do not rise; give the frames a second with --fps")
    return max(1, round(1.0 / step))
