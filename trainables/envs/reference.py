"""What the robot would do if it followed its reference exactly: one cycle of every command, sampled evenly over the phase.

A built-in gait's reference is what its expert wants: the targets as pose, the commanded velocity, a body carried level over its lowest
feet. A clip (AWD, DeepMimic, one of our own, or a retargeted quadruped's) brings its own poses and root velocity.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cluster.errors import ConfigError
from trainables.envs.commands import CommandConfig
from trainables.motions.gaits import GAITS, expert_targets_rad, get_gait
from trainables.motions.load import load_motion
from trainables.motions.motion import Motion
from trainables.motions.retarget import motion_for_robot
from trainables.motions.rotation import heading, rotate_about_z
from trainables.robots.base import RobotSpec
from trainables.robots.registry import get_robot

if TYPE_CHECKING:
    import mujoco

__all__ = ["Pose", "ReferenceTable", "standing_on_feet"]

SAMPLES = 192
"""Samples a cycle: as many as the experts' own tables have, so that their poses are met exactly."""
CONTACT_HEIGHT_M = 0.003
"""A foot this little above the ground, or above the lowest foot of the reference, is in contact."""


@dataclass(frozen=True, eq=False)
class Pose:
    """Reference of some robots. The first axis is the robot's."""

    joint_position_rad: np.ndarray
    joint_velocity_rad_s: np.ndarray
    foot_m: np.ndarray
    """Feet in the hip frame, (x, z). Shape (n, num_legs, 2)."""
    contact: np.ndarray
    """Share to which each foot is on the ground, 0..1. Shape (n, num_legs)."""
    centre_of_mass_m: np.ndarray
    """Seen from the base in the plane, from the ground upward. Shape (n, 3)."""
    height_m: np.ndarray
    """Of the base. Shape (n,)."""
    pitch_rad: np.ndarray
    """Nose up. Shape (n,)."""
    linear_velocity_m_s: np.ndarray
    """Forward, left, up, along the heading that the episode began with. Shape (n, 3)."""
    angular_velocity_rad_s: np.ndarray
    """In the body's frame. Shape (n, 3)."""


class ReferenceTable:
    """References of all commands of a task.

    Args:
        command: the task's commands.
        motions: file of the clip of each command that is no built-in gait.
        robot: the robot.
        control_dt_s: control period; a clip is resampled to it.
        model: the robot's compiled model, which knows its masses.

    Raises:
        ConfigError: a command has no reference, or a motion belongs to no command.
        MotionError: a clip cannot be read, or does not fit the robot.
    """

    def __init__(
        self, command: CommandConfig, motions: Mapping[str, Path], robot: RobotSpec, control_dt_s: float, model: mujoco.MjModel
    ) -> None:
        for name in motions:
            if name not in command.references:
                known = ", ".join(command.references) or "none"
                raise ConfigError(f"imitation.motions: {name!r} is no command; command.references has: {known}")
        tables, frequencies = [], []
        for name in command.gaits:
            gait = get_gait(name)
            targets = expert_targets_rad(name, np.arange(SAMPLES) / SAMPLES, robot.name)
            velocity = np.tile([gait.forward_velocity_m_s, 0.0, 0.0], (SAMPLES, 1))
            tables.append(_table(targets, velocity, gait.frequency_hz, robot, model))
            frequencies.append(gait.frequency_hz)
        for name, reference in command.references.items():
            if name not in motions:
                raise ConfigError(
                    f"imitation.motions: the command {name!r} has no motion; give its file, or a built-in gait: {', '.join(GAITS)}"
                )
            targets, velocity, length_s = _cycle(str(motions[name]), robot.name, 1.0 / control_dt_s)
            # The command's clock counts: a clip told to turn faster also moves faster.
            tables.append(_table(targets, velocity * reference.frequency_hz * length_s, reference.frequency_hz, robot, model))
            frequencies.append(reference.frequency_hz)
        self._columns = [np.stack(parts) for parts in zip(*tables, strict=True)]
        self.frequency_hz = np.array(frequencies)
        """Cycles a second of each command. Shape (num_commands,)."""

    def at(self, command: np.ndarray, phase: np.ndarray) -> Pose:
        """References of robots under commands (n,) at phases (n,), interpolated between samples."""
        place = (phase % 1.0) * SAMPLES
        low = place.astype(np.int64)
        share = place - low
        low, high = low % SAMPLES, (low + 1) % SAMPLES
        values = []
        for column in self._columns:
            blend = share.reshape(-1, *(1,) * (column.ndim - 2))
            values.append(column[command, low] * (1.0 - blend) + column[command, high] * blend)
        return Pose(*values)


def standing_on_feet(robot: RobotSpec, joint_position_rad: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Body height and nose-up pitch that put the lowest front and rear feet on the ground. Shape (n, num_joints) -> (n,), (n,)."""
    feet = robot.foot_position_m(joint_position_rad) + robot.hip_position_m[:, [0, 2]]
    rows = np.arange(len(feet))
    front = feet[rows, np.argmin(feet[:, :2, 1], axis=1)]
    rear = feet[rows, 2 + np.argmin(feet[:, 2:, 1], axis=1)]
    pitch_rad = np.arctan2(rear[:, 1] - front[:, 1], front[:, 0] - rear[:, 0])
    depth_m = -(feet[:, :, 0] * np.sin(pitch_rad)[:, None] + feet[:, :, 1] * np.cos(pitch_rad)[:, None])
    return depth_m.max(axis=1) + robot.foot_radius_m, pitch_rad


def _table(
    targets: np.ndarray, velocity_m_s: np.ndarray, frequency_hz: float, robot: RobotSpec, model: mujoco.MjModel
) -> tuple[np.ndarray, ...]:
    """The columns of ``Pose`` over one cycle. Shapes (SAMPLES, num_joints), (SAMPLES, 3)."""
    height, pitch = standing_on_feet(robot, targets)
    rate = SAMPLES * frequency_hz / 2
    turning = np.zeros((SAMPLES, 3))
    # Nose up is a turn about the right-hand axis, which is minus y.
    turning[:, 1] = -(np.roll(pitch, -1) - np.roll(pitch, 1)) * rate
    moving = velocity_m_s.copy()
    moving[:, 2] = (np.roll(height, -1) - np.roll(height, 1)) * rate
    feet = robot.foot_position_m(targets)
    above = feet + robot.hip_position_m[:, [0, 2]]
    lift = above[..., 0] * np.sin(pitch)[:, None] + above[..., 1] * np.cos(pitch)[:, None]
    contact = (lift - lift.min(axis=1, keepdims=True) < CONTACT_HEIGHT_M).astype(np.float64)
    joint_velocity = (np.roll(targets, -1, axis=0) - np.roll(targets, 1, axis=0)) * rate
    return targets, joint_velocity, feet, contact, _centres_of_mass_m(targets, height, pitch, model), height, pitch, moving, turning


def _centres_of_mass_m(joints: np.ndarray, height_m: np.ndarray, pitch_rad: np.ndarray, model: mujoco.MjModel) -> np.ndarray:
    import mujoco

    data, root = mujoco.MjData(model), model.body("base").id
    centres = np.zeros((len(joints), 3))
    for row, (joint, height, pitch) in enumerate(zip(joints, height_m, pitch_rad, strict=True)):
        data.qpos[:3] = 0.0, 0.0, height
        data.qpos[3:7] = np.cos(pitch / 2), 0.0, -np.sin(pitch / 2), 0.0
        data.qpos[7:] = joint
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        centres[row] = data.subtree_com[root]
    return centres


@lru_cache
def _cycle(path: str, robot: str, frame_rate_hz: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Joint targets and root velocity (forward, left, 0) over one cycle of a clip, and its length, s."""
    motion: Motion = motion_for_robot(load_motion(Path(path)), robot, frame_rate_hz)
    time_s = np.arange(SAMPLES) / SAMPLES * motion.duration_s
    targets = motion.sample(time_s)[0]
    level = rotate_about_z(motion.root_linear_velocity_m_s, -heading(motion.root_quaternion_wxyz))
    frames = np.arange(motion.num_frames) / motion.frame_rate_hz
    velocity = np.stack([np.interp(time_s, frames, level[:, axis]) for axis in (0, 1)] + [np.zeros(SAMPLES)], axis=1)
    spec = get_robot(robot)
    return np.clip(targets, spec.joint_low_rad, spec.joint_high_rad), velocity, motion.duration_s
