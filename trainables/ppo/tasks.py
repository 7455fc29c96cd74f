"""The environments of a run: our batched tasks, or any Gymnasium environment behind the same interface."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv, VectorWrapper
from gymnasium.wrappers import ClipAction, RescaleAction

from cluster.errors import UsageError

__all__ = ["GYMNASIUM_PREFIX", "EpisodeMetricsCollector", "GymnasiumTask", "find_collector", "make_vector_task", "rllib_environment"]

GYMNASIUM_PREFIX = "gymnasium:"
_SEED_STRIDE = 10_007


def make_vector_task(name: str, num_envs: int, config: Mapping[str, Any], seed: int) -> VectorEnv:
    """A vector environment that reports ``episode_metrics``: a task of the registry, or ``gymnasium:ID``."""
    if name.startswith(GYMNASIUM_PREFIX):
        return GymnasiumTask(name.removeprefix(GYMNASIUM_PREFIX), num_envs, config)
    from trainables.envs.registry import make_task

    return make_task(name, num_envs, config, seed, reward_terms_in_info=False)


class GymnasiumTask(VectorWrapper):
    """Any Gymnasium environment with Box spaces, one after another, with actions in [-1, 1] and episode metrics in the infos."""

    def __init__(self, environment_id: str, num_envs: int, config: Mapping[str, Any]) -> None:
        def make() -> gymnasium.Env[Any, Any]:
            env = gymnasium.make(environment_id, **config)
            return ClipAction(RescaleAction(env, np.float32(-1.0), np.float32(1.0)))

        try:
            single = gymnasium.make(environment_id, **config)
        except (gymnasium.error.Error, ImportError, TypeError) as error:
            raise UsageError(f"task {GYMNASIUM_PREFIX}{environment_id}: {' '.join(str(error).split())[:200]}") from None
        box = gymnasium.spaces.Box
        suitable = all(isinstance(space, box) and len(space.shape) == 1 for space in (single.action_space, single.observation_space))
        spaces = f"{single.observation_space} and {single.action_space}"
        single.close()
        if not suitable:
            raise UsageError(f"task {GYMNASIUM_PREFIX}{environment_id}: PPO needs flat Box observations and actions, given {spaces}")
        super().__init__(SyncVectorEnv([make] * num_envs, autoreset_mode=AutoresetMode.NEXT_STEP))
        self._returns, self._lengths = np.zeros(num_envs), np.zeros(num_envs)
        self._ended = np.zeros(num_envs, dtype=bool)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Reset all of them; metrics of unfinished episodes are dropped."""
        observations, _ = self.env.reset(seed=seed, options=options)
        self._returns[:], self._lengths[:], self._ended[:] = 0.0, 0.0, False
        return observations.astype(np.float32), {}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Step all of them; one whose episode ended in the step before resets instead and counts no step."""
        observations, rewards, terminated, truncated, _ = self.env.step(actions)
        self._returns = np.where(self._ended, 0.0, self._returns + rewards)
        self._lengths = np.where(self._ended, 0.0, self._lengths + 1)
        self._ended = terminated | truncated
        infos: dict[str, Any] = {}
        if self._ended.any():
            metrics = {"return": self._returns.copy(), "length": self._lengths.copy(), "terminated": terminated.astype(np.float64)}
            infos = {"episode_metrics": metrics, "_episode_metrics": self._ended.copy()}
        return observations.astype(np.float32), rewards, terminated, truncated, infos


class EpisodeMetricsCollector(VectorWrapper):
    """Keeps the metrics of finished episodes and hands no infos on.

    RLlib turns every info into one dictionary per environment and step and carries it along in the episodes: for a task that
    reports its reward terms that costs more than sampling.
    """

    def __init__(self, env: VectorEnv) -> None:
        super().__init__(env)
        self._finished: list[dict[str, np.ndarray]] = []

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Reset, without infos."""
        # RLlib seeds its runners s, s + 1, ...; a vector environment does the same with its copies. Spread them, or they repeat each other.
        observations, _ = self.env.reset(seed=None if seed is None else seed * _SEED_STRIDE, options=options)
        return observations, {}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Step, without infos."""
        observations, rewards, terminated, truncated, infos = self.env.step(actions)
        if "episode_metrics" in infos:
            ended = infos["_episode_metrics"]
            self._finished.append({name: np.asarray(values)[ended] for name, values in infos["episode_metrics"].items()})
        return observations, rewards, terminated, truncated, {}

    def drain(self) -> dict[str, np.ndarray]:
        """Metrics of the episodes that finished since the last call; each array has one entry per episode."""
        finished, self._finished = self._finished, []
        return {name: np.concatenate([part[name] for part in finished]) for name in finished[0]} if finished else {}


def find_collector(env: VectorEnv) -> EpisodeMetricsCollector:
    """The collector among the wrappers around an env runner's environment."""
    layer: Any = env
    while not isinstance(layer, EpisodeMetricsCollector):
        layer = layer.env
    return layer


def rllib_environment(context: Mapping[str, Any]) -> VectorEnv:
    """RLlib's environment creator for ``gym_env_vectorize_mode=VECTOR_ENTRY_POINT``; ``context`` holds task, task_config, num_envs."""
    return EpisodeMetricsCollector(make_vector_task(context["task"], context["num_envs"], context["task_config"], context["seed"]))
