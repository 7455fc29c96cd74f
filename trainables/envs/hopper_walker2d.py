"""``Hopper-v5`` and ``Walker2d-v5``: a planar jumper on one leg and a walker on two go forward without falling over.

Gymnasium's tasks of the same names, batched. They differ in their model and in what counts as healthy.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from trainables.envs.mujoco_task import MujocoTask, MujocoTaskConfig, Range, load_model, state_fields, within

__all__ = ["Hopper", "HopperConfig", "Walker2d", "Walker2dConfig"]

_OBSERVED_VELOCITY_LIMIT = 10.0


class Walker2dConfig(MujocoTaskConfig):
    """Configuration of ``Walker2d-v5``; the defaults are Gymnasium's."""

    frame_skip: int = Field(4, ge=1, description="MuJoCo timesteps in one control step")
    forward_reward_weight: float = Field(1.0, description="weight of the forward velocity, m/s")
    control_cost_weight: float = Field(1e-3, ge=0, description="weight of minus the summed squared actions")
    healthy_reward: float = Field(1.0, description="reward of every step in which it is healthy")
    terminate_when_unhealthy: bool = Field(True, description="end the episode of one that is not healthy")
    healthy_z_range: Range = Field((0.8, 2.0), description="healthy heights of the trunk, m; null: unlimited")
    healthy_angle_range: Range = Field((-1.0, 1.0), description="healthy pitch of the trunk, rad; null: unlimited")
    reset_noise_scale: float = Field(5e-3, ge=0, description="half width of the initial positions and velocities")
    exclude_current_positions_from_observation: bool = Field(True, description="leave the distance run out of the observation")


class HopperConfig(Walker2dConfig):
    """Configuration of ``Hopper-v5``; the defaults are Gymnasium's."""

    healthy_state_range: Range = Field((-100.0, 100.0), description="healthy values of all but distance and height; null: unlimited")
    healthy_z_range: Range = Field((0.7, None), description="healthy heights of the trunk, m; null: unlimited")
    healthy_angle_range: Range = Field((-0.2, 0.2), description="healthy pitch of the trunk, rad; null: unlimited")


class Walker2d(MujocoTask):
    """Observation: positions without the distance run (8), velocities within ±10 (9)."""

    task_name: ClassVar[str] = "Walker2d-v5"
    model_name: ClassVar[str] = "walker2d"
    config_model = Walker2dConfig
    config: Walker2dConfig

    def __init__(
        self, num_envs: int, config: Walker2dConfig | None = None, seed: int | None = 0, reward_terms_in_info: bool = True
    ) -> None:
        config = config or self.config_model()
        model = load_model(self.model_name)
        self._skipped = int(config.exclude_current_positions_from_observation)
        super().__init__(
            name=self.task_name,
            model=model,
            config=config,
            num_envs=num_envs,
            observation_fields=state_fields(model, self._skipped),
            reward_weights={
                "forward": config.forward_reward_weight,
                "alive": config.healthy_reward,
                "control": config.control_cost_weight,
            },
            seed=seed,
            reward_terms_in_info=reward_terms_in_info,
        )

    def _draw_state(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        model, scale = self.physics.model, self.config.reset_noise_scale
        return model.qpos0 + rng.uniform(-scale, scale, model.nq), rng.uniform(-scale, scale, model.nv)

    def _observe(self) -> np.ndarray:
        velocity = np.clip(self.physics.qvel.values, -_OBSERVED_VELOCITY_LIMIT, _OBSERVED_VELOCITY_LIMIT)
        return np.concatenate([self.physics.qpos.values[:, self._skipped :], velocity], axis=1, dtype=np.float32)

    def _reward_terms(self) -> dict[str, np.ndarray]:
        return {"forward": self._forward_velocity_m_s(), "alive": self._healthy(), "control": -self._squared_actions()}

    def _terminated(self) -> np.ndarray:
        return ~self._healthy() & self.config.terminate_when_unhealthy

    def _healthy(self) -> np.ndarray:
        """Who stands upright. Shape (num_envs,), bool."""
        qpos, config = self.physics.qpos.values, self.config
        return within(qpos[:, 1], config.healthy_z_range) & within(qpos[:, 2], config.healthy_angle_range)


class Hopper(Walker2d):
    """Observation: positions without the distance run (5), velocities within ±10 (6)."""

    task_name: ClassVar[str] = "Hopper-v5"
    model_name: ClassVar[str] = "hopper"
    config_model = HopperConfig
    config: HopperConfig

    def _healthy(self) -> np.ndarray:
        limits = self.config.healthy_state_range
        positions, velocities = within(self.physics.qpos.values[:, 2:], limits), within(self.physics.qvel.values, limits)
        return super()._healthy() & positions.all(axis=1) & velocities.all(axis=1)
