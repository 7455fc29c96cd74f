"""``Ant-v5``: a ball on four legs goes in the direction of +x. Gymnasium's task of the same name, batched."""

from __future__ import annotations

import numpy as np
from pydantic import Field, field_validator

from cluster.contract import TensorField
from trainables.envs.mujoco_task import MujocoTask, MujocoTaskConfig, load_model, state_fields

__all__ = ["Ant", "AntConfig"]

_BODIES = ("trunk", *(f"{part}_{leg}" for leg in (1, 2, 3, 4) for part in ("leg", "upper", "lower")))
_FORCE_PARTS = ("torque_x_nm", "torque_y_nm", "torque_z_nm", "force_x_n", "force_y_n", "force_z_n")


class AntConfig(MujocoTaskConfig):
    """Configuration of ``Ant-v5``; the defaults are Gymnasium's."""

    forward_reward_weight: float = Field(1.0, description="weight of the main body's velocity along x, m/s")
    control_cost_weight: float = Field(0.5, ge=0, description="weight of minus the summed squared actions")
    contact_cost_weight: float = Field(5e-4, ge=0, description="weight of minus the summed squared contact forces within their range")
    healthy_reward: float = Field(1.0, description="reward of every step in which it is healthy")
    main_body: str = Field("trunk", description="body whose velocity counts")
    terminate_when_unhealthy: bool = Field(True, description="end the episode of one that is not healthy")
    healthy_z_range: tuple[float, float] = Field((0.2, 1.0), description="healthy heights of the trunk, m")
    contact_force_range: tuple[float, float] = Field((-1.0, 1.0), description="contact forces and torques are clipped to it, N and N·m")
    reset_noise_scale: float = Field(0.1, ge=0, description="half width of the initial positions, standard deviation of the velocities")
    exclude_current_positions_from_observation: bool = Field(True, description="leave the trunk's x and y out of the observation")
    include_contact_forces_in_observation: bool = Field(True, description="put every body's contact forces into the observation")

    @field_validator("main_body")
    @classmethod
    def _known_body(cls, value: str) -> str:
        if value not in _BODIES:
            raise ValueError(f"there is no body {value!r}; known: {', '.join(_BODIES)}")
        return value


class Ant(MujocoTask):
    """Observation: positions without x and y (13), velocities (14), clipped contact torque and force of each body (13 x 6)."""

    config_model = AntConfig
    config: AntConfig

    def __init__(self, num_envs: int, config: AntConfig | None = None, seed: int | None = 0, reward_terms_in_info: bool = True) -> None:
        config = config or AntConfig()
        model = load_model("ant")
        self._skipped = 2 * config.exclude_current_positions_from_observation
        fields: tuple[TensorField, ...] = state_fields(model, self._skipped)
        if config.include_contact_forces_in_observation:
            components = tuple(f"{body}_{part}" for body in _BODIES for part in _FORCE_PARTS)
            fields += (TensorField(name="contact_force", shape=(len(_BODIES), len(_FORCE_PARTS)), components=components),)
        super().__init__(
            name="Ant-v5",
            model=model,
            config=config,
            num_envs=num_envs,
            observation_fields=fields,
            reward_weights={
                "forward": config.forward_reward_weight,
                "alive": config.healthy_reward,
                "control": config.control_cost_weight,
                "contact": config.contact_cost_weight,
            },
            seed=seed,
            reward_terms_in_info=reward_terms_in_info,
            with_contact_forces=config.include_contact_forces_in_observation or config.contact_cost_weight > 0,
        )
        main = model.body(config.main_body).id
        self._position_m = self.physics.follow(lambda data: data.xpos[main])
        self._force = self.physics.follow(lambda data: data.cfrc_ext)

    def _draw_state(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        model, scale = self.physics.model, self.config.reset_noise_scale
        return model.qpos0 + rng.uniform(-scale, scale, model.nq), scale * rng.standard_normal(model.nv)

    def _observe(self) -> np.ndarray:
        parts = [self.physics.qpos.values[:, self._skipped :], self.physics.qvel.values]
        if self.config.include_contact_forces_in_observation:
            parts.append(self._clipped_force()[:, len(_FORCE_PARTS) :])  # without the world's
        return np.concatenate(parts, axis=1, dtype=np.float32)

    def _reward_terms(self) -> dict[str, np.ndarray]:
        return {
            "forward": (self._position_m.values[:, 0] - self._position_m.previous[:, 0]) / self.physics.dt_s,
            "alive": self._healthy(),
            "control": -self._squared_actions(),
            "contact": -np.square(self._clipped_force()).sum(axis=1),
        }

    def _terminated(self) -> np.ndarray:
        return ~self._healthy() & self.config.terminate_when_unhealthy

    def _healthy(self) -> np.ndarray:
        low_m, high_m = self.config.healthy_z_range
        height_m = self.physics.qpos.values[:, 2]
        return (low_m <= height_m) & (height_m <= high_m)

    def _clipped_force(self) -> np.ndarray:
        """Contact torque and force of each body, the world first. Shape (num_envs, 6 * num_bodies)."""
        return np.clip(self._force.values, *self.config.contact_force_range)
