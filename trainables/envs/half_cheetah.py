"""``HalfCheetah-v5``: a planar two-legged runner goes forward as fast as it can. Gymnasium's task of the same name, batched."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from trainables.envs.mujoco_task import MujocoTask, MujocoTaskConfig, load_model, state_fields

if TYPE_CHECKING:
    import mujoco

__all__ = ["HalfCheetah", "HalfCheetahConfig"]

_TOTAL_MASS_KG = 14.0


class HalfCheetahConfig(MujocoTaskConfig):
    """Configuration of ``HalfCheetah-v5``; the defaults are Gymnasium's."""

    forward_reward_weight: float = Field(1.0, description="weight of the forward velocity, m/s")
    control_cost_weight: float = Field(0.1, ge=0, description="weight of minus the summed squared actions")
    reset_noise_scale: float = Field(0.1, ge=0, description="half width of the initial positions, standard deviation of the velocities")
    exclude_current_positions_from_observation: bool = Field(True, description="leave the distance run out of the observation")


class HalfCheetah(MujocoTask):
    """Observation: positions without the distance run (8), velocities (9). It never fails; there is only the cut-off."""

    config_model = HalfCheetahConfig
    config: HalfCheetahConfig

    def __init__(
        self, num_envs: int, config: HalfCheetahConfig | None = None, seed: int | None = 0, reward_terms_in_info: bool = True
    ) -> None:
        config = config or HalfCheetahConfig()
        model = _load_scaled()
        self._skipped = int(config.exclude_current_positions_from_observation)
        super().__init__(
            name="HalfCheetah-v5",
            model=model,
            config=config,
            num_envs=num_envs,
            observation_fields=state_fields(model, self._skipped),
            reward_weights={"forward": config.forward_reward_weight, "control": config.control_cost_weight},
            seed=seed,
            reward_terms_in_info=reward_terms_in_info,
        )

    def _draw_state(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        model, scale = self.physics.model, self.config.reset_noise_scale
        return model.qpos0 + rng.uniform(-scale, scale, model.nq), scale * rng.standard_normal(model.nv)

    def _observe(self) -> np.ndarray:
        physics = self.physics
        return np.concatenate([physics.qpos.values[:, self._skipped :], physics.qvel.values], axis=1, dtype=np.float32)

    def _reward_terms(self) -> dict[str, np.ndarray]:
        return {"forward": self._forward_velocity_m_s(), "control": -self._squared_actions()}

    def _terminated(self) -> np.ndarray:
        return np.zeros(self.num_envs, dtype=bool)


def _load_scaled() -> mujoco.MjModel:
    """The model with its masses scaled to 14 kg altogether."""
    import mujoco

    model = load_model("half_cheetah")
    mujoco.mj_setTotalmass(model, _TOTAL_MASS_KG)
    data = mujoco.MjData(model)
    mujoco.mj_setConst(model, data)
    # The solver's tolerance is relative to the mean inertia, which MuJoCo takes only while it compiles.
    mujoco.mj_forward(model, data)
    inertia = np.zeros((model.nv, model.nv))
    mujoco.mj_fullM(model, data, inertia)
    model.stat.meaninertia = np.diag(inertia).mean()
    model.stat.meanmass = model.body_mass[1:].mean()
    return model
