"""Mapping files: which topics and fields of an MCAP file or ROS bag are which features, and how they come onto one clock.

fps: 50
task: pour
features:
  observation.state: {topic: /joint_states, field: position, names: [shoulder, elbow], unit: rad}
  observation.gyro: {topic: /imu, field: [angular_velocity.x, angular_velocity.y, angular_velocity.z], unit: rad/s, align: linear}
  action: {topic: /joint_commands, field: position, names: [shoulder, elbow], unit: rad}
episodes: {gap_s: 2.0}
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from cluster.config import Config, load_config

__all__ = ["EpisodeRule", "FieldMapping", "Mapping", "load_mapping"]


class FieldMapping(Config):
    """Where one feature comes from."""

    topic: str = Field(description="topic of the messages")
    field: str | tuple[str, ...] = Field(description="field of the message (a.b.c), or several numbers put together")
    names: tuple[str, ...] = Field((), description="components to take, in this order, by the message's own names; empty: all as they come")
    names_field: str = Field("name", description="field of the message that names the components, as JointState's does")
    unit: str = Field("", description="unit of the components")
    dtype: Literal["float32", "float64", "int64", "bool", "uint8"] = Field("float32", description="element type of the feature")
    align: Literal["hold", "nearest", "linear"] = Field(
        "hold", description="onto the frame clock: the last message before the frame, the nearest, or between two"
    )
    max_age_s: float = Field(0.5, gt=0, description="a frame whose message is older than this is an error")

    @model_validator(mode="after")
    def _sense(self) -> FieldMapping:
        if self.align == "linear" and self.dtype not in ("float32", "float64"):
            raise ValueError(f"align: linear needs floating-point numbers, the element type is {self.dtype}; use hold or nearest")
        if self.names and not isinstance(self.field, str):
            raise ValueError("names choose among the components of one field; give one field, or leave names out")
        return self


class EpisodeRule(Config):
    """Where an episode ends."""

    gap_s: float | None = Field(None, gt=0, description="after a pause of all topics this long; None: an episode is a file")
    least_frames: int = Field(2, ge=1, description="shorter ones are left out")


class Mapping(Config):
    """A mapping file."""

    fps: int = Field(ge=1, description="frames a second of the dataset")
    features: dict[str, FieldMapping] = Field(min_length=1, description="features by name")
    episodes: EpisodeRule = Field(EpisodeRule(), description="where episodes begin and end")
    task: str = Field("", description="what was attempted")
    robot_type: str = Field("", description="the robot")


def load_mapping(path: Path) -> Mapping:
    """Read a mapping file. Raises ``ConfigError`` that names the file and the key."""
    return load_config(path, Mapping)
