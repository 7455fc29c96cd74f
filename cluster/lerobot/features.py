"""Features: what one column of a LeRobot dataset holds, and how it travels between NumPy, Arrow and ``info.json``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from cluster.lerobot.errors import DatasetError

__all__ = ["INDEX_FEATURES", "Feature", "to_arrow", "to_numpy", "with_index_features"]


@dataclass(frozen=True)
class Feature:
    """One column. Shape ``(1,)`` is a scalar column, as LeRobot has it; others are lists of fixed length."""

    name: str
    dtype: str
    """NumPy name of the element type, or ``video`` / ``image``."""
    shape: tuple[int, ...]
    names: tuple[str, ...] | None = None
    """Name of each component; None: unnamed."""
    unit: str = ""
    """SI unit of each component; empty: dimensionless, or not said. Ours: LeRobot has none and leaves it alone."""

    @property
    def size(self) -> int:
        """Scalars in one frame."""
        return math.prod(self.shape)

    @property
    def is_visual(self) -> bool:
        """Kept in video or image files, not in the data columns."""
        return self.dtype in ("video", "image")

    @property
    def arrow_type(self) -> pa.DataType:
        """Type of the column; nested lists for more than one axis."""
        kind = pa.from_numpy_dtype(np.dtype(self.dtype))
        if self.shape == (1,):
            return kind
        for length in reversed(self.shape):
            kind = pa.list_(kind, length)
        return kind

    def to_json(self) -> dict[str, Any]:
        """Entry in ``info.json``."""
        entry = {"dtype": self.dtype, "shape": list(self.shape), "names": list(self.names) if self.names else None}
        return entry | {"unit": self.unit} if self.unit else entry

    @classmethod
    def from_json(cls, name: str, entry: Mapping[str, Any], source: str) -> Feature:
        """Read an entry of ``info.json``. Raises ``DatasetError`` that begins with ``source``."""
        try:
            shape = tuple(int(length) for length in entry["shape"])
            names = entry.get("names")
            # Older datasets nest the names under one key: {"motors": [...]}.
            names = next(iter(names.values())) if isinstance(names, Mapping) and len(names) == 1 else names
            if not isinstance(names, Sequence) or isinstance(names, str):
                names = None
            return cls(
                name, str(entry["dtype"]), shape, None if names is None else tuple(str(part) for part in names), str(entry.get("unit", ""))
            )
        except (KeyError, TypeError, ValueError):
            raise DatasetError(f"{source}: the feature {name!r} needs dtype and shape, given {entry!r}"[:300]) from None


INDEX_FEATURES = tuple(
    Feature(name, dtype, (1,))
    for name, dtype in (
        ("timestamp", "float32"),
        ("frame_index", "int64"),
        ("episode_index", "int64"),
        ("index", "int64"),
        ("task_index", "int64"),
    )
)
"""What every LeRobot dataset has beside its own features; the writer fills them in."""


def with_index_features(features: Sequence[Feature]) -> tuple[Feature, ...]:
    """``features`` plus those of every dataset, checked: different names, element types that NumPy knows, no empty axis."""
    given = {feature.name for feature in features}
    every = (*features, *(feature for feature in INDEX_FEATURES if feature.name not in given))
    if len({feature.name for feature in every}) != len(every):
        raise DatasetError("two features have the same name")
    for feature in every:
        if feature.is_visual:
            raise DatasetError(f"feature {feature.name!r}: {feature.dtype} features cannot be written; give numeric ones")
        try:
            np.dtype(feature.dtype)
        except TypeError:
            raise DatasetError(f"feature {feature.name!r}: {feature.dtype!r} is not a NumPy element type") from None
        if not feature.shape or min(feature.shape) < 1:
            raise DatasetError(f"feature {feature.name!r}: shape {feature.shape} must have at least one axis and no empty one")
        if feature.names and len(feature.names) != feature.size:
            raise DatasetError(f"feature {feature.name!r}: {len(feature.names)} names for {feature.size} components")
    return every


def to_arrow(values: np.ndarray, feature: Feature) -> pa.Array:
    """Frames of one feature as an Arrow column. Shape (frames, *feature.shape), or (frames,) for a scalar."""
    flat = np.ascontiguousarray(values, dtype=feature.dtype).reshape(-1)
    column = pa.array(flat)
    if feature.shape == (1,):
        return column
    for length in reversed(feature.shape):
        column = pa.FixedSizeListArray.from_arrays(column, length)
    return column


def to_numpy(column: pa.Array | pa.ChunkedArray, feature: Feature) -> np.ndarray:
    """The reverse. Shape (frames, *feature.shape), or (frames,) for a scalar; also from lists of variable length that happen to fit."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    frames = len(array)
    while pa.types.is_nested(array.type):
        array = array.flatten()
    values: np.ndarray = array.to_numpy(zero_copy_only=False).astype(feature.dtype, copy=False)
    if values.size != frames * feature.size:
        raise DatasetError(f"column {feature.name!r}: {values.size} numbers in {frames} frames, {feature.size} a frame are wanted")
    return values if feature.shape == (1,) else values.reshape(frames, *feature.shape)
