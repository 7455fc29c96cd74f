"""Environments as a user may bring them, for the tests."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space


class Parts(gymnasium.Env):
    """A Dict observation of all kinds, moves counted from 5, and a keyword argument."""

    def __init__(self, goal: int = 3) -> None:
        self.goal, self.place = goal, 0
        self.observation_space = spaces.Dict(
            {
                "choice": spaces.Discrete(3),
                "grid": spaces.Box(0.0, 9.0, (2, 2), np.float32),
                "pair": spaces.Tuple([spaces.MultiBinary(2), spaces.Box(-1.0, 1.0, (1,), np.float64)]),
            }
        )
        self.action_space = spaces.Discrete(3, start=5)

    def _observation(self) -> dict[str, Any]:
        pair = (np.array([1, 0], np.int8), np.array([0.5]))
        return {"choice": self.place % 3, "grid": np.full((2, 2), self.place, np.float32), "pair": pair}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.place = 0
        return self._observation(), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        self.place += int(action) - 5
        return self._observation(), 1.0, self.place >= self.goal, False, {}


class Matrix(gymnasium.Env):
    """A Box action of two axes with bounds of its own; the observation is the action that arrived."""

    def __init__(self, bound: float = 4.0) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (2, 2), np.float64)
        self.action_space = spaces.Box(np.array([[0.0, -bound], [0.0, -1.0]]), np.array([[2.0, bound], [10.0, 1.0]]), dtype=np.float64)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return np.zeros((2, 2)), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return action, 0.0, False, False, {}


class Words(Parts):
    """Its observation has no fixed length."""

    def __init__(self) -> None:
        super().__init__()
        self.observation_space = spaces.Sequence(spaces.Discrete(3))


class Counters(VectorEnv):
    """A vector environment: counts up by the action, ends at 5, with a figure of its own."""

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(self, num_envs: int, limit: int = 5) -> None:
        self.num_envs, self.limit = num_envs, limit
        self.single_observation_space = spaces.Box(0.0, 100.0, (1,), np.float64)
        self.single_action_space = spaces.Discrete(2)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.count, self.ended = np.zeros(num_envs), np.zeros(num_envs, dtype=bool)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        self.count[:], self.ended[:] = 0.0, False
        return self.count[:, None].copy(), {}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        self.count = np.where(self.ended, 0.0, self.count + actions)
        rewards = np.where(self.ended, 0.0, actions.astype(np.float64))
        self.ended = self.count >= self.limit
        infos = {"episode_metrics": {"count": self.count.copy()}, "_episode_metrics": self.ended.copy()} if self.ended.any() else {}
        return self.count[:, None].copy(), rewards, self.ended.copy(), np.zeros(self.num_envs, dtype=bool), infos


class SameStep(Counters):
    """Resets in the step that ends an episode."""

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012


class Nothing:
    """No environment at all."""
