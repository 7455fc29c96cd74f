"""Arrays of an episode that some format names its own way, as features of ours."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from cluster.lerobot.errors import DatasetError
from cluster.lerobot.features import Feature

__all__ = ["STANDARD_NAMES", "check_lengths", "column_of", "feature_of", "rate_hz"]

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


def feature_of(name: str, values: np.ndarray, unit: str = "") -> Feature:
    """The feature that an array with a row a frame is. An object array holds encoded images."""
    if values.dtype == object:
        return Feature(name, "image", (1,), None, unit)
    shape = tuple(values.shape[1:]) or (1,)
    return Feature(name, "bool" if values.dtype == bool else values.dtype.newbyteorder("=").name, shape, None, unit)


def column_of(values: np.ndarray) -> np.ndarray:
    """The array as a column: a scalar feature has no second axis; native byte order."""
    values = values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values
    return values if values.dtype == object else np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("="))


def check_lengths(arrays: Mapping[str, np.ndarray], where: str) -> int:
    """Frames of an episode. Raises ``DatasetError`` when its arrays have different numbers, or none."""
    lengths = {name: len(values) for name, values in arrays.items()}
    if not lengths:
        raise DatasetError(f"{where}: has no arrays with a row a frame")
    if len(set(lengths.values())) > 1:
        raise DatasetError(f"{where}: its arrays have different numbers of frames: {', '.join(f'{n} {k}' for n, k in lengths.items())}")
    frames = next(iter(lengths.values()))
    if not frames:
        raise DatasetError(f"{where}: has no frames")
    return frames


def rate_hz(timestamps_s: np.ndarray, where: str) -> int:
    """Whole frames a second of some timestamps, by their median step. Raises ``DatasetError`` when there is none."""
    steps = np.diff(timestamps_s.astype(np.float64).reshape(-1))
    step = float(np.median(steps)) if len(steps) else 0.0
    if not step > 0:
        raise DatasetError(f"{where}: its timestamps do not rise; give the frames a second with --fps")
    return max(1, round(1.0 / step))
