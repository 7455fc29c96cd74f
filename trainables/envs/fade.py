"""How much a reward term still counts after so many environment steps of training."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from cluster.config import Config

__all__ = ["FadeConfig"]


class FadeConfig(Config):
    """A factor from 1 to ``final`` between two environment steps of the whole run, or through points of one's own."""

    shape: Literal["linear", "cosine", "piecewise"] = Field(
        "linear", description="linear; cosine: slow at both ends; piecewise: straight lines through points"
    )
    start_env_steps: int = Field(0, ge=0, description="until here the factor is 1")
    end_env_steps: int | None = Field(None, ge=1, description="from here on the factor is final")
    final: float = Field(0.0, ge=0, description="factor at the end; 0: the term is gone")
    points: tuple[tuple[int, float], ...] = Field((), description="environment steps and factor of each point (piecewise)")

    @model_validator(mode="after")
    def _whole(self) -> FadeConfig:
        if self.shape == "piecewise":
            steps = [step for step, _ in self.points]
            if len(steps) < 2 or steps != sorted(set(steps)) or min(steps) < 0 or min(factor for _, factor in self.points) < 0:
                raise ValueError("points: give two or more of (environment steps, factor), steps rising, none below 0")
            if self.end_env_steps is not None:
                raise ValueError("give points or end_env_steps, not both")
        elif self.points:
            raise ValueError(f"points belong to the shape piecewise, not to {self.shape}")
        elif self.end_env_steps is None or self.end_env_steps <= self.start_env_steps:
            raise ValueError(f"end_env_steps must be above start_env_steps {self.start_env_steps}, given {self.end_env_steps}")
        return self

    def factor(self, env_steps: int) -> float:
        """What the term's weight is multiplied by after ``env_steps``."""
        if self.shape == "piecewise":
            steps, factors = zip(*self.points, strict=True)
            return float(np.interp(env_steps, steps, factors))
        assert self.end_env_steps is not None  # the validator has seen to it
        done = min(max((env_steps - self.start_env_steps) / (self.end_env_steps - self.start_env_steps), 0.0), 1.0)
        if self.shape == "cosine":
            done = 0.5 - 0.5 * math.cos(math.pi * done)
        return 1.0 + (self.final - 1.0) * done
