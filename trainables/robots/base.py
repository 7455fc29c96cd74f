"""RobotSpec: what the rest of the code may know about a robot without opening its MJCF."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from trainables.robots.legs import LegGeometry

if TYPE_CHECKING:
    import mujoco

__all__ = ["RobotSpec"]


@dataclass(frozen=True, eq=False)
class RobotSpec:
    """A robot: names, limits, default pose and geometry. Joint arrays are in ``joint_names`` order, which is also the actuators'."""

    name: str
    mjcf_path: Path
    joint_names: tuple[str, ...]
    joint_low_rad: np.ndarray
    """Lower servo limits. Shape (num_joints,)."""
    joint_high_rad: np.ndarray
    """Upper servo limits. Shape (num_joints,)."""
    default_joint_position_rad: np.ndarray
    """Standing pose. Shape (num_joints,)."""
    action_offset_rad: np.ndarray
    """Joint targets that the normalised action 0 stands for: the middle of what the gaits use. Shape (num_joints,)."""
    action_scale_rad: np.ndarray
    """Half range that the normalised actions -1..1 cover. Shape (num_joints,)."""
    servo_speed_limit_rad_s: np.ndarray
    """Fastest that the servo controller moves its target. Shape (num_joints,)."""
    servo_stall_torque_nm: float
    leg_geometry: LegGeometry
    leg_names: tuple[str, ...]
    leg_joint_indices: np.ndarray
    """Indices of each leg's (hip, knee) in ``joint_names``. Shape (num_legs, 2)."""
    hip_position_m: np.ndarray
    """Hip of each leg in the base frame. Shape (num_legs, 3)."""
    foot_radius_m: float
    mirror_indices: np.ndarray
    """Joint i of the left-right mirrored robot is joint ``mirror_indices[i]`` of this one... Shape (num_joints,)."""
    mirror_signs: np.ndarray
    """... times ``mirror_signs[i]``. Shape (num_joints,)."""

    @property
    def num_joints(self) -> int:
        """Number of servos."""
        return len(self.joint_names)

    def load_spec(self) -> mujoco.MjSpec:
        """The robot alone as an editable MuJoCo specification; a task adds its floor and obstacles."""
        import mujoco

        return mujoco.MjSpec.from_file(str(self.mjcf_path))

    def foot_position_m(self, joint_position_rad: np.ndarray) -> np.ndarray:
        """Feet relative to their hips, in the hip frame. Shape (..., num_joints) -> (..., num_legs, 2) as (x, z)."""
        return self.leg_geometry.foot_position_m(np.asarray(joint_position_rad)[..., self.leg_joint_indices])

    def joint_targets_rad(self, foot_m: np.ndarray, clip: bool = True) -> np.ndarray:
        """All joint angles that put the feet at ``foot_m`` (hip frame), other joints at their default.

        Shape (..., num_legs, 2) as (x, z) -> (..., num_joints). With ``clip`` the angles stay within the servo limits.
        """
        foot = np.asarray(foot_m, dtype=np.float64)
        targets = np.broadcast_to(self.default_joint_position_rad, (*foot.shape[:-2], self.num_joints)).copy()
        targets[..., self.leg_joint_indices] = self.leg_geometry.joint_angles_rad(foot)
        return np.clip(targets, self.joint_low_rad, self.joint_high_rad) if clip else targets

    def mirrored(self, joint_values: np.ndarray) -> np.ndarray:
        """The same posture seen in a mirror: left and right exchanged. Shape (..., num_joints)."""
        return np.asarray(joint_values)[..., self.mirror_indices] * self.mirror_signs
