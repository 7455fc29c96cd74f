"""BatchedTask: what every task shares. A new task is one file that subclasses this and answers five questions.

- ``_place(envs)``: put these robots at the start of an episode and leave ``initial_targets`` for them;
- ``_advance(joint_targets, active)``: one control period of physics for all robots;
- ``_observe()``: the flat observation;
- ``_reward_terms()``: each named term, raw;
- ``_fallen()``: who has failed; and ``_episode_metrics()`` for figures beyond the common ones.

Here live action scaling, the weighted sum of the terms, termination, truncation, automatic reset and the per-episode figures.

Automatic reset is Gymnasium's NEXT_STEP: the step after an episode's last one ignores that robot's action, starts its next
episode and returns the first observation with reward 0. The robot is placed and holds its initial targets during that control
period together with everybody else's ordinary step, so a reset costs no extra physics and its first sensor readings are real.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode
from pydantic import Field

from cluster.config import Config
from cluster.contract import TensorField
from trainables.robots.base import RobotSpec

__all__ = ["ActionScaling", "BatchedTask", "TaskConfig"]


class TaskConfig(Config):
    """What every task's configuration has."""

    max_episode_steps: int = Field(500, ge=1, description="control steps after which an episode is cut off")


@dataclass(frozen=True, eq=False)
class ActionScaling:
    """From a normalised action to physical joint targets. All arrays have shape (num_actions,)."""

    offset: np.ndarray
    """Target of action 0, rad."""
    scale: np.ndarray
    """Half range of actions -1..1, rad."""
    low: np.ndarray
    """Lower servo limit, rad."""
    high: np.ndarray
    """Upper servo limit, rad."""

    def to_physical(self, actions: np.ndarray) -> np.ndarray:
        """``clip(offset + scale * clip(a, -1, 1), low, high)``. Shape (..., num_actions)."""
        return np.clip(self.offset + self.scale * np.clip(actions, -1.0, 1.0), self.low, self.high)

    def to_normalised(self, joint_targets_rad: np.ndarray) -> np.ndarray:
        """Inverse of ``to_physical`` for targets that it can produce; others are clipped to [-1, 1]. Shape (..., num_actions)."""
        return np.clip((joint_targets_rad - self.offset) / self.scale, -1.0, 1.0)


class BatchedTask(gymnasium.vector.VectorEnv):
    """``num_envs`` robots doing one task in one process.

    Attributes:
        name: task name in the registry.
        robot: the robot's specification.
        control_dt_s: control period, seconds.
        observation_fields: named parts of the flat observation, in order.
        action_fields: named parts of the physical action, in order.
        action_scaling: normalised action -> joint targets.
        rngs: one random generator a robot, for everything drawn at a reset.
        episode_steps: control steps done in the current episode. Shape (num_envs,).
        previous_action_rad: last joint targets sent. Shape (num_envs, num_actions).
        initial_targets_rad: joint targets held while an episode starts. Shape (num_envs, num_actions).
    """

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.NEXT_STEP, "render_modes": []}  # noqa: RUF012 (Gymnasium's own form)

    def __init__(
        self,
        *,
        name: str,
        robot: RobotSpec,
        config: TaskConfig,
        num_envs: int,
        control_dt_s: float,
        observation_fields: tuple[TensorField, ...],
        action_fields: tuple[TensorField, ...],
        action_scaling: ActionScaling,
        reward_weights: Mapping[str, float],
        seed: int | None,
        reward_terms_in_info: bool,
    ) -> None:
        self.name, self.robot, self.config = name, robot, config
        self.num_envs, self.control_dt_s = num_envs, control_dt_s
        self.observation_fields, self.action_fields, self.action_scaling = observation_fields, action_fields, action_scaling
        self._weights = np.fromiter(reward_weights.values(), dtype=np.float64)
        self._term_names = tuple(reward_weights)
        self._reward_terms_in_info = reward_terms_in_info
        self.observation_size = sum(field.size for field in observation_fields)
        self.action_size = sum(field.size for field in action_fields)
        self.single_observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (self.observation_size,), np.float32)
        self.single_action_space = gymnasium.spaces.Box(-1.0, 1.0, (self.action_size,), np.float32)
        self.observation_space = gymnasium.vector.utils.batch_space(self.single_observation_space, num_envs)
        self.action_space = gymnasium.vector.utils.batch_space(self.single_action_space, num_envs)

        self.episode_steps = np.zeros(num_envs, dtype=np.int64)
        self.initial_targets_rad = np.zeros((num_envs, self.action_size))
        self.previous_action_rad = np.zeros((num_envs, self.action_size))
        self._starting = np.ones(num_envs, dtype=bool)
        self._term_sums = np.zeros((len(self._term_names), num_envs))
        self._returns = np.zeros(num_envs)
        self._seed_generators(seed)

    # What a task answers -------------------------------------------------------------------------------------------------

    @abstractmethod
    def _place(self, envs: np.ndarray) -> None:
        """Start an episode of the robots with indices ``envs``: state, command, ``initial_targets_rad``."""

    @abstractmethod
    def _advance(self, joint_targets_rad: np.ndarray, active: np.ndarray) -> None:
        """One control period of physics. Shapes (num_envs, num_actions), (num_envs,) bool: who is in the middle of an episode.

        The others only hold their initial targets: what an episode's own figures add up must leave them out.
        """

    @abstractmethod
    def _observe(self) -> np.ndarray:
        """A fresh array of observations. Shape (num_envs, observation_size), float32."""

    @abstractmethod
    def _reward_terms(self) -> dict[str, np.ndarray]:
        """Raw value of each term of the last control period, in the order of the weights. Each of shape (num_envs,)."""

    @abstractmethod
    def _fallen(self) -> np.ndarray:
        """Who has failed. Shape (num_envs,), bool."""

    def _episode_metrics(self) -> dict[str, np.ndarray]:
        """Figures of the current episodes beyond return, length, fell and the mean reward terms. Each of shape (num_envs,)."""
        return {}

    # Gymnasium's side ----------------------------------------------------------------------------------------------------

    def reset(self, *, seed: int | list[int] | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Start a new episode of every robot; with a seed the whole following run repeats bit for bit."""
        if seed is not None:
            self._seed_generators(seed)
        self._starting[:] = True
        self._step_physics(np.zeros((self.num_envs, self.action_size)))
        return self._observe(), {}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """One control period.

        Args:
            actions: normalised joint targets in [-1, 1]; values outside are clipped. Shape (num_envs, num_actions).

        Returns:
            Observations, rewards, terminated, truncated, infos. ``infos["reward_terms"]`` holds the weighted terms, whose sum is
            the reward; ``infos["episode_metrics"]`` and its mask stand there when an episode has ended.
        """
        return self._step_targets(self.action_scaling.to_physical(np.asarray(actions, dtype=np.float64)))

    def step_joint_targets(self, joint_targets_rad: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """``step`` with physical joint targets, which only the servo limits bound. Shape (num_envs, num_actions)."""
        return self._step_targets(np.clip(joint_targets_rad, self.action_scaling.low, self.action_scaling.high))

    def _step_targets(self, joint_targets_rad: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        if not np.isfinite(joint_targets_rad).all():
            # The servos' own state would stay NaN, and every later episode with it.
            raise ValueError(f"task {self.name}: actions hold NaN or infinity; the policy that sent them has diverged")
        active = self._step_physics(joint_targets_rad)
        raw = np.stack(list(self._reward_terms().values())) * active
        weighted = raw * self._weights[:, None] * self.control_dt_s
        rewards = weighted.sum(axis=0)
        self._term_sums += raw
        self._returns += rewards
        terminated = self._fallen() & active
        truncated = (self.episode_steps >= self.config.max_episode_steps) & active & ~terminated
        infos: dict[str, Any] = {}
        if self._reward_terms_in_info:
            infos["reward_terms"] = dict(zip(self._term_names, weighted, strict=True))
        self._starting = terminated | truncated
        if self._starting.any():
            infos["episode_metrics"] = self._metrics(terminated)
            infos["_episode_metrics"] = self._starting.copy()
        return self._observe(), rewards, terminated, truncated, infos

    def _step_physics(self, joint_targets_rad: np.ndarray) -> np.ndarray:
        """Start the episodes that are due, advance everybody; returns who was in the middle of an episode. Shape (num_envs,), bool."""
        active = ~self._starting
        envs = np.flatnonzero(self._starting)
        if envs.size:
            self._place(envs)
            joint_targets_rad[envs] = self.initial_targets_rad[envs]
            self.episode_steps[envs] = 0
            self._term_sums[:, envs] = 0.0
            self._returns[envs] = 0.0
            self._starting = np.zeros(self.num_envs, dtype=bool)
        self.episode_steps += active
        self._advance(joint_targets_rad, active)
        self.previous_action_rad = joint_targets_rad
        return active

    def _metrics(self, terminated: np.ndarray) -> dict[str, np.ndarray]:
        steps = np.maximum(self.episode_steps, 1)
        metrics = {
            "return": self._returns.copy(),
            "length": self.episode_steps.astype(np.float64),
            "fell": terminated.astype(np.float64),
            **self._episode_metrics(),
        }
        return metrics | {f"reward/{name}": total / steps for name, total in zip(self._term_names, self._term_sums, strict=True)}

    def _seed_generators(self, seed: int | list[int] | None) -> None:
        sequences = np.random.SeedSequence(seed).spawn(self.num_envs + 1)
        self._noise_rng = np.random.default_rng(sequences[-1])
        """One generator for noise drawn every step for all robots at once; its use does not depend on who is reset when."""
        self.rngs = [np.random.default_rng(sequence) for sequence in sequences[:-1]]
