"""What the robots are told to do: a gait with its phase clock, drawn for each episode."""

from __future__ import annotations

import numpy as np
from pydantic import Field, field_validator, model_validator

from cluster.config import Config
from trainables.motions.gaits import GAITS, expert_targets_rad, get_gait

__all__ = ["CommandConfig", "GaitCommands", "ReferenceCommand"]


class ReferenceCommand(Config):
    """A command for a motion that is no built-in gait, such as an imported clip."""

    weight: float = Field(1.0, gt=0, description="share of episodes, relative to the others")
    frequency_hz: float = Field(ge=0, description="cycles of the motion a second; 0: a held posture")
    forward_velocity_m_s: float = Field(description="velocity of the motion, forward positive")
    posture: float = Field(1.0, ge=0, le=1, description="1 standing, 0 sitting")


class CommandConfig(Config):
    """Which commands episodes get."""

    gaits: dict[str, float] = Field({"trot_forward": 1.0}, description=f"share of episodes by gait ({', '.join(GAITS)})")
    references: dict[str, ReferenceCommand] = Field({}, description="commands of other motions by name")
    random_phase: bool = Field(True, description="start at a random place in the cycle, in the gait's own pose; else at phase 0")

    @field_validator("gaits")
    @classmethod
    def _known(cls, gaits: dict[str, float]) -> dict[str, float]:
        for name, weight in gaits.items():
            if name not in GAITS:
                raise ValueError(f"unknown gait {name!r}; known: {', '.join(GAITS)}")
            if weight <= 0:
                raise ValueError(f"the share of {name} must be above 0, given {weight}")
        return gaits

    @model_validator(mode="after")
    def _some(self) -> CommandConfig:
        if not self.gaits and not self.references:
            raise ValueError("give at least one gait or reference")
        return self


class GaitCommands:
    """The current command and phase of every robot.

    Attributes:
        names: command names; built-in gaits first.
        index: command of each robot, into ``names``. Shape (num_envs,).
        phase: place in the cycle, 0..1. Shape (num_envs,).
        forward_velocity_m_s: commanded velocity. Shape (num_envs,).
        posture: 1 standing, 0 sitting. Shape (num_envs,).
    """

    def __init__(self, config: CommandConfig, num_envs: int, control_dt_s: float, robot: str) -> None:
        gaits = [get_gait(name) for name in config.gaits]
        others = list(config.references.values())
        self.names = (*config.gaits, *config.references)
        self.num_gaits = len(gaits)
        self._robot, self._random_phase = robot, config.random_phase
        weights = np.array([*config.gaits.values(), *(other.weight for other in others)], dtype=np.float64)
        self._cumulative = np.cumsum(weights / weights.sum())
        all_commands = [*gaits, *others]
        self._phase_step_of = np.array([command.frequency_hz for command in all_commands]) * control_dt_s
        self._velocity_of = np.array([command.forward_velocity_m_s for command in all_commands])
        self._posture_of = np.array([command.posture for command in all_commands])
        self.index = np.zeros(num_envs, dtype=np.int64)
        self.phase = np.zeros(num_envs)
        self._phase_step = np.zeros(num_envs)
        self.forward_velocity_m_s = np.zeros(num_envs)
        self.posture = np.ones(num_envs)

    def draw(self, env: int, rng: np.random.Generator) -> None:
        """A new command and phase for one robot."""
        index = min(int(np.searchsorted(self._cumulative, rng.random(), side="right")), len(self.names) - 1)
        phase = rng.random()
        self.index[env] = index
        # A held posture has no cycle: a random phase would only be one more input for a policy to learn to ignore.
        self.phase[env] = phase if self._random_phase and self._phase_step_of[index] > 0 else 0.0
        self._phase_step[env] = self._phase_step_of[index]
        self.forward_velocity_m_s[env] = self._velocity_of[index]
        self.posture[env] = self._posture_of[index]

    def advance(self) -> None:
        """One control step on all phase clocks."""
        self.phase = (self.phase + self._phase_step) % 1.0

    def expert_targets_rad(self, envs: np.ndarray) -> np.ndarray:
        """Expert joint targets of some robots now; a reference command's is the standing pose. Shape (len(envs), num_joints)."""
        index, phase = self.index[envs], self.phase[envs]
        targets = expert_targets_rad("stand", phase, self._robot)
        for gait in range(self.num_gaits):
            chosen = index == gait
            if chosen.any():
                targets[chosen] = expert_targets_rad(self.names[gait], phase[chosen], self._robot)
        return targets
