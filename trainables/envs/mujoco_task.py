"""MujocoTask: a batched task that is one MuJoCo model, with actions that are its actuators' inputs.

It answers ``_place`` and ``_advance`` for its tasks, which answer ``_draw_state(rng)`` instead. A simulation that starts an episode is
only placed, not advanced, during that control step.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from cluster.contract import TensorField
from trainables.envs.base import BatchedTask, TaskConfig

if TYPE_CHECKING:
    import mujoco

__all__ = ["MujocoTask", "MujocoTaskConfig", "Range", "load_model", "state_fields", "within"]

Range = tuple[float | None, float | None]
"""From, to; None: unlimited."""


class MujocoTaskConfig(TaskConfig):
    """What the configuration of every MuJoCo task has."""

    max_episode_steps: int = Field(1000, ge=1, description="control steps after which an episode is cut off")
    frame_skip: int = Field(5, ge=1, description="MuJoCo timesteps in one control step")
    num_threads: int = Field(1, ge=1, description="threads that step the simulations; results do not depend on it")


class MujocoTask(BatchedTask):
    """``num_envs`` simulations of one model.

    Actions of -1..1 span the actuators' control range; values outside are clipped, and a control cost counts the clipped ones.
    (Gymnasium's environments charge for the unclipped action although MuJoCo clips it too.)

    Attributes:
        physics: the simulations.
    """

    config: MujocoTaskConfig

    def __init__(
        self,
        *,
        name: str,
        model: mujoco.MjModel,
        config: MujocoTaskConfig,
        num_envs: int,
        observation_fields: tuple[TensorField, ...],
        reward_weights: Mapping[str, float],
        seed: int | None,
        reward_terms_in_info: bool,
        with_contact_forces: bool = False,
    ) -> None:
        from trainables.envs.mujoco_batch import MujocoBatch

        low, high = model.actuator_ctrlrange.T
        control = TensorField(
            name="control",
            shape=(model.nu,),
            components=tuple(model.actuator(index).name for index in range(model.nu)),
            low=tuple(low.tolist()),
            high=tuple(high.tolist()),
        )
        super().__init__(
            name=name,
            config=config,
            num_envs=num_envs,
            control_dt_s=model.opt.timestep * config.frame_skip,
            observation_fields=observation_fields,
            action_fields=(control,),
            reward_weights=reward_weights,
            seed=seed,
            reward_terms_in_info=reward_terms_in_info,
        )
        self._control_middle, self._control_half_range = (low + high) / 2, (high - low) / 2
        self._actions = np.zeros((num_envs, self.action_size))
        self.physics = MujocoBatch(model, num_envs, config.frame_skip, config.num_threads, with_contact_forces)

    @abstractmethod
    def _draw_state(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Positions and velocities that an episode starts with. Shapes (nq,), (nv,)."""

    def set_state(self, envs: np.ndarray, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
        """Start a new episode of some environments in a given state, as Gymnasium's environments are after their ``reset``.

        Args:
            envs: which environments. Shape (n,).
            qpos: positions. Shape (n, nq).
            qvel: velocities. Shape (n, nv).

        Returns:
            The observations of all environments. Shape (num_envs, observation_size).
        """
        for env, position, velocity in zip(envs, qpos, qvel, strict=True):
            self.physics.place(env, position, velocity)
        self._begin_episodes(envs)
        self.physics.read()
        return self._observe()

    def close(self, **kwargs: object) -> None:
        """Stop the physics threads."""
        self.physics.close()
        super().close(**kwargs)

    def _place(self, envs: np.ndarray) -> None:
        for env in envs:
            self.physics.place(env, *self._draw_state(self.rngs[env]))

    def _advance(self, actions: np.ndarray, active: np.ndarray) -> None:
        self._actions = actions
        diverged = self.physics.step(self._control_middle + self._control_half_range * actions, active)
        self._refuse_diverged(diverged, self.physics.qpos.previous, self.physics.qvel.previous, actions)

    def _squared_actions(self) -> np.ndarray:
        """Sum of the squared actions, what a control cost is counted by. Shape (num_envs,)."""
        return np.square(self._actions).sum(axis=1)

    def _forward_velocity_m_s(self) -> np.ndarray:
        """Mean velocity of the first position coordinate over the last control step. Shape (num_envs,)."""
        qpos = self.physics.qpos
        return (qpos.values[:, 0] - qpos.previous[:, 0]) / self.physics.dt_s


def load_model(name: str) -> mujoco.MjModel:
    """Compile ``models/<name>.xml``."""
    import mujoco

    return mujoco.MjModel.from_xml_path(str(Path(__file__).parent / "models" / f"{name}.xml"))


def state_fields(model: mujoco.MjModel, skipped: int) -> tuple[TensorField, TensorField]:
    """Observation fields of the positions after the first ``skipped`` and of all velocities, with the joints' names and units."""
    import mujoco

    free_position = ("x_m", "y_m", "z_m", "orientation_w", "orientation_x", "orientation_y", "orientation_z")
    free_velocity = ("x_m_s", "y_m_s", "z_m_s", "turn_x_rad_s", "turn_y_rad_s", "turn_z_rad_s")
    parts = {
        mujoco.mjtJoint.mjJNT_FREE: (free_position, free_velocity),
        mujoco.mjtJoint.mjJNT_SLIDE: (("m",), ("m_s",)),
        mujoco.mjtJoint.mjJNT_HINGE: (("rad",), ("rad_s",)),
    }
    joints = [model.joint(index) for index in range(model.njnt)]
    positions, velocities = (
        tuple(f"{joint.name}_{part}" for joint in joints for part in parts[mujoco.mjtJoint(joint.type[0])][kind]) for kind in (0, 1)
    )
    positions = positions[skipped:]
    return (
        TensorField(name="position", shape=(len(positions),), components=positions),
        TensorField(name="velocity", shape=(len(velocities),), components=velocities),
    )


def within(values: np.ndarray, limits: Range) -> np.ndarray:
    """Whether each value lies between the limits, which do not count themselves. Same shape."""
    low, high = limits
    return (values > (-np.inf if low is None else low)) & (values < (np.inf if high is None else high))
