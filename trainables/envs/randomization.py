"""Domain randomisation per robot and sensor noise: what differs from episode to episode between simulation and the real machine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydantic import Field, model_validator

from cluster.config import Config

__all__ = ["DynamicsDraw", "LatencyBuffer", "NoiseConfig", "Pushes", "RandomizationConfig"]


class RandomizationConfig(Config):
    """Ranges drawn anew for each robot at each reset."""

    enabled: bool = Field(True, description="off: every robot is the nominal one and nobody pushes it")
    friction: tuple[float, float] = Field((0.8, 1.2), description="multiplier of the feet's friction")
    mass: tuple[float, float] = Field((0.9, 1.1), description="multiplier of all masses and inertias")
    motor_strength: tuple[float, float] = Field((0.9, 1.1), description="multiplier of the servos' torque limit and stiffness")
    latency_steps: tuple[int, int] = Field((0, 1), description="control steps by which actions arrive late")
    push_velocity_m_s: float = Field(0.1, ge=0, description="largest sudden change of horizontal velocity; 0: no pushes")
    push_interval_s: tuple[float, float] = Field((2.0, 6.0), description="time between pushes")

    @model_validator(mode="after")
    def _ranges(self) -> RandomizationConfig:
        for name in ("friction", "mass", "motor_strength", "latency_steps", "push_interval_s"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name}: the range's low end {low} is above its high end {high}")
            if low < 0 or (low == 0 and name != "latency_steps"):
                raise ValueError(f"{name}: {low} is too small")
        return self

    @property
    def varies_models(self) -> bool:
        """Whether robots need models of their own."""
        return self.enabled and not (self.friction == self.mass == self.motor_strength == (1.0, 1.0))

    @property
    def max_latency_steps(self) -> int:
        """Longest action delay that can be drawn."""
        return self.latency_steps[1] if self.enabled else 0


class NoiseConfig(Config):
    """Standard deviations of white noise on the sensors."""

    enabled: bool = Field(True, description="off: sensors read exactly")
    joint_position_rad: float = Field(0.01, ge=0, description="joint encoders, position")
    joint_velocity_rad_s: float = Field(0.1, ge=0, description="joint encoders, velocity")
    angular_velocity_rad_s: float = Field(0.02, ge=0, description="gyroscope")
    linear_acceleration_m_s2: float = Field(0.1, ge=0, description="accelerometer")
    gravity: float = Field(0.01, ge=0, description="projected gravity, a unit vector")
    range_m: float = Field(0.003, ge=0, description="ultrasonic range (HC-SR04 class: 3 mm)")


@dataclass(frozen=True)
class DynamicsDraw:
    """One robot's dynamics, as multipliers of the nominal ones."""

    friction: float
    mass: float
    motor_strength: float

    @classmethod
    def sample(cls, config: RandomizationConfig, rng: np.random.Generator) -> DynamicsDraw:
        """Uniform within the configured ranges."""
        return cls(rng.uniform(*config.friction), rng.uniform(*config.mass), rng.uniform(*config.motor_strength))


class LatencyBuffer:
    """Delays each robot's joint targets by its own number of control steps."""

    def __init__(self, num_envs: int, num_actions: int, max_steps: int) -> None:
        self.delay_steps = np.zeros(num_envs, dtype=np.int64)
        """Delay of each robot; set it at a reset. Shape (num_envs,)."""
        self._past = np.zeros((max_steps + 1, num_envs, num_actions))
        self._rows = np.arange(num_envs)
        self._newest = 0

    def restart(self, envs: np.ndarray, targets_rad: np.ndarray) -> None:
        """Fill some robots' past with the targets that they start from. Shapes (n,), (n, num_actions)."""
        self._past[:, envs] = targets_rad

    def delayed(self, targets_rad: np.ndarray) -> np.ndarray:
        """Take in the newest targets and return those due now. Shape (num_envs, num_actions)."""
        length = len(self._past)
        if length == 1:
            return targets_rad
        self._newest = (self._newest + 1) % length
        self._past[self._newest] = targets_rad
        return self._past[(self._newest - self.delay_steps) % length, self._rows]


class Pushes:
    """Sudden changes of the base's horizontal velocity at random times."""

    def __init__(self, config: RandomizationConfig, num_envs: int, control_dt_s: float) -> None:
        self._config, self._control_dt_s = config, control_dt_s
        self._active = config.enabled and config.push_velocity_m_s > 0
        self._steps_left = np.zeros(num_envs, dtype=np.int64)

    def restart(self, env: int, rng: np.random.Generator) -> None:
        """Draw the time until one robot's next push."""
        self._steps_left[env] = max(1, round(rng.uniform(*self._config.push_interval_s) / self._control_dt_s))

    def apply(self, base_velocity_m_s: np.ndarray, rngs: list[np.random.Generator]) -> None:
        """Count down and push whoever is due; adds to ``base_velocity_m_s`` in place. Shape (num_envs, 2) or wider."""
        if not self._active:
            return
        self._steps_left -= 1
        for env in np.flatnonzero(self._steps_left <= 0):
            rng = rngs[env]
            angle, size = rng.uniform(0, 2 * np.pi), rng.uniform(0, self._config.push_velocity_m_s)
            base_velocity_m_s[env, :2] += size * np.array([np.cos(angle), np.sin(angle)])
            self.restart(env, rng)
