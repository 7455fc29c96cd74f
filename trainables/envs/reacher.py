"""``Reacher-v5``: bring the fingertip of a two-link arm to a target. Gymnasium's task of the same name, batched."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from cluster.contract import TensorField
from trainables.envs.mujoco_task import MujocoTask, MujocoTaskConfig, load_model

__all__ = ["Reacher", "ReacherConfig"]

_JOINTS = ("shoulder", "elbow")
_INITIAL_ANGLE_RAD = 0.1
_INITIAL_SPEED_RAD_S = 0.005
_REACH_M = 0.2


class ReacherConfig(MujocoTaskConfig):
    """Configuration of ``Reacher-v5``; the defaults are Gymnasium's."""

    max_episode_steps: int = Field(50, ge=1, description="control steps after which an episode is cut off")
    frame_skip: int = Field(2, ge=1, description="MuJoCo timesteps in one control step")
    reward_distance_weight: float = Field(1.0, description="weight of minus the distance between fingertip and target, m")
    reward_control_weight: float = Field(1.0, description="weight of minus the summed squared actions")


class Reacher(MujocoTask):
    """Observation (10): cosines and sines of the angles, target, joint velocities, fingertip minus target. It never fails."""

    config_model = ReacherConfig
    config: ReacherConfig

    def __init__(self, num_envs: int, config: ReacherConfig | None = None, seed: int | None = 0, reward_terms_in_info: bool = True) -> None:
        config = config or ReacherConfig()
        model = load_model("reacher")
        super().__init__(
            name="Reacher-v5",
            model=model,
            config=config,
            num_envs=num_envs,
            observation_fields=(
                TensorField(name="angle_cosine", shape=(2,), components=_JOINTS),
                TensorField(name="angle_sine", shape=(2,), components=_JOINTS),
                TensorField(name="target_m", shape=(2,), unit="m", components=("x", "y")),
                TensorField(name="joint_velocity_rad_s", shape=(2,), unit="rad/s", components=_JOINTS),
                TensorField(name="fingertip_from_target_m", shape=(2,), unit="m", components=("x", "y")),
            ),
            reward_weights={"distance": config.reward_distance_weight, "control": config.reward_control_weight},
            seed=seed,
            reward_terms_in_info=reward_terms_in_info,
        )
        fingertip, target = model.body("fingertip").id, model.body("target").id
        self._fingertip_m = self.physics.follow(lambda data: data.xpos[fingertip])
        self._target_m = self.physics.follow(lambda data: data.xpos[target])

    def _draw_state(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Near the stretched arm, with a target evenly within the circle that the arm reaches."""
        model = self.physics.model
        target_m = np.full(2, _REACH_M)
        while np.linalg.norm(target_m) >= _REACH_M:
            target_m = rng.uniform(-_REACH_M, _REACH_M, 2)
        angles_rad = model.qpos0[:2] + rng.uniform(-_INITIAL_ANGLE_RAD, _INITIAL_ANGLE_RAD, 2)
        speeds_rad_s = rng.uniform(-_INITIAL_SPEED_RAD_S, _INITIAL_SPEED_RAD_S, 2)
        return np.concatenate([angles_rad, target_m]), np.concatenate([speeds_rad_s, np.zeros(2)])

    def _observe(self) -> np.ndarray:
        qpos, angles_rad = self.physics.qpos.values, self.physics.qpos.values[:, :2]
        parts = [np.cos(angles_rad), np.sin(angles_rad), qpos[:, 2:], self.physics.qvel.values[:, :2], self._from_target_m()[:, :2]]
        return np.concatenate(parts, axis=1, dtype=np.float32)

    def _reward_terms(self) -> dict[str, np.ndarray]:
        return {"distance": -np.linalg.norm(self._from_target_m(), axis=1), "control": -self._squared_actions()}

    def _terminated(self) -> np.ndarray:
        return np.zeros(self.num_envs, dtype=bool)

    def _from_target_m(self) -> np.ndarray:
        """From the target to the fingertip. Shape (num_envs, 3)."""
        return self._fingertip_m.values - self._target_m.values
