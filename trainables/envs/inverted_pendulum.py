"""``InvertedPendulum-v5`` and ``InvertedDoublePendulum-v5``: keep one pole, or two on each other, upright on a cart.

Gymnasium's tasks of the same names, batched.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from cluster.contract import TensorField
from trainables.envs.mujoco_task import MujocoTask, MujocoTaskConfig, load_model, state_fields

__all__ = ["InvertedDoublePendulum", "InvertedDoublePendulumConfig", "InvertedPendulum", "InvertedPendulumConfig"]

_LARGEST_ANGLE_RAD = 0.2
_LOWEST_TIP_M = 1.0
_TIP_GOAL_M = 2.0
_OBSERVED_LIMIT = 10.0
_POLES = ("lower_pole", "upper_pole")


class InvertedPendulumConfig(MujocoTaskConfig):
    """Configuration of ``InvertedPendulum-v5``; the defaults are Gymnasium's."""

    frame_skip: int = Field(2, ge=1, description="MuJoCo timesteps in one control step")
    reset_noise_scale: float = Field(0.01, ge=0, description="half width of the initial positions and velocities")


class InvertedPendulum(MujocoTask):
    """Observation: positions (2), velocities (2). It fails when the pole leans by more than 0.2 rad. An action of 1 is 300 N."""

    config_model = InvertedPendulumConfig
    config: InvertedPendulumConfig

    def __init__(
        self, num_envs: int, config: InvertedPendulumConfig | None = None, seed: int | None = 0, reward_terms_in_info: bool = True
    ) -> None:
        model = load_model("inverted_pendulum")
        super().__init__(
            name="InvertedPendulum-v5",
            model=model,
            config=config or InvertedPendulumConfig(),
            num_envs=num_envs,
            observation_fields=state_fields(model, 0),
            reward_weights={"alive": 1.0},
            seed=seed,
            reward_terms_in_info=reward_terms_in_info,
        )

    def _draw_state(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        model, scale = self.physics.model, self.config.reset_noise_scale
        return model.qpos0 + rng.uniform(-scale, scale, model.nq), rng.uniform(-scale, scale, model.nv)

    def _observe(self) -> np.ndarray:
        return np.concatenate([self.physics.qpos.values, self.physics.qvel.values], axis=1, dtype=np.float32)

    def _reward_terms(self) -> dict[str, np.ndarray]:
        return {"alive": ~self._terminated()}

    def _terminated(self) -> np.ndarray:
        return np.abs(self.physics.qpos.values[:, 1]) > _LARGEST_ANGLE_RAD


class InvertedDoublePendulumConfig(MujocoTaskConfig):
    """Configuration of ``InvertedDoublePendulum-v5``; the defaults are Gymnasium's."""

    healthy_reward: float = Field(10.0, description="reward of every step in which the tip is above 1 m")
    reset_noise_scale: float = Field(0.1, ge=0, description="half width of the initial positions, standard deviation of the velocities")


class InvertedDoublePendulum(MujocoTask):
    """Observation (9): cart, sines and cosines of the angles, velocities and the rail's force on the cart within ±10."""

    config_model = InvertedDoublePendulumConfig
    config: InvertedDoublePendulumConfig

    def __init__(
        self, num_envs: int, config: InvertedDoublePendulumConfig | None = None, seed: int | None = 0, reward_terms_in_info: bool = True
    ) -> None:
        config = config or InvertedDoublePendulumConfig()
        model = load_model("inverted_double_pendulum")
        _, velocity = state_fields(model, 0)
        super().__init__(
            name="InvertedDoublePendulum-v5",
            model=model,
            config=config,
            num_envs=num_envs,
            observation_fields=(
                TensorField(name="cart_m", shape=(1,), unit="m"),
                TensorField(name="angle_sine", shape=(2,), components=_POLES),
                TensorField(name="angle_cosine", shape=(2,), components=_POLES),
                velocity,
                TensorField(name="rail_force_n", shape=(1,), unit="N"),
            ),
            reward_weights={"alive": config.healthy_reward, "distance": 1.0, "velocity": 1.0},
            seed=seed,
            reward_terms_in_info=reward_terms_in_info,
        )
        self._tip_m = self.physics.follow(lambda data: data.site_xpos[0])
        self._rail_force_n = self.physics.follow(lambda data: data.qfrc_constraint[:1])

    def _draw_state(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        model, scale = self.physics.model, self.config.reset_noise_scale
        return model.qpos0 + rng.uniform(-scale, scale, model.nq), scale * rng.standard_normal(model.nv)

    def _observe(self) -> np.ndarray:
        qpos, angles = self.physics.qpos.values, self.physics.qpos.values[:, 1:]
        limited = np.clip(np.hstack([self.physics.qvel.values, self._rail_force_n.values]), -_OBSERVED_LIMIT, _OBSERVED_LIMIT)
        return np.concatenate([qpos[:, :1], np.sin(angles), np.cos(angles), limited], axis=1, dtype=np.float32)

    def _reward_terms(self) -> dict[str, np.ndarray]:
        x_m, _, height_m = self._tip_m.values.T
        lower, upper = self.physics.qvel.values[:, 1:].T
        return {
            "alive": ~self._terminated(),
            "distance": -(0.01 * x_m**2 + (height_m - _TIP_GOAL_M) ** 2),
            "velocity": -(1e-3 * lower**2 + 5e-3 * upper**2),
        }

    def _terminated(self) -> np.ndarray:
        return self._tip_m.values[:, 2] <= _LOWEST_TIP_M
