"""Mapping files: which topics and fields of a recording are which features, on which clock, where episodes begin and end.

fps: 50
task: pour
features:
  observation.state: {topic: /joint_states, field: position, names: [shoulder, elbow], unit: rad}
  observation.gyro: {topic: /imu, field: angular_velocity, unit: rad/s, align: linear}
  action: {topic: /joint_commands, field: position, names: [shoulder, elbow], unit: rad}
episodes: {gap_s: 2.0}

``configs/datasets/ros2_arm.yaml`` is an example to copy.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from cluster.config import Config, load_config

__all__ = ["EpisodeRule", "FieldMapping", "Mapping", "load_mapping"]


class FieldMapping(Config):
    """Where one feature comes from."""

    topic: str = Field(min_length=1, description="topic of the messages, as the recording names it")
    field: str | tuple[str, ...] = Field(
        min_length=1, description="field of the message (a.b.c, or a.0 for an element), or several put together in this order"
    )
    names: tuple[str, ...] = Field(
        (), description="components in order; where the messages name theirs, which to take; empty: as the first message has them"
    )
    names_field: str | None = Field(
        None, description="field of the message that names the components; None: `name` of a JointState, for others none"
    )
    unit: str = Field("", description="unit of the components")
    dtype: str = Field("float32", description="element type of the feature: bool, int8 to uint64, float16 to float64, or image (encoded)")
    align: Literal["hold", "nearest", "linear"] = Field(
        "hold", description="onto the frame clock: the last message before the frame, the nearest, or between two"
    )
    max_age_s: float = Field(0.5, gt=0, description="a frame whose message is further away than this is an error")
    min_rate_hz: float | None = Field(
        None, ge=0, description="slowest median rate of the topic that is accepted; None: 0.9 of fps; for align: hold any"
    )

    @property
    def fields(self) -> tuple[str, ...]:
        """One or several."""
        return (self.field,) if isinstance(self.field, str) else self.field

    @field_validator("dtype")
    @classmethod
    def _dtype(cls, dtype: str) -> str:
        if dtype == "image":
            return dtype
        try:
            kind = np.dtype(dtype)
        except TypeError:
            kind = np.dtype(object)
        if kind.kind not in "biuf" or kind.itemsize > 8:
            raise ValueError(f"{dtype!r} is no element type; allowed: bool, int8 to int64, uint8 to uint64, float16 to float64, image")
        return kind.name

    @model_validator(mode="after")
    def _sense(self) -> FieldMapping:
        if self.align == "linear" and (self.dtype == "image" or np.dtype(self.dtype).kind != "f"):
            raise ValueError(f"align: linear needs floating-point numbers, the element type is {self.dtype}; use hold or nearest")
        if self.dtype == "image" and len(self.fields) != 1:
            raise ValueError("an image is one field, such as data of a sensor_msgs/CompressedImage")
        return self

    def slowest_rate_hz(self, fps: int) -> float:
        """Median rate below which the topic is refused."""
        if self.min_rate_hz is not None:
            return self.min_rate_hz
        return 0.0 if self.align == "hold" else 0.9 * fps


class EpisodeRule(Config):
    """Where an episode begins and ends. With neither ``gap_s`` nor ``topic`` a file is one."""

    gap_s: float | None = Field(None, gt=0, description="after a pause of all topics this long; None: not by pauses")
    topic: str | None = Field(None, description="topic that marks them; None: none does")
    field: str = Field(
        "data", description="of the marking topic: a number is not 0 during an episode; a text names the task and begins one, empty ends it"
    )
    least_frames: int = Field(2, ge=1, description="shorter ones are left out")

    @model_validator(mode="after")
    def _one(self) -> EpisodeRule:
        if self.gap_s is not None and self.topic is not None:
            raise ValueError("give gap_s or topic, not both")
        return self


class Mapping(Config):
    """A mapping file."""

    fps: int = Field(ge=1, description="frames a second of the dataset")
    features: dict[str, FieldMapping] = Field(min_length=1, description="features by name")
    episodes: EpisodeRule = Field(EpisodeRule(), description="where episodes begin and end")
    clock: Literal["header", "log"] = Field(
        "header", description="time of a message: header, when it was made (log where it has none); log, when it was recorded"
    )
    task: str = Field("", description="what was attempted, where no topic says")
    robot_type: str = Field("", description="the robot")

    @field_validator("features")
    @classmethod
    def _reserved(cls, features: dict[str, FieldMapping]) -> dict[str, FieldMapping]:
        taken = {"timestamp", "frame_index", "episode_index", "index", "task_index"} & features.keys()
        if taken:
            raise ValueError(f"{min(taken)} is made by the frame clock and cannot be mapped")
        return features

    @property
    def topics(self) -> tuple[str, ...]:
        """Those of the features, each once."""
        return tuple(dict.fromkeys(feature.topic for feature in self.features.values()))


def load_mapping(path: Path) -> Mapping:
    """Read a mapping file. Raises ``ConfigError`` that names the file and the key."""
    return load_config(path, Mapping)
