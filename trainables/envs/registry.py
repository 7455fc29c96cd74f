"""Tasks by name, and their registration with Gymnasium.

``register_gymnasium()`` makes ``gaitway/pidog_run-v0``, ``gaitway/HalfCheetah-v5`` and the others known; RLlib with
``gym_env_vectorize_mode="vector_entry_point"`` then gets the batch-first task itself, and anything that wants a plain
``gymnasium.Env`` gets an adapter. Keyword arguments of either are the task's configuration.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any

import gymnasium

from cluster.config import parse_config
from cluster.errors import ConfigError, UsageError
from trainables.envs.ant import Ant
from trainables.envs.base import BatchedTask, TaskConfig
from trainables.envs.half_cheetah import HalfCheetah
from trainables.envs.hopper_walker2d import Hopper, Walker2d
from trainables.envs.inverted_pendulum import InvertedDoublePendulum, InvertedPendulum
from trainables.envs.pidog_run import PiDogRun
from trainables.envs.reacher import Reacher
from trainables.envs.robot_task import RobotTask
from trainables.envs.single import SingleEnv

__all__ = [
    "TASKS",
    "gymnasium_id",
    "make_robot_task",
    "make_single_env",
    "make_task",
    "make_vector_env",
    "register_gymnasium",
    "robot_tasks",
    "task_config_model",
]

TASKS: dict[str, type[BatchedTask]] = {
    "pidog_run": PiDogRun,
    "HalfCheetah-v5": HalfCheetah,
    "Hopper-v5": Hopper,
    "Walker2d-v5": Walker2d,
    "Ant-v5": Ant,
    "InvertedPendulum-v5": InvertedPendulum,
    "InvertedDoublePendulum-v5": InvertedDoublePendulum,
    "Reacher-v5": Reacher,
}


def make_task(
    name: str, num_envs: int, config: Mapping[str, Any] | None = None, seed: int | None = 0, reward_terms_in_info: bool = True
) -> BatchedTask:
    """The task called ``name`` with ``num_envs`` environments.

    Args:
        name: task name.
        num_envs: environments.
        config: mapping of the task's configuration keys; unknown ones are a ``ConfigError``.
        seed: the same seed and actions give the same run bit for bit; None: different each time.
        reward_terms_in_info: put every step's reward terms into the infos (the episode's means are there in any case).
    """
    task = _find(name)
    return task(num_envs, parse_config(config or {}, task.config_model, source=f"task {name}"), seed, reward_terms_in_info)


def make_robot_task(
    name: str, num_envs: int, config: Mapping[str, Any] | None = None, seed: int | None = 0, reward_terms_in_info: bool = True
) -> RobotTask:
    """``make_task`` for what needs a robot (datasets, imitation, export, fleets). Raises ``UsageError`` for a task without one."""
    if not issubclass(_find(name), RobotTask):
        raise UsageError(f"task {name} has no robot, which is needed here; tasks with one: {', '.join(robot_tasks())}")
    task = make_task(name, num_envs, config, seed, reward_terms_in_info)
    assert isinstance(task, RobotTask)
    return task


def robot_tasks() -> list[str]:
    """Names of the tasks that drive a robot."""
    return [name for name, task in TASKS.items() if issubclass(task, RobotTask)]


def task_config_model(name: str) -> type[TaskConfig]:
    """The configuration model of a task. Raises ``ConfigError`` for an unknown name."""
    return _find(name).config_model


def gymnasium_id(name: str) -> str:
    """Gymnasium's id of a task: its own version, or v0 when its name has none."""
    return f"gaitway/{name}" if re.search(r"-v\d+$", name) else f"gaitway/{name}-v0"


def register_gymnasium() -> None:
    """Register every task with Gymnasium in this process; again is harmless."""
    for name in TASKS:
        if gymnasium_id(name) not in gymnasium.registry:
            gymnasium.register(
                gymnasium_id(name),
                entry_point=f"{__name__}:make_single_env",
                vector_entry_point=f"{__name__}:make_vector_env",
                disable_env_checker=True,
                kwargs={"task": name},
            )


def make_vector_env(task: str, num_envs: int = 1, seed: int | None = None, **config: Any) -> BatchedTask:
    """Gymnasium's vector entry point: without reward terms at every step, which RLlib would unpack environment by environment."""
    return make_task(task, num_envs, config, seed, reward_terms_in_info=False)


def make_single_env(task: str, seed: int | None = None, render_mode: str | None = None, **config: Any) -> SingleEnv:
    """Gymnasium's plain entry point. ``render_mode`` changes nothing: no task draws, but some libraries always ask for it."""
    return SingleEnv(make_task(task, 1, config, seed))


def _find(name: str) -> type[BatchedTask]:
    if name not in TASKS:
        near = difflib.get_close_matches(name, TASKS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ConfigError(f"unknown task {name!r}; {hint}known: {', '.join(sorted(TASKS))}")
    return TASKS[name]
