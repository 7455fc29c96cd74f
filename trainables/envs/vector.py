"""A task by name, whatever it is: ours, Gymnasium's, or a class of one's own.

``HalfCheetah-v5``                  a task of the registry
``gymnasium:CartPole-v1``           any Gymnasium environment
``my_package.my_module:MyTask``     a class: a ``gymnasium.Env``, a ``gymnasium.vector.VectorEnv`` or a ``BatchedTask``

Light: the simulators are imported when a task is made.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cluster.config import parse_config
from cluster.errors import ConfigError

if TYPE_CHECKING:
    from gymnasium.vector import VectorEnv

__all__ = ["GYMNASIUM_PREFIX", "make_vector_task", "trained_task_config", "validate_task_config"]

GYMNASIUM_PREFIX = "gymnasium:"


def make_vector_task(name: str, num_envs: int, config: Mapping[str, Any], seed: int) -> VectorEnv:
    """A vector environment that reports ``episode_metrics``; see the module's docstring for ``name``.

    Args:
        name: task name.
        num_envs: environments.
        config: the task's settings: checked by the task itself, or keyword arguments of an environment that is not ours.
        seed: of every random draw until a ``reset`` gives another.

    Raises:
        UsageError: an unknown name, settings that do not fit, or an environment that a policy here cannot use.
    """
    if name.startswith(GYMNASIUM_PREFIX):
        from trainables.envs.gymnasium_vector import make_gymnasium_task

        return make_gymnasium_task(name.removeprefix(GYMNASIUM_PREFIX), num_envs, config, seed)
    if ":" in name:
        from trainables.envs.gymnasium_vector import make_user_task

        return make_user_task(name, num_envs, config, seed)
    from trainables.envs.registry import make_task

    _check_known(name)
    return make_task(name, num_envs, config, seed, reward_terms_in_info=False)


def validate_task_config(name: str, config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The task's settings with their defaults, checked; those of an environment that is not ours are known only to itself.

    Raises ``ConfigError`` for an unknown task, an unknown key or a value out of range.
    """
    if ":" in name:
        return config
    from trainables.envs.registry import task_config_model

    _check_known(name)
    return parse_config(config, task_config_model(name), source=f"task {name}").model_dump()


def trained_task_config(name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The task's settings as a trained policy keeps them: without those that shape training alone, such as a reward that fades."""
    if ":" in name:
        return dict(config)
    from trainables.envs.registry import task_config_model

    training_only = task_config_model(name).training_only
    return {key: value for key, value in config.items() if key not in training_only}


def _check_known(name: str) -> None:
    from trainables.envs.registry import TASKS

    if name not in TASKS:
        near = difflib.get_close_matches(name, TASKS, n=1)
        raise ConfigError(
            f"unknown task {name!r}; "
            + (f"did you mean {near[0]!r}? " if near else "")
            + f"give one of {', '.join(sorted(TASKS))}, or {GYMNASIUM_PREFIX}ID, or package.module:Class"
        )
