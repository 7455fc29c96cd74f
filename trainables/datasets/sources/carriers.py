"""How features travel as ROS 2 messages, without loss: which type, which field, and both directions.

``sensor_msgs/JointState`` where a feature is joint positions, velocities or efforts in the units that the type means (rad or m, per
second, N·m or N); ``sensor_msgs/Imu`` where its components are an IMU's; ``sensor_msgs/CompressedImage`` for encoded images;
otherwise the ``std_msgs/...MultiArray`` of its element type. Floats of 32 bit go through 64 bit and back unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.typesys import Stores, get_typestore

from cluster.lerobot.errors import DatasetError
from cluster.lerobot.features import Feature
from trainables.datasets.sources.images import image_format
from trainables.datasets.sources.limits import one_line

__all__ = ["IMU_NAMES", "Carrier", "carriers_of", "typestore"]

MULTI_ARRAYS = {
    "bool": ("UInt8", np.uint8),
    "float16": ("Float32", np.float32),
    **{name: (name.capitalize(), np.dtype(name).type) for name in ("int8", "int16", "int32", "int64", "float32", "float64")},
    **{f"u{name}": (f"UI{name[1:]}", np.dtype(f"u{name}").type) for name in ("int8", "int16", "int32", "int64")},
}
"""Element type -> start of the message type's name, element type in the message; ROS has no array of booleans or half floats."""
JOINT_FIELDS = {"rad": "position", "m": "position", "rad/s": "velocity", "m/s": "velocity", "N·m": "effort", "Nm": "effort", "N": "effort"}
AXES = frozenset("xyzw")
IMU_NAMES = (
    *(f"orientation.{axis}" for axis in "xyzw"),
    *(f"angular_velocity.{axis}" for axis in "xyz"),
    *(f"linear_acceleration.{axis}" for axis in "xyz"),
)
NANOSECONDS = 10**9


@lru_cache(maxsize=1)
def typestore() -> Any:
    """The message types of ROS 2 Jazzy, which are those of every release since Foxy for the types used here."""
    return get_typestore(Stores.ROS2_JAZZY)


@dataclass(frozen=True)
class Carrier:
    """The topic of one feature."""

    feature: Feature
    topic: str
    type: str
    """Message type, ``package/msg/Name``."""
    field: str
    """Field of the message that holds the values; empty for an IMU, which has three."""

    def to_json(self) -> dict[str, str]:
        """As in the manifest."""
        return {"topic": self.topic, "type": self.type, "field": self.field}

    @classmethod
    def from_json(cls, feature: Feature, entry: Any, file: Path) -> Carrier:
        """Read it from the manifest in ``file``. Raises ``DatasetError``."""
        try:
            return cls(feature, str(entry["topic"]), str(entry["type"]), str(entry["field"]))
        except (KeyError, TypeError):
            raise DatasetError(f"{file}: its manifest names no topic for the feature {feature.name!r}") from None

    def encode(self, frame: Any, time_ns: int) -> bytes:
        """One frame of the feature as a message in CDR. ``time_ns``: into the header, where the type has one."""
        return bytes(typestore().serialize_cdr(self._message(frame, time_ns), self.type))

    def decode(self, messages: Sequence[bytes]) -> np.ndarray:
        """Frames from messages in CDR. Shape (frames, *shape), or (frames,) for a scalar or image.

        Raises:
            DatasetError: a message is damaged or holds another number of values. The text is the end of a line.
        """
        feature, frames = self.feature, len(messages)
        is_image = feature.dtype == "image"
        values: np.ndarray = np.empty(frames, dtype=object)
        if not is_image:
            values = np.empty((frames, feature.size), MULTI_ARRAYS[feature.dtype][1] if "MultiArray" in self.type else np.float64)
        for frame, raw in enumerate(messages):
            try:
                message: Any = typestore().deserialize_cdr(raw, self.type)
                found = _imu_values(message) if self.type.endswith("/Imu") else getattr(message, self.field)
            except Exception as error:  # whatever a damaged message makes the decoder do
                raise DatasetError(f"frame {frame} of {self.topic} cannot be decoded: {one_line(error)}") from None
            if is_image:
                values[frame] = found.tobytes()
            elif len(found) == feature.size:
                values[frame] = found
            else:
                raise DatasetError(f"frame {frame} of {self.topic} has {len(found)} values, {feature.size} are wanted")
        if is_image:
            return values
        with np.errstate(over="ignore", invalid="ignore"):  # infinity and NaN are values too
            typed = values.astype(feature.dtype)
        return typed[:, 0] if feature.shape == (1,) else typed.reshape(frames, *feature.shape)

    def _message(self, frame: Any, time_ns: int) -> Any:
        types = typestore().types
        if self.type.startswith("std_msgs/"):
            values = np.ascontiguousarray(frame, MULTI_ARRAYS[self.feature.dtype][1]).reshape(-1)
            dimension = types["std_msgs/msg/MultiArrayDimension"]
            shape = self.feature.shape if len(self.feature.shape) > 1 else ()
            strides = [int(np.prod(shape[axis:])) for axis in range(len(shape))]
            dim = [dimension("", length, stride) for length, stride in zip(shape, strides, strict=True)]
            return types[self.type](types["std_msgs/msg/MultiArrayLayout"](dim, 0), values)
        stamp = types["builtin_interfaces/msg/Time"](*divmod(time_ns, NANOSECONDS))
        header = types["std_msgs/msg/Header"](stamp, "")
        if self.type.endswith("/CompressedImage"):
            return types[self.type](header, image_format(frame), np.frombuffer(frame, np.uint8))
        values = np.asarray(frame, np.float64).reshape(-1)
        if self.type.endswith("/JointState"):
            parts = {name: np.zeros(0) for name in ("position", "velocity", "effort")} | {self.field: values}
            return types[self.type](header, list(self.feature.names or ()), **parts)
        vector, unknown = types["geometry_msgs/msg/Vector3"], np.zeros(9)
        quaternion = types["geometry_msgs/msg/Quaternion"](*values[:4])
        return types[self.type](header, quaternion, unknown, vector(*values[4:7]), unknown, vector(*values[7:]), unknown)


def carriers_of(features: Sequence[Feature]) -> dict[str, Carrier]:
    """A topic of its own for each feature that has a column."""
    carriers: dict[str, Carrier] = {}
    topics: set[str] = set()
    for feature in features:
        if not feature.is_column:
            continue
        topic = _topic(feature.name)
        while topic in topics:
            topic += "_"
        topics.add(topic)
        carriers[feature.name] = Carrier(feature, topic, *_type(feature))
    return carriers


def _type(feature: Feature) -> tuple[str, str]:
    if feature.dtype == "image":
        return "sensor_msgs/msg/CompressedImage", "data"
    is_float = feature.dtype in ("float16", "float32", "float64") and len(feature.shape) == 1
    if is_float and feature.names == IMU_NAMES:
        return "sensor_msgs/msg/Imu", ""
    if is_float and feature.names and feature.unit in JOINT_FIELDS and not set(feature.names) <= AXES:
        return "sensor_msgs/msg/JointState", JOINT_FIELDS[feature.unit]
    if feature.dtype not in MULTI_ARRAYS:
        raise DatasetError(f"feature {feature.name!r}: {feature.dtype} has no ROS message; allowed: {', '.join(MULTI_ARRAYS)}")
    return f"std_msgs/msg/{MULTI_ARRAYS[feature.dtype][0]}MultiArray", "data"


def _topic(name: str) -> str:
    """A legal topic name: its parts begin with a letter and hold letters, digits and underscores."""
    parts = []
    for part in name.split("."):
        safe = "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in part)
        parts.append(safe if safe[:1].isalpha() else f"f_{safe}")
    return "/" + "/".join(parts)


def _imu_values(message: Any) -> list[float]:
    rotation, rate, acceleration = message.orientation, message.angular_velocity, message.linear_acceleration
    return [rotation.x, rotation.y, rotation.z, rotation.w, rate.x, rate.y, rate.z, acceleration.x, acceleration.y, acceleration.z]
