"""Boxes around the robot's path, which the ultrasonic sensor sees, and low bumps to step over. All are moved at each reset."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field, model_validator

from cluster.config import Config

if TYPE_CHECKING:
    import mujoco

__all__ = ["ObstacleField", "ObstaclesConfig"]

_BUMP_HALF_LENGTH_M, _BUMP_HALF_WIDTH_M = 0.01, 1.0


class ObstaclesConfig(Config):
    """What stands in the robot's world."""

    count: int = Field(3, ge=0, le=20, description="boxes a robot")
    half_size_m: tuple[float, float, float] = Field((0.04, 0.04, 0.06), description="half extents of a box: x, y, z")
    distance_m: tuple[float, float] = Field((0.4, 4.0), description="range of a box's distance along the path from the start")
    lateral_m: tuple[float, float] = Field(
        (0.25, 0.6), description="range of a box's distance to the left or right of the path; 0 0 blocks it"
    )
    bump_count: int = Field(0, ge=0, le=20, description="low bars across the path")
    bump_height_m: float = Field(0.004, gt=0, le=0.03, description="height of a bar")
    safe_distance_m: float = Field(
        0.2, gt=0, description="obstacle_clearance penalises being nearer than this to a box (from the body's centre)"
    )

    @model_validator(mode="after")
    def _ranges(self) -> ObstaclesConfig:
        for name in ("distance_m", "lateral_m"):
            low, high = getattr(self, name)
            if low > high or low < 0:
                raise ValueError(f"{name}: give a range 0 <= low <= high, given {low} {high}")
        return self


class ObstacleField:
    """Adds the boxes to a model, draws their places, and measures the clearance to them."""

    def __init__(self, config: ObstaclesConfig) -> None:
        self.config = config
        self.total = config.count + config.bump_count

    def add_to(self, spec: mujoco.MjSpec) -> None:
        """Add one mocap body for each box, then for each bump."""
        import mujoco

        box = list(self.config.half_size_m)
        bump = [_BUMP_HALF_LENGTH_M, _BUMP_HALF_WIDTH_M, self.config.bump_height_m / 2]
        for index in range(self.total):
            body = spec.worldbody.add_body(name=f"obstacle_{index}", mocap=True)
            body.add_geom(
                type=mujoco.mjtGeom.mjGEOM_BOX,
                size=box if index < self.config.count else bump,
                contype=2,
                conaffinity=1,
                rgba=[0.8, 0.45, 0.2, 1.0],
            )

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """Centres of all boxes and bumps in a world whose robot starts at the origin facing +x. Shape (total, 3)."""
        config = self.config
        x = rng.uniform(*config.distance_m, self.total)
        y = rng.uniform(*config.lateral_m, self.total) * rng.choice([-1.0, 1.0], self.total)
        z = np.full(self.total, config.half_size_m[2])
        y[config.count :] = 0.0
        z[config.count :] = config.bump_height_m / 2
        return np.stack([x, y, z], axis=-1)

    def clearance_m(self, robot_xy_m: np.ndarray, centres_m: np.ndarray) -> np.ndarray:
        """Distance from each robot's centre to its nearest box, in the plane; inf without any. Shapes (n, 2), (n, total, 3) -> (n,)."""
        if self.config.count == 0:
            return np.full(len(robot_xy_m), np.inf)
        outside = np.abs(centres_m[:, : self.config.count, :2] - robot_xy_m[:, None]) - np.asarray(self.config.half_size_m[:2])
        np.maximum(outside, 0.0, out=outside)
        return np.sqrt((outside**2).sum(axis=-1).min(axis=-1))
