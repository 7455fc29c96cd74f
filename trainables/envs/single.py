"""One robot of a batched task as a plain ``gymnasium.Env``."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from trainables.envs.base import BatchedTask

__all__ = ["SingleEnv"]


class SingleEnv(gymnasium.Env):
    """Adapter around a task with one robot: drops the batch axis, resets only when asked."""

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (Gymnasium's own form)

    def __init__(self, task: BatchedTask) -> None:
        if task.num_envs != 1:
            raise ValueError(f"a single environment wants a task with 1 robot, given {task.num_envs}")
        self.task = task
        self.observation_space, self.action_space = task.single_observation_space, task.single_action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """See ``gymnasium.Env.reset``."""
        super().reset(seed=seed)
        observations, _ = self.task.reset(seed=seed, options=options)
        return observations[0], {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """See ``gymnasium.Env.step``. The infos' arrays become numbers."""
        observations, rewards, terminated, truncated, infos = self.task.step(np.asarray(action)[None])
        plain = {key: _first(value) for key, value in infos.items() if not key.startswith("_")}
        return observations[0], float(rewards[0]), bool(terminated[0]), bool(truncated[0]), plain

    def close(self) -> None:
        """Close the task."""
        self.task.close()


def _first(value: Any) -> Any:
    return {key: _first(item) for key, item in value.items()} if isinstance(value, dict) else float(value[0])
