"""A task by any of its three kinds of name."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from cluster.errors import ConfigError, UsageError
from trainables.envs.base import BatchedTask
from trainables.envs.gymnasium_vector import GymnasiumTask
from trainables.envs.registry import TASKS, gymnasium_id
from trainables.envs.vector import make_vector_task, validate_task_config


def test_three_forms_of_a_name():
    ours = make_vector_task("HalfCheetah-v5", 3, {"max_episode_steps": 5}, 0)
    assert isinstance(ours, BatchedTask)
    assert isinstance(make_vector_task("gymnasium:Pendulum-v1", 2, {"g": 5.0}, 0), GymnasiumTask)
    own = make_vector_task("trainables.envs.hopper_walker2d:Hopper", 2, {"frame_skip": 2}, 7)
    assert own.name == "Hopper-v5"
    assert np.array_equal(own.reset()[0], make_vector_task("Hopper-v5", 2, {"frame_skip": 2}, 7).reset()[0])
    for task, size in ((ours, 6), (own, 3)):
        task.reset()
        assert task.step(np.zeros((task.num_envs, size)))[4] == {}  # no reward terms at every step


def test_an_unknown_name_names_the_three_forms_and_the_nearest():
    with pytest.raises(ConfigError, match=r"unknown task 'HalfCheetah'; did you mean 'HalfCheetah-v5'\? give one of Ant-v5, .*"):
        make_vector_task("HalfCheetah", 1, {}, 0)
    with pytest.raises(ConfigError, match=r"unknown task 'xyz'; give one of .*, or gymnasium:ID, or package.module:Class$"):
        validate_task_config("xyz", {})


def test_settings_are_checked_where_they_are_known():
    checked = validate_task_config("HalfCheetah-v5", {"frame_skip": 3})
    assert checked["frame_skip"] == 3
    assert checked["control_cost_weight"] == 0.1
    assert validate_task_config("pidog_run", {})["reward"]["alive"] == 0.5
    with pytest.raises(ConfigError, match=r"task HalfCheetah-v5: frame_skp: unknown key; did you mean 'frame_skip'\?"):
        validate_task_config("HalfCheetah-v5", {"frame_skp": 3})
    assert validate_task_config("gymnasium:Pendulum-v1", {"anything": 1}) == {"anything": 1}
    assert validate_task_config("my.module:Task", {"anything": 1}) == {"anything": 1}
    with pytest.raises(UsageError, match="frame_skip"):
        make_vector_task("trainables.envs.hopper_walker2d:Hopper", 2, {"frame_skip": 0}, 7)


def test_ids_for_gymnasium_carry_one_version():
    assert gymnasium_id("pidog_run") == "gaitway/pidog_run-v0"
    assert gymnasium_id("HalfCheetah-v5") == "gaitway/HalfCheetah-v5"
    assert len({gymnasium_id(name) for name in TASKS}) == len(TASKS)


def test_names_and_settings_are_checked_without_a_simulator():
    code = (
        "import sys; from trainables.envs.vector import validate_task_config; heavy = {'torch', 'mujoco', 'ray', 'gymnasium'};"
        "assert not heavy & sys.modules.keys(), heavy & sys.modules.keys();"
        "validate_task_config('Ant-v5', {}); assert not {'torch', 'mujoco', 'ray'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
