"""Forward and inverse kinematics of a two-joint leg in its sagittal plane.

Conventions (PiDog's MJCF): the hip frame has x forward and z up; hip 0 is the upper leg straight down and positive swings it
backward; knee 0 is a right angle with the foot in front of the knee and positive extends the leg. The knee always points
backward, so each foot position has one pair of angles.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["LegGeometry"]


@dataclass(frozen=True)
class LegGeometry:
    """Link lengths of one leg, metres."""

    upper_m: float
    lower_m: float

    @property
    def reach_m(self) -> tuple[float, float]:
        """Shortest and longest distance from hip to foot."""
        return abs(self.lower_m - self.upper_m), self.lower_m + self.upper_m

    def foot_position_m(self, angles_rad: np.ndarray) -> np.ndarray:
        """Foot in the hip frame from (hip, knee) angles. Shape (..., 2) -> (..., 2) as (x, z)."""
        angles = np.asarray(angles_rad, dtype=np.float64)
        hip, shank = angles[..., 0], angles[..., 0] + angles[..., 1]
        x = -self.upper_m * np.sin(hip) + self.lower_m * np.cos(shank)
        z = -self.upper_m * np.cos(hip) - self.lower_m * np.sin(shank)
        return np.stack([x, z], axis=-1)

    def joint_angles_rad(self, foot_m: np.ndarray) -> np.ndarray:
        """(hip, knee) angles that put the foot at ``foot_m`` in the hip frame. Shape (..., 2) as (x, z) -> (..., 2).

        A foot out of reach is drawn along its own direction to the nearest point in reach, as the servos would do.
        Law of cosines in the triangle hip, knee, foot.
        """
        foot = np.asarray(foot_m, dtype=np.float64)
        x, z = foot[..., 0], foot[..., 1]
        distance = np.clip(np.hypot(x, z), *self.reach_m)
        upper, lower = self.upper_m, self.lower_m
        at_knee = np.arccos(np.clip((upper**2 + lower**2 - distance**2) / (2 * upper * lower), -1.0, 1.0))
        at_hip = np.arccos(np.clip((upper**2 + distance**2 - lower**2) / (2 * upper * distance), -1.0, 1.0))
        hip = (np.arctan2(-x, -z) + at_hip + np.pi) % (2 * np.pi) - np.pi
        return np.stack([hip, at_knee - np.pi / 2], axis=-1)
