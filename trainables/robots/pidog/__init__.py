"""PiDog, SunFounder's 12-servo quadruped. The figures' sources stand in ``pidog.xml``; this file must agree with it (a test compares)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from trainables.robots.base import RobotSpec
from trainables.robots.legs import LegGeometry

__all__ = ["JOINT_NAMES", "LEG_NAMES", "pidog"]

LEG_NAMES = ("left_front", "right_front", "left_rear", "right_rear")
JOINT_NAMES = (
    *(f"{leg}_{joint}" for leg in LEG_NAMES for joint in ("hip", "knee")),
    "head_yaw",
    "head_roll",
    "head_pitch",
    "tail",
)

_HALF_LENGTH_M, _HALF_WIDTH_M = 0.117 / 2, 0.098 / 2  # SunFounder's BODY_LENGTH, BODY_WIDTH: distances between the hips
_STAND_FEET_M = np.array([[0.015, -0.080], [0.015, -0.080], [-0.005, -0.075], [-0.005, -0.075]])  # SunFounder's stand: (x, z)


def pidog() -> RobotSpec:
    """The PiDog specification."""
    legs = LegGeometry(upper_m=0.042, lower_m=0.076)
    low = np.array([-np.pi / 2, np.radians(-70)] * 4 + [-np.pi / 2, np.radians(-70), np.radians(-45), -np.pi / 2])
    high = np.array([np.pi / 2, np.radians(85)] * 4 + [np.pi / 2, np.radians(70), np.radians(30), np.pi / 2])
    stand = np.zeros(12)
    stand[:8] = legs.joint_angles_rad(_STAND_FEET_M).reshape(-1)
    return RobotSpec(
        name="pidog",
        mjcf_path=Path(__file__).with_name("pidog.xml"),
        joint_names=JOINT_NAMES,
        joint_low_rad=low,
        joint_high_rad=high,
        default_joint_position_rad=stand,
        # Legs: the middle and half range of what SunFounder's gaits and its sitting pose use. Head and tail: 0.3 rad about rest.
        action_offset_rad=np.array([0.7, 0.1] * 4 + [0.0] * 4),
        action_scale_rad=np.array([0.9, 1.0] * 4 + [0.3] * 4),
        # The motor's own 6.4 rad/s, or SunFounder's software limit where that is lower: 428, 300 and 500 °/s for legs, head and tail.
        servo_speed_limit_rad_s=np.minimum(6.4, np.radians([428.0] * 8 + [300.0] * 3 + [500.0])),
        servo_stall_torque_nm=0.132,
        leg_geometry=legs,
        leg_names=LEG_NAMES,
        leg_joint_indices=np.arange(8).reshape(4, 2),
        hip_position_m=np.array([[x * _HALF_LENGTH_M, y * _HALF_WIDTH_M, 0.0] for x in (1, -1) for y in (1, -1)]),
        foot_radius_m=0.005,
        mirror_indices=np.array([2, 3, 0, 1, 6, 7, 4, 5, 8, 9, 10, 11]),
        mirror_signs=np.array([1.0] * 8 + [-1.0, -1.0, 1.0, -1.0]),
    )
