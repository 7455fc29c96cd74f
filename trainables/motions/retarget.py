"""Retargeting of a 12-joint quadruped clip to a robot with two joints per leg, by foot position and inverse kinematics.

Forward kinematics of the source robot give each foot's place; it is seen level (the root's pitch, roll and bounce taken out, because
a robot that plays targets open loop carries its body level), scaled by the ratio of leg lengths, laid under the target's own standing
feet, and turned into joint angles within the servo limits. A clip that asks for more than the servos' speed is played slower.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from trainables.motions.deepmimic import QUADRUPED_JOINTS
from trainables.motions.motion import Motion, MotionError
from trainables.motions.rotation import heading, rotate, rotate_about_z
from trainables.robots.registry import get_robot

if TYPE_CHECKING:
    from trainables.robots.base import RobotSpec

__all__ = ["LAIKAGO", "QuadrupedSource", "foot_positions_m", "motion_for_robot", "retarget_quadruped"]


@dataclass(frozen=True)
class QuadrupedSource:
    """Legs of the robot that a 12-joint clip was made for; lengths in metres, x forward, y left, z up."""

    name: str
    abduction_x_m: tuple[float, float]
    """Abduction joints, forward of the root: front, rear."""
    abduction_y_m: float
    """Abduction joints, outward of the root."""
    hip_y_m: float
    """Hip joint, outward of the abduction joint."""
    upper_m: tuple[float, float, float]
    """Knee seen from the hip at zero angles: x, outward, z."""
    lower_m: tuple[float, float, float]
    """Foot seen from the knee at zero angles: x, outward, z."""

    @property
    def leg_length_m(self) -> float:
        """Length of the straight leg in its own plane."""
        return math.hypot(self.upper_m[0], self.upper_m[2]) + math.hypot(self.lower_m[0], self.lower_m[2])


LAIKAGO = QuadrupedSource(
    # Unitree Laikago as described in laikago_toes_limits.urdf (bulletphysics/bullet3, pybullet_data), the robot that the clips of
    # motion_imitation were made for. Positive abduction moves a foot outward, positive hip and knee angles swing it backward.
    name="laikago",
    abduction_x_m=(0.242889, -0.194401),
    abduction_y_m=0.0817145,
    hip_y_m=0.0547,  # 0.053565 on the right, 0.055855 on the left
    upper_m=(-0.1422, -0.02069, -0.20833),
    lower_m=(-0.022, 0.0, -0.25),
)

DEFAULT_STRIDE = 0.75
"""At 1, PiDog's servos need twice the time that the dog took, and the speed over ground is the same."""
STANCE_DRIFT_M = 0.015
"""A foot of the source this little above its lowest point is on the ground: in the real clips, feet that stand still (their speed
shows it) rise by as much between touching down and leaving. Copied, that rise would take the push out of every step."""
_LEG_OF_TARGET = {"right_front": 0, "left_front": 1, "right_rear": 2, "left_rear": 3}
"""Place of each target leg in the clip's order: front right, front left, rear right, rear left."""


def foot_positions_m(motion: Motion, source: QuadrupedSource = LAIKAGO) -> tuple[np.ndarray, np.ndarray]:
    """World positions of the feet and of the hip joints of a 12-joint clip. Shapes (T, 4, 3), (T, 4, 3)."""
    if motion.joint_names != QUADRUPED_JOINTS:
        raise MotionError(
            f"{motion.source or motion.name}: has {motion.num_joints} joints ({', '.join(motion.joint_names[:3])}, ...); "
            "retargeting wants the 12 of a quadruped: abduction, hip, knee for FR, FL, RR, RL"
        )
    angles = motion.joint_position_rad.reshape(-1, 4, 3)
    outward = np.array([-1.0, 1.0, -1.0, 1.0])  # y of the right legs is negative
    abduction, hip, knee = outward * angles[..., 0], angles[..., 1], angles[..., 2]
    mirror = np.stack([np.ones(4), outward, np.ones(4)], axis=1)
    upper, lower = np.array(source.upper_m) * mirror, np.array(source.lower_m) * mirror
    leg = _about_y(upper + _about_y(np.broadcast_to(lower, (*knee.shape, 3)), knee), hip)
    front, rear = source.abduction_x_m
    base = np.stack([np.array([front, front, rear, rear]), outward * source.abduction_y_m, np.zeros(4)], axis=1)
    side = np.broadcast_to(np.stack([np.zeros(4), outward * source.hip_y_m, np.zeros(4)], axis=1), leg.shape)
    hips = base + _about_x(side, abduction)
    feet = base + _about_x(side + leg, abduction)
    root, turn = motion.root_position_m[:, None], motion.root_quaternion_wxyz[:, None]
    return root + rotate(turn, feet), root + rotate(turn, hips)


def retarget_quadruped(
    motion: Motion,
    robot: str = "pidog",
    source: QuadrupedSource = LAIKAGO,
    stride: float = DEFAULT_STRIDE,
    frame_rate_hz: float = 50.0,
) -> Motion:
    """A 12-joint quadruped clip as joint targets of a robot with two joints per leg.

    Args:
        motion: the clip, joints in the order of ``QUADRUPED_JOINTS``.
        robot: name of the target robot.
        source: legs of the robot that the clip was made for.
        stride: share of the foot travel kept after scaling by the ratio of leg lengths; the standing height is always scaled whole.
        frame_rate_hz: frame rate of the result, the control rate of the robot.

    Returns:
        A closed motion of the robot: within its servo limits, and between frames within its servo speed limit.

    Raises:
        MotionError: the clip is not a 12-joint quadruped, or ``stride`` is not above 0.
    """
    spec = get_robot(robot)
    if not stride > 0:
        raise MotionError(f"{motion.source or motion.name}: stride {stride} is not above 0")
    scale = spec.leg_geometry.reach_m[1] / source.leg_length_m
    targets = _close(motion, spec.joint_targets_rad(_foot_targets_m(motion, source, spec, scale, scale * stride)))
    speed = np.abs(np.diff(targets, axis=0)).max(axis=0) * motion.frame_rate_hz
    slower = max(1.0, float((speed / spec.servo_speed_limit_rad_s).max()))
    # The root covers the ground that the shortened strides cover; its height is that of the legs.
    root = scale * motion.root_position_m * np.array([stride, stride, 1.0])
    scaled = Motion(
        name=motion.name,
        joint_names=spec.joint_names,
        joint_position_rad=targets,
        root_position_m=root,
        root_quaternion_wxyz=motion.root_quaternion_wxyz,
        frame_rate_hz=motion.frame_rate_hz / slower,
        loop=motion.loop,
        offsets_position=motion.offsets_position,
        offsets_rotation=motion.offsets_rotation,
        robot=robot,
        source=motion.source,
    )
    return _within_speed(scaled, spec, frame_rate_hz)


def motion_for_robot(motion: Motion, robot: str, frame_rate_hz: float = 50.0) -> Motion:
    """``motion`` as targets of ``robot`` at its control rate: resampled if it is the robot's own, retargeted if it is a quadruped's.

    Raises:
        MotionError: the clip can be neither.
    """
    spec = get_robot(robot)
    if motion.joint_names == spec.joint_names:
        outside = (motion.joint_position_rad < spec.joint_low_rad - 1e-6) | (motion.joint_position_rad > spec.joint_high_rad + 1e-6)
        if outside.any():
            frame, joint = np.argwhere(outside)[0]
            raise MotionError(
                f"{motion.source or motion.name}: frame {frame}: {spec.joint_names[joint]} is "
                f"{motion.joint_position_rad[frame, joint]:.3f} rad; {robot} allows {spec.joint_low_rad[joint]:.3f} to "
                f"{spec.joint_high_rad[joint]:.3f}"
            )
        return replace(motion.resample(frame_rate_hz), robot=robot)
    return retarget_quadruped(motion, robot, frame_rate_hz=frame_rate_hz)


def _foot_targets_m(motion: Motion, source: QuadrupedSource, spec: RobotSpec, scale: float, travel: float) -> np.ndarray:
    """Feet in the target's hip frames. Shape (T, num_legs, 2) as (x, z)."""
    feet, hips = foot_positions_m(motion, source)
    angle = heading(motion.root_quaternion_wxyz)[:, None]
    forward = rotate_about_z(feet - hips, -angle)[..., 0]
    ground = feet[..., 2].min(axis=0)
    lift = np.maximum(feet[..., 2] - ground - STANCE_DRIFT_M, 0.0)
    # Hips at their mean height: the bounce is left out.
    stance = (hips[..., 2] - ground).mean()
    legs = [_LEG_OF_TARGET[leg] for leg in spec.leg_names]
    standing_x = spec.foot_position_m(spec.default_joint_position_rad)[:, 0]
    # Swinging about the target's own standing feet keeps its centre of mass over them, wherever the source carries its own.
    x = standing_x + travel * (forward - forward.mean(axis=0))[:, legs]
    z = travel * lift[:, legs] - scale * stance
    return np.stack([x, z], axis=-1)


def _close(motion: Motion, targets: np.ndarray) -> np.ndarray:
    """Spread the seam of a wrapped clip over its cycle, so that the last pose is the first."""
    if motion.loop != "wrap":
        return targets
    share = np.linspace(0.0, 1.0, len(targets))[:, None] - 0.5
    closed = targets - share * (targets[-1] - targets[0])
    closed[-1] = closed[0]
    return closed


def _within_speed(motion: Motion, spec: RobotSpec, frame_rate_hz: float) -> Motion:
    """Resample; whole frames may have shortened the period by half a frame, so add frames until the servos can follow."""
    steps = max(1, math.ceil(motion.duration_s * frame_rate_hz - 1e-9))
    while True:
        resampled = motion.stretched(steps / frame_rate_hz / motion.duration_s).resample(frame_rate_hz)
        clipped = np.clip(resampled.joint_position_rad, spec.joint_low_rad, spec.joint_high_rad)
        speed = np.abs(np.diff(clipped, axis=0)) * frame_rate_hz
        if (speed <= spec.servo_speed_limit_rad_s + 1e-9).all():
            return replace(resampled, joint_position_rad=clipped)
        steps += 1


def _about_y(vector: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Turn about y (left): positive takes down to backward."""
    cos, sin = np.cos(angle), np.sin(angle)
    x, y, z = np.moveaxis(np.broadcast_to(vector, (*angle.shape, 3)), -1, 0)
    return np.stack([cos * x + sin * z, y, cos * z - sin * x], axis=-1)


def _about_x(vector: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Turn about x (forward): positive takes left to up."""
    cos, sin = np.cos(angle), np.sin(angle)
    x, y, z = np.moveaxis(vector, -1, 0)
    return np.stack([x, cos * y - sin * z, sin * y + cos * z], axis=-1)
