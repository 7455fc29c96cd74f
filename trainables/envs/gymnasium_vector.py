"""Any Gymnasium environment, or a class of one's own, behind the same interface as our batched tasks.

Observations come as flat float32 arrays, Box actions go in as [-1, 1], and finished episodes report ``episode_metrics``.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space
from gymnasium.wrappers import FlattenObservation
from gymnasium.wrappers.vector import FlattenObservation as FlattenVectorObservation

from cluster.config import parse_config
from cluster.errors import UsageError
from trainables.envs.base import BatchedTask

__all__ = ["GymnasiumTask", "make_gymnasium_task", "make_user_task"]


def make_gymnasium_task(environment_id: str, num_envs: int, config: Mapping[str, Any], seed: int | None = None) -> VectorEnv:
    """Copies of ``gymnasium.make(environment_id, **config)``. Raises ``UsageError`` where Gymnasium cannot make it."""
    name = f"gymnasium:{environment_id}"
    envs = _construct(name, lambda: [gymnasium.make(environment_id, **config) for _ in range(num_envs)])
    return GymnasiumTask(name, _in_turn(name, envs), seed)


def make_user_task(path: str, num_envs: int, config: Mapping[str, Any], seed: int | None = None) -> VectorEnv:
    """The class ``package.module:Class``, constructed with ``config`` as keyword arguments.

    A ``gymnasium.Env`` is run in ``num_envs`` copies; a ``gymnasium.vector.VectorEnv`` also gets ``num_envs``; a ``BatchedTask`` is made
    as those of the registry are, its configuration checked by its ``config_model``.

    Raises:
        UsageError: no such module or class, a class of another kind, or one that refuses these arguments.
    """
    kind = _find_class(path)
    if issubclass(kind, BatchedTask):
        settings = parse_config(config, kind.config_model, source=f"task {path}")
        return _construct(path, lambda: kind(num_envs, settings, seed, False))
    if issubclass(kind, VectorEnv):
        return GymnasiumTask(path, _construct(path, lambda: kind(num_envs=num_envs, **config)), seed)
    if issubclass(kind, gymnasium.Env):
        return GymnasiumTask(path, _in_turn(path, _construct(path, lambda: [kind(**config) for _ in range(num_envs)])), seed)
    raise UsageError(f"task {path}: {kind.__name__} is neither a gymnasium.Env nor a gymnasium.vector.VectorEnv; subclass one of them")


class GymnasiumTask(VectorWrapper):
    """A vector environment with flat float32 observations, actions in [-1, 1] or Discrete from 0, and episode metrics in the infos."""

    def __init__(self, name: str, env: VectorEnv, seed: int | None = None) -> None:
        """Wrap ``env``.

        Args:
            name: names it in errors.
            env: any vector environment whose automatic reset is NEXT_STEP.
            seed: of the first ``reset`` that is given none.

        Raises:
            UsageError: spaces or automatic reset are of a kind that a policy here cannot use.
        """
        if env.metadata.get("autoreset_mode") != AutoresetMode.NEXT_STEP:
            given = env.metadata.get("autoreset_mode", "nothing")
            raise UsageError(f"task {name}: its metadata['autoreset_mode'] must be AutoresetMode.NEXT_STEP, given {given}")
        super().__init__(_flattened(name, env))
        self._seed = seed
        size = self.env.single_observation_space.shape[0]
        self.single_observation_space = spaces.Box(-np.inf, np.inf, (size,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self._wanted = env.single_action_space
        self.single_action_space = _plain_action_space(name, self._wanted)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._returns, self._lengths = np.zeros(self.num_envs), np.zeros(self.num_envs)
        self._ended = np.zeros(self.num_envs, dtype=bool)

    def reset(self, *, seed: int | list[int] | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Reset all of them; metrics of unfinished episodes are dropped."""
        seed, self._seed = self._seed if seed is None else seed, None
        observations, _ = self.env.reset(seed=seed, options=options)
        self._returns[:], self._lengths[:], self._ended[:] = 0.0, 0.0, False
        return observations.astype(np.float32), {}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Step all of them; one whose episode ended in the step before resets instead and counts no step.

        Args:
            actions: Box: values outside [-1, 1] are clipped. Shape (num_envs, num_actions). Discrete: 0, 1, .. Shape (num_envs,).
        """
        observations, rewards, terminated, truncated, given = self.env.step(self._own_actions(actions))
        self._returns = np.where(self._ended, 0.0, self._returns + rewards)
        self._lengths = np.where(self._ended, 0.0, self._lengths + 1)
        self._ended = terminated | truncated
        infos: dict[str, Any] = {}
        if self._ended.any():
            metrics = {"return": self._returns.copy(), "length": self._lengths.copy(), "terminated": terminated.astype(np.float64)}
            infos = {"episode_metrics": metrics | given.get("episode_metrics", {}), "_episode_metrics": self._ended.copy()}
        return observations.astype(np.float32), rewards, terminated, truncated, infos

    def _own_actions(self, actions: np.ndarray) -> np.ndarray:
        """From the plain action space to the environment's own."""
        wanted = self._wanted
        if isinstance(wanted, spaces.Discrete):
            return np.asarray(actions, dtype=np.int64) + wanted.start
        share = (np.clip(actions, -1.0, 1.0).reshape(-1, *wanted.shape) + 1.0) / 2.0
        return (wanted.low + share * (wanted.high - wanted.low)).astype(wanted.dtype)


def _plain_action_space(name: str, space: spaces.Space[Any]) -> spaces.Space[Any]:
    if isinstance(space, spaces.Discrete):
        return spaces.Discrete(int(space.n))
    if not isinstance(space, spaces.Box):
        raise UsageError(f"task {name}: actions must be a Box or Discrete, given {_one_line(space)}")
    if not space.is_bounded():
        raise UsageError(f"task {name}: actions of [-1, 1] cannot be scaled to {_one_line(space)}; give its Box finite bounds")
    return spaces.Box(-1.0, 1.0, (int(np.prod(space.shape)),), np.float32)


def _flattened(name: str, env: VectorEnv) -> VectorEnv:
    space = env.single_observation_space
    if isinstance(space, spaces.Box) and len(space.shape) == 1:
        return env
    _check_flat(name, space)
    return FlattenVectorObservation(env)


def _in_turn(name: str, envs: list[gymnasium.Env[Any, Any]]) -> VectorEnv:
    """One after another. Flattened here, an observation of many parts need not be batched part by part."""
    space = envs[0].observation_space
    if not isinstance(space, spaces.Box) or len(space.shape) != 1:
        _check_flat(name, space)
        envs = [FlattenObservation(env) for env in envs]
    return SyncVectorEnv([lambda env=env: env for env in envs], autoreset_mode=AutoresetMode.NEXT_STEP)


def _check_flat(name: str, space: spaces.Space[Any]) -> None:
    if not space.is_np_flattenable:
        raise UsageError(f"task {name}: observations of {_one_line(space)} have no fixed length; a policy needs them as one array")


def _construct(name: str, make: Callable[[], Any]) -> Any:
    try:
        return make()
    except (gymnasium.error.Error, ImportError, TypeError) as error:
        raise UsageError(f"task {name}: {_one_line(error)}") from None


def _find_class(path: str) -> type:
    module_name, _, class_name = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UsageError(f"task {path}: {module_name} cannot be imported: {error}; write package.module:Class") from None
    found = getattr(module, class_name, None)
    if not inspect.isclass(found):
        classes = [name for name, value in vars(module).items() if inspect.isclass(value)]
        near = difflib.get_close_matches(class_name, classes, n=1)
        raise UsageError(f"task {path}: {module_name} has no class {class_name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    return found


def _one_line(value: object) -> str:
    return " ".join(str(value).split())[:200]
