"""Frames as ROS 2 messages and back, without loss: what our MCAP files and ROS 2 bags hold.

Floating-point vectors with named components are ``sensor_msgs/JointState`` (its float64 holds every float32), everything else numeric
is the ``std_msgs/*MultiArray`` of its element type, and an encoded image is a ``sensor_msgs/CompressedImage``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from rosbags.typesys import Stores, get_typestore
from rosbags.typesys.store import Typestore

from cluster.lerobot.errors import DatasetError
from cluster.lerobot.features import Feature

__all__ = ["Channel", "channels_of", "frame_times_ns", "typestore"]

JOINT_STATE, IMAGE = "sensor_msgs/msg/JointState", "sensor_msgs/msg/CompressedImage"
_ARRAYS = {
    "float16": "Float32MultiArray",
    "float32": "Float32MultiArray",
    "float64": "Float64MultiArray",
    "int8": "Int8MultiArray",
    "int16": "Int16MultiArray",
    "int32": "Int32MultiArray",
    "int64": "Int64MultiArray",
    "uint8": "UInt8MultiArray",
    "bool": "UInt8MultiArray",
    "uint16": "UInt16MultiArray",
    "uint32": "UInt32MultiArray",
    "uint64": "UInt64MultiArray",
}
_MAGIC = ((b"\x89PNG", "png"), (b"\xff\xd8", "jpeg"), (b"RIFF", "webp"))


@lru_cache
def typestore() -> Typestore:
    """The message definitions of ROS 2 Humble; those used here are the same in every later release."""
    return get_typestore(Stores.ROS2_HUMBLE)


@dataclass(frozen=True)
class Channel:
    """One feature's topic."""

    feature: Feature
    topic: str

    @property
    def message_type(self) -> str:
        """ROS 2 name of the message."""
        feature = self.feature
        if feature.dtype == "image":
            return IMAGE
        if feature.names and feature.dtype in ("float32", "float64") and len(feature.shape) == 1:
            return JOINT_STATE
        try:
            return f"std_msgs/msg/{_ARRAYS[feature.dtype]}"
        except KeyError:
            raise DatasetError(f"feature {feature.name!r}: {feature.dtype} has no ROS message; allowed: {', '.join(_ARRAYS)}") from None

    def serialise(self, value: Any, time_ns: int) -> bytes:
        """One frame of the feature -> CDR bytes. ``value``: shape ``feature.shape``, or a scalar, or an encoded image."""
        types = typestore().types
        name = self.message_type
        if name == IMAGE:
            kind = next((kind for magic, kind in _MAGIC if value.startswith(magic)), "")
            message = types[name](_header(time_ns), kind, np.frombuffer(value, np.uint8))
        elif name == JOINT_STATE:
            empty = np.zeros(0)
            message = types[name](_header(time_ns), list(self.feature.names or ()), np.asarray(value, np.float64).reshape(-1), empty, empty)
        else:
            data = np.asarray(value).reshape(-1)
            wide = {"float16": np.float32, "bool": np.uint8}.get(self.feature.dtype)
            data = np.ascontiguousarray(data if wide is None else data.astype(wide))
            message = types[name](_layout(self.feature), data)
        return bytes(typestore().serialize_cdr(message, name))

    def parse(self, data: bytes) -> Any:
        """The reverse: a flat array of the feature's numbers, or an encoded image."""
        message: Any = typestore().deserialize_cdr(data, self.message_type)
        if self.message_type == IMAGE:
            return bytes(message.data)
        if self.message_type == JOINT_STATE:
            return message.position
        return message.data

    def column(self, rows: Sequence[Any], where: str) -> np.ndarray:
        """Parsed frames -> the feature's column. Raises ``DatasetError`` when a frame has another number of components."""
        if self.feature.dtype == "image":
            images = np.empty(len(rows), dtype=object)
            images[:] = rows
            return images
        for number, row in enumerate(rows):
            if len(row) != self.feature.size:
                raise DatasetError(f"{where}: frame {number}: {self.topic} has {len(row)} numbers; {self.feature.size} are wanted")
        values = np.stack(rows).astype(self.feature.dtype)
        return values[:, 0] if self.feature.shape == (1,) else values.reshape(len(rows), *self.feature.shape)


def channels_of(features: Sequence[Feature]) -> list[Channel]:
    """A topic for each feature that is a column: ``observation.state`` -> ``/observation/state``. Topics differ."""
    channels: list[Channel] = []
    taken: set[str] = set()
    for feature in features:
        if not feature.is_column:
            continue
        parts = [re.sub(r"[^A-Za-z0-9_]", "_", part) for part in re.split(r"[./]", feature.name)]
        topic = "/" + "/".join(part if part[:1].isalpha() else f"f{part}" for part in parts)
        while topic in taken:
            topic += "_"
        taken.add(topic)
        channels.append(Channel(feature, topic))
    return channels


def frame_times_ns(timestamps_s: np.ndarray, start_ns: int) -> np.ndarray:
    """When each frame is logged: its timestamp after ``start_ns``, never before the frame ahead. Shape (frames,), int64.

    The timestamps themselves are a feature of their own; these times only order and place the messages.
    """
    finite = np.nan_to_num(timestamps_s.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    return start_ns + np.maximum.accumulate(np.rint(finite * 1e9).astype(np.int64).clip(0))


def _header(time_ns: int) -> Any:
    types = typestore().types
    seconds, nanoseconds = divmod(int(time_ns), 10**9)
    return types["std_msgs/msg/Header"](types["builtin_interfaces/msg/Time"](seconds, nanoseconds), "")


def _layout(feature: Feature) -> Any:
    types = typestore().types
    dimension = types["std_msgs/msg/MultiArrayDimension"]
    label = ",".join(feature.names) if feature.names else feature.name
    strides = [int(np.prod(feature.shape[place:])) for place in range(len(feature.shape))]
    return types["std_msgs/msg/MultiArrayLayout"](
        [dimension(label, size, stride) for size, stride in zip(feature.shape, strides, strict=True)], 0
    )
