"""AWD and DeepMimic motion files as demonstrations without physics: the clip's own poses, and as action the pose of the next frame.

To have a robot follow a clip on physics, import it with ``--robot`` (``trainables.collect.import_motion``) instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from cluster.lerobot.episodes import Episode
from cluster.lerobot.errors import DatasetError
from cluster.lerobot.features import Feature
from trainables.datasets.sources.base import Piece, Source

__all__ = ["MotionSource", "open_motion"]

_AXES = ("x", "y", "z")


@dataclass(frozen=True)
class MotionSource(Source):
    """See ``open_motion``."""

    format: ClassVar[str] = "motion"

    def pieces(self) -> Sequence[Piece]:
        """The file."""
        return [Piece(self.path)]

    def read(self, piece: Piece) -> Iterator[Episode]:
        """See ``Source.read``; one episode, named after the clip."""
        from trainables.motions.load import load_motion

        motion = load_motion(piece.file)
        joints = motion.joint_position_rad.astype(np.float32)
        closing = joints[:1] if motion.closes else joints[-1:]
        columns = {
            "observation.state": joints,
            "observation.joint_velocity": motion.joint_velocity_rad_s.astype(np.float32),
            "observation.root_position": motion.root_position_m.astype(np.float32),
            "observation.root_quaternion": motion.root_quaternion_wxyz.astype(np.float32),
            "observation.root_linear_velocity": motion.root_linear_velocity_m_s.astype(np.float32),
            "observation.root_angular_velocity": motion.root_angular_velocity_rad_s.astype(np.float32),
            "action": np.concatenate([joints[1:], closing]),
        }
        yield Episode("0000000", motion.name, columns)


def open_motion(path: Path) -> MotionSource:
    """A motion file.

    Raises:
        MotionError: it cannot be read.
        DatasetError: its frame rate is no whole number.
    """
    from trainables.motions.load import load_motion

    motion = load_motion(path)
    fps = round(motion.frame_rate_hz)
    if abs(motion.frame_rate_hz - fps) > 0.01 * fps:
        raise DatasetError(f"{path}: has {motion.frame_rate_hz:g} frames a second; a whole number is wanted")
    count, names = motion.num_joints, motion.joint_names
    features = (
        Feature("observation.state", "float32", (count,), names, "rad"),
        Feature("observation.joint_velocity", "float32", (count,), names, "rad/s"),
        Feature("observation.root_position", "float32", (3,), _AXES, "m"),
        Feature("observation.root_quaternion", "float32", (4,), ("w", "x", "y", "z")),
        Feature("observation.root_linear_velocity", "float32", (3,), _AXES, "m/s"),
        Feature("observation.root_angular_velocity", "float32", (3,), _AXES, "rad/s"),
        Feature("action", "float32", (count,), names, "rad"),
    )
    return MotionSource(path=path, fps=fps, features=features, robot_type=motion.robot)
