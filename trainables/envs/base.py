"""BatchedTask: what every task shares. A new task is one file that subclasses this and answers five questions.

- ``_place(envs)``: put these environments at the start of an episode;
- ``_advance(actions, active)``: one control period of all environments;
- ``_observe()``: the flat observation;
- ``_reward_terms()``: each named term, raw;
- ``_terminated()``: whose episode has ended by itself; and ``_episode_metrics()`` for figures beyond the common ones.

Here live the weighted sum of the terms, termination, truncation, automatic reset, seeds and the per-episode figures. Tasks whose
actions are a robot's joint targets subclass ``RobotTask``, those that are one MuJoCo model ``MujocoTask``.

Automatic reset is Gymnasium's NEXT_STEP: the step after an episode's last one ignores that environment's action, starts its next
episode and returns the first observation with reward 0.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode
from pydantic import Field

from cluster.config import Config
from cluster.contract import TensorField
from trainables.nonfinite import NonFiniteError

__all__ = ["BatchedTask", "TaskConfig"]


class TaskConfig(Config):
    """What every task's configuration has."""

    training_only: ClassVar[frozenset[str]] = frozenset()
    """Parts that shape training alone: a trained policy is evaluated, exported and served without them."""

    max_episode_steps: int = Field(500, ge=1, description="control steps after which an episode is cut off")


class BatchedTask(gymnasium.vector.VectorEnv):
    """``num_envs`` environments of one task in one process.

    A task that is to be found by name takes ``(num_envs, config, seed, reward_terms_in_info)``.

    Attributes:
        name: task name in the registry.
        config_model: model of the configuration that the task takes.
        failure_metric: name of the episode figure that is 1 when the episode ended by itself, 0 when it was cut off.
        control_dt_s: control period, seconds.
        observation_fields: named parts of the flat observation, in order.
        action_fields: named parts of what the actions stand for, in order.
        rngs: one random generator an environment, for everything drawn at a reset.
        episode_steps: control steps done in the current episode. Shape (num_envs,).
    """

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.NEXT_STEP, "render_modes": []}  # noqa: RUF012 (Gymnasium's own form)
    config_model: ClassVar[type[TaskConfig]] = TaskConfig
    failure_metric: ClassVar[str] = "terminated"

    def __init__(
        self,
        *,
        name: str,
        config: TaskConfig,
        num_envs: int,
        control_dt_s: float,
        observation_fields: tuple[TensorField, ...],
        action_fields: tuple[TensorField, ...],
        reward_weights: Mapping[str, float],
        seed: int | None,
        reward_terms_in_info: bool,
        reward_scale: float = 1.0,
        single_action_space: gymnasium.Space[Any] | None = None,
    ) -> None:
        """Set up spaces and episode bookkeeping.

        Args:
            name: see the class, as for those below that stand there.
            config: the task's configuration.
            num_envs: environments.
            control_dt_s: control period, seconds.
            observation_fields: see the class.
            action_fields: see the class.
            reward_weights: term name -> weight, in the order of ``_reward_terms()``.
            seed: seed of every random draw; None: different each time.
            reward_terms_in_info: put every step's weighted terms into the infos.
            reward_scale: factor of all weights, such as ``control_dt_s`` for weights per second.
            single_action_space: one environment's actions; None: a Box of [-1, 1] as long as the action fields together.
        """
        self.name, self.config = name, config
        self.num_envs, self.control_dt_s = num_envs, control_dt_s
        self.observation_fields, self.action_fields = observation_fields, action_fields
        self._weights = np.array(list(reward_weights.values()), dtype=np.float64)[:, None]
        self._reward_scale = reward_scale
        self._term_names = tuple(reward_weights)
        self._reward_terms_in_info = reward_terms_in_info
        self.observation_size = sum(field.size for field in observation_fields)
        self.action_size = sum(field.size for field in action_fields)
        self.single_observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (self.observation_size,), np.float32)
        self.single_action_space = single_action_space or gymnasium.spaces.Box(-1.0, 1.0, (self.action_size,), np.float32)
        self.observation_space = gymnasium.vector.utils.batch_space(self.single_observation_space, num_envs)
        self.action_space = gymnasium.vector.utils.batch_space(self.single_action_space, num_envs)

        self._action_dtype = np.float64 if isinstance(self.single_action_space, gymnasium.spaces.Box) else np.int64

        self.episode_steps = np.zeros(num_envs, dtype=np.int64)
        self._starting = np.ones(num_envs, dtype=bool)
        self._term_sums = np.zeros((len(self._term_names), num_envs))
        self._returns = np.zeros(num_envs)
        self._seed_generators(seed)

    # What a task answers -------------------------------------------------------------------------------------------------

    @abstractmethod
    def _place(self, envs: np.ndarray) -> None:
        """Start an episode of the environments with indices ``envs``. Shape (n,), n > 0."""

    @abstractmethod
    def _advance(self, actions: np.ndarray, active: np.ndarray) -> None:
        """One control period.

        Args:
            actions: in [-1, 1], float64 (of a Discrete space: int64). Shape (num_envs, num_actions), Discrete: (num_envs,).
            active: who is in the middle of an episode; the others have just been placed, their actions mean nothing and what an
                episode's own figures add up must leave them out. Shape (num_envs,), bool.
        """

    @abstractmethod
    def _observe(self) -> np.ndarray:
        """A fresh array of observations. Shape (num_envs, observation_size), float32."""

    @abstractmethod
    def _reward_terms(self) -> dict[str, np.ndarray]:
        """Raw value of each term of the last control period, in the order of the weights. Each of shape (num_envs,)."""

    @abstractmethod
    def _terminated(self) -> np.ndarray:
        """Whose episode has ended by itself. Shape (num_envs,), bool."""

    def _episode_metrics(self) -> dict[str, np.ndarray]:
        """Figures of the current episodes beyond return, length, failure and the mean reward terms. Each of shape (num_envs,)."""
        return {}

    def set_env_steps(self, env_steps: int) -> None:
        """Training has come this far, in environment steps of the whole run; for tasks whose reward changes over training."""

    # Gymnasium's side ----------------------------------------------------------------------------------------------------

    def reset(self, *, seed: int | list[int] | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Start a new episode of every environment; with a seed the whole following run repeats bit for bit."""
        if seed is not None:
            self._seed_generators(seed)
        self._starting[:] = True
        self._step_physics(np.zeros(self.action_space.shape, dtype=self._action_dtype))
        return self._observe(), {}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """One control period.

        Args:
            actions: values outside [-1, 1] are clipped. Shape (num_envs, num_actions).

        Returns:
            Observations, rewards, terminated, truncated, infos. ``infos["reward_terms"]`` holds the weighted terms, whose sum is
            the reward; ``infos["episode_metrics"]`` and its mask stand there when an episode has ended.

        Raises:
            NonFiniteError: an action, or the physics, holds NaN or infinity.
        """
        actions = np.asarray(actions, dtype=self._action_dtype)
        if self._action_dtype == np.float64:
            actions = np.minimum(np.maximum(actions, -1.0), 1.0)  # np.clip, in a third of its time
        return self._step_actions(actions)

    def _step_actions(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        if not np.isfinite(actions.sum()):
            # MuJoCo would take 0 instead, and a servo's own state would stay NaN for every later episode.
            env = int(np.argwhere(~np.isfinite(actions))[0, 0])
            raise NonFiniteError("the action", env, int(self.episode_steps[env]) + 1, {})
        active = self._step_physics(actions)
        raw = np.array(list(self._reward_terms().values())) * active
        weighted = raw * self._weights
        if self._reward_scale != 1.0:
            weighted *= self._reward_scale
        rewards = weighted.sum(axis=0)
        self._term_sums += raw
        self._returns += rewards
        terminated = self._terminated() & active
        # The step that starts an episode cannot be its last: max_episode_steps is at least 1. Of two reasons to end, failure counts.
        truncated = (self.episode_steps >= self.config.max_episode_steps) > terminated
        infos: dict[str, Any] = {}
        if self._reward_terms_in_info:
            infos["reward_terms"] = dict(zip(self._term_names, weighted, strict=True))
        self._starting = terminated | truncated
        if self._starting.any():
            infos["episode_metrics"] = self._metrics(terminated)
            infos["_episode_metrics"] = self._starting.copy()
        return self._observe(), rewards, terminated, truncated, infos

    def _step_physics(self, actions: np.ndarray) -> np.ndarray:
        """Start the episodes that are due, advance everybody; returns who was in the middle of an episode. Shape (num_envs,), bool."""
        active = ~self._starting
        if not active.all():
            envs = np.flatnonzero(self._starting)
            self._place(envs)
            self._begin_episodes(envs)
        self.episode_steps += active
        self._advance(actions, active)
        return active

    def _refuse_diverged(self, diverged: np.ndarray, qpos: np.ndarray, qvel: np.ndarray, actions: np.ndarray) -> None:
        """Raise ``NonFiniteError`` if a simulation has diverged. Never silently: MuJoCo itself would go on from its reference position.

        Args:
            diverged: indices of those that have. Shape (n,).
            qpos: positions before the step. Shape (num_envs, nq).
            qvel: velocities before the step. Shape (num_envs, nv).
            actions: what was sent. Shape (num_envs, num_actions).
        """
        if diverged.size:
            env = int(diverged[0])
            last = {"qpos": qpos[env].tolist(), "qvel": qvel[env].tolist(), "action": actions[env].tolist()}
            raise NonFiniteError("the physics state", env, int(self.episode_steps[env]), last)

    def _begin_episodes(self, envs: np.ndarray) -> None:
        """The episode figures of these environments start from nothing."""
        self.episode_steps[envs] = 0
        self._term_sums[:, envs] = 0.0
        self._returns[envs] = 0.0
        self._starting[envs] = False

    @property
    def episode_metric_names(self) -> tuple[str, ...]:
        """Names of the figures that a finished episode reports."""
        return tuple(self._metrics(np.zeros(self.num_envs, dtype=bool)))

    def _metrics(self, terminated: np.ndarray) -> dict[str, np.ndarray]:
        steps = np.maximum(self.episode_steps, 1)
        metrics = {
            "return": self._returns.copy(),
            "length": self.episode_steps.astype(np.float64),
            self.failure_metric: terminated.astype(np.float64),
            **self._episode_metrics(),
        }
        return metrics | {f"reward/{name}": total / steps for name, total in zip(self._term_names, self._term_sums, strict=True)}

    def _seed_generators(self, seed: int | list[int] | None) -> None:
        sequences = np.random.SeedSequence(seed).spawn(self.num_envs + 1)
        self._noise_rng = np.random.default_rng(sequences[-1])
        """One generator for noise drawn every step for all environments at once; its use does not depend on who is reset when."""
        self.rngs = [np.random.default_rng(sequence) for sequence in sequences[:-1]]
