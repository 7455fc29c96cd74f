"""Features: what one column of a LeRobot dataset holds, and how it travels between NumPy, Arrow and ``info.json``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from cluster.lerobot.errors import DatasetError

__all__ = ["INDEX_FEATURES", "Feature", "to_arrow", "to_numpy", "with_index_features"]

IMAGE_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
"""How Hugging Face's ``datasets`` keeps an image in a column: the encoded file, and where it was."""


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
    info: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """What the format says of a video or image beside its shape (codec, pixel format, ...); passed on as it is."""

    @property
    def size(self) -> int:
        """Scalars in one frame."""
        return math.prod(self.shape)

    @property
    def is_visual(self) -> bool:
        """A video or an image: passed through in its encoded form, never decoded."""
        return self.dtype in ("video", "image")

    @property
    def is_column(self) -> bool:
        """In the data files; only videos are not."""
        return self.dtype != "video"

    @property
    def arrow_type(self) -> pa.DataType:
        """Type of the column; nested lists for more than one axis. Raises ``ValueError`` for a video, which has no column."""
        if self.dtype == "image":
            return IMAGE_TYPE
        if self.dtype == "video":
            raise ValueError(f"{self.name} is a video")
        kind = pa.from_numpy_dtype(np.dtype(self.dtype))
        if self.shape == (1,):
            return kind
        for length in reversed(self.shape):
            kind = pa.list_(kind, length)
        return kind

    def to_json(self) -> dict[str, Any]:
        """Entry in ``info.json``."""
        entry: dict[str, Any] = {"dtype": self.dtype, "shape": list(self.shape), "names": list(self.names) if self.names else None}
        return entry | ({"unit": self.unit} if self.unit else {}) | ({"info": dict(self.info)} if self.info else {})

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
            parts = None if names is None else tuple(str(part) for part in names)
            return cls(name, str(entry["dtype"]), shape, parts, str(entry.get("unit", "")), dict(entry.get("info") or {}))
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
            # Its name becomes a folder's.
            if not feature.name or "/" in feature.name or "\\" in feature.name or feature.name in (".", ".."):
                raise DatasetError(f"feature {feature.name!r}: the name of a {feature.dtype} must be one that a folder can have")
            continue
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
    """Frames of one feature as an Arrow column. Shape (frames, *feature.shape), or (frames,) for a scalar.

    Images are encoded files, one ``bytes`` a frame. Shape (frames,), of objects.
    """
    if feature.dtype == "image":
        return pa.array([{"bytes": image, "path": None} for image in values], IMAGE_TYPE)
    flat = np.ascontiguousarray(values, dtype=feature.dtype).reshape(-1)
    column = pa.array(flat)
    if feature.shape == (1,):
        return column
    for length in reversed(feature.shape):
        column = pa.FixedSizeListArray.from_arrays(column, length)
    return column


def to_numpy(column: pa.Array | pa.ChunkedArray, feature: Feature) -> np.ndarray:
    """The reverse. Shape (frames, *feature.shape), or (frames,) for a scalar; also from lists of variable length that happen to fit."""
    array = column
    if isinstance(column, pa.ChunkedArray):
        array = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    if feature.dtype == "image":
        return _images(array, feature)
    frames = len(array)
    while pa.types.is_nested(array.type):
        array = _elements(array)
    values: np.ndarray = array.to_numpy(zero_copy_only=False).astype(feature.dtype, copy=False)
    if values.size != frames * feature.size:
        raise DatasetError(f"column {feature.name!r}: {values.size} numbers in {frames} frames, {feature.size} a frame are wanted")
    return values if feature.shape == (1,) else values.reshape(frames, *feature.shape)


def _elements(array: pa.Array) -> pa.Array:
    """Of all lists, one after the other; ``flatten`` would copy those of a fixed length."""
    if pa.types.is_fixed_size_list(array.type) and not array.null_count:
        size = array.type.list_size
        return array.values.slice(array.offset * size, len(array) * size)
    return array.flatten()


def _images(array: pa.Array, feature: Feature) -> np.ndarray:
    """Encoded images, one ``bytes`` a frame. Shape (frames,), of objects."""
    encoded = array.field("bytes") if pa.types.is_struct(array.type) and array.type.get_field_index("bytes") >= 0 else array
    if not (pa.types.is_binary(encoded.type) or pa.types.is_large_binary(encoded.type)) or encoded.null_count:
        raise DatasetError(f"column {feature.name!r}: an image that is not stored as its encoded file in the column cannot be read")
    images = np.empty(len(encoded), dtype=object)
    images[:] = encoded.to_pylist()
    return images
