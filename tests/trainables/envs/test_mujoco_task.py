"""What the MuJoCo tasks share: seeds, threads, set states, named terms and fields, and simulations that diverge."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.errors import ConfigError
from trainables.envs.mujoco_task import MujocoTask
from trainables.envs.registry import TASKS, make_task
from trainables.nonfinite import NonFiniteError

NAMES = [name for name, task in TASKS.items() if issubclass(task, MujocoTask)]


def make(name: str, num_envs: int = 4, seed: int = 0, **config: Any) -> MujocoTask:
    task = make_task(name, num_envs, config, seed)
    assert isinstance(task, MujocoTask)
    return task


def roll(task: MujocoTask, steps: int, seed: int = 1) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    seen = [task.reset()[0]]
    for _ in range(steps):
        seen += task.step(rng.uniform(-1, 1, (task.num_envs, task.action_size)))[:4]
    task.close()
    return seen


def equal(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_is_the_same_run_whatever_the_threads(name: str):
    first = roll(make(name, 5), 60)
    assert equal(first, roll(make(name, 5), 60))
    assert equal(first, roll(make(name, 5, num_threads=3), 60))
    assert equal(first, roll(make(name, 5, num_threads=8), 60))
    assert not np.array_equal(first[0], roll(make(name, 5, seed=1), 0)[0])


@pytest.mark.parametrize("name", NAMES)
def test_an_environment_does_not_depend_on_how_many_there_are(name: str):
    state = make(name, 3)
    state.reset()
    qpos, qvel = state.physics.qpos.values.copy(), state.physics.qvel.values.copy()
    alone, rng = make(name, 1), np.random.default_rng(0)
    alone.set_state(np.array([0]), qpos[1:2], qvel[1:2])
    for _ in range(20):
        actions = rng.uniform(-1, 1, (3, state.action_size))
        observations, _, terminated, *_ = state.step(actions)
        assert np.array_equal(observations[1], alone.step(actions[1:2])[0][0])
        if terminated[1]:
            break


@pytest.mark.parametrize("name", NAMES)
def test_fields_name_every_number(name: str):
    task = make(name, 2)
    observations, infos = task.reset()
    assert infos == {}
    assert observations.dtype == np.float32
    assert task.observation_space.contains(observations)
    assert sum(field.size for field in task.observation_fields) == observations.shape[1]
    assert all(len(set(field.components)) == len(field.components) for field in task.observation_fields)
    assert task.single_action_space.shape == (task.physics.model.nu,)
    assert (task.single_action_space.low == -1).all()


def test_positions_and_velocities_carry_joint_and_unit():
    cheetah, ant = make("HalfCheetah-v5"), make("Ant-v5")
    position, velocity = cheetah.observation_fields
    assert position.components[:3] == ("height_m", "pitch_rad", "rear_thigh_rad")
    assert velocity.components[:3] == ("forward_m_s", "height_m_s", "pitch_rad_s")
    assert ant.observation_fields[0].components[:2] == ("trunk_z_m", "trunk_orientation_w")
    assert ant.observation_fields[2].components[-1] == "lower_4_force_z_n"
    model = ant.physics.model
    assert ant.observation_fields[2].components[::6] == tuple(f"{model.body(index).name}_torque_x_nm" for index in range(1, model.nbody))


@pytest.mark.parametrize("name", NAMES)
def test_the_reward_is_the_sum_of_its_named_terms(name: str):
    task = make(name, 4)
    task.reset()
    rng = np.random.default_rng(0)
    for _ in range(10):
        _, rewards, _, _, infos = task.step(rng.uniform(-1, 1, (4, task.action_size)))
        np.testing.assert_allclose(sum(infos["reward_terms"].values()), rewards)
    assert set(infos["reward_terms"]) <= {"forward", "control", "alive", "contact", "distance", "velocity"}


def test_actions_beyond_one_are_clipped_and_cost_no_more():
    far, near = make("HalfCheetah-v5", 2), make("HalfCheetah-v5", 2)
    far.reset()
    near.reset()
    one, other = far.step(np.full((2, 6), 50.0)), near.step(np.ones((2, 6)))
    assert equal(list(one[:4]), list(other[:4]))
    assert one[4]["reward_terms"]["control"] == pytest.approx(-0.6)


def test_a_set_state_starts_an_episode_and_replaces_the_automatic_reset():
    task = make("Hopper-v5", 3, max_episode_steps=3)
    task.reset()
    for _ in range(3):
        *_, truncated, _ = task.step(np.zeros((3, 3)))
    assert truncated.all()
    model = task.physics.model
    qpos, qvel = np.tile(model.qpos0, (2, 1)), np.zeros((2, model.nv))
    qpos[:, 1] = 1.3
    observations = task.set_state(np.array([0, 2]), qpos, qvel)
    assert observations[[0, 2], 0] == pytest.approx(1.3)
    _, rewards, _, truncated, _ = task.step(np.zeros((3, 3)))
    assert task.episode_steps.tolist() == [1, 0, 1]
    assert (rewards != 0).tolist() == [True, False, True]
    assert not truncated.any()


def test_metrics_of_a_finished_episode():
    task = make("InvertedPendulum-v5", 3)
    task.reset()
    returns, finished = np.zeros(3), {}
    for _ in range(60):
        _, rewards, terminated, _, infos = task.step(np.ones((3, 1)))
        returns += rewards
        if terminated[0]:
            finished = infos["episode_metrics"]
            break
    assert infos["_episode_metrics"][0]
    assert finished["return"][0] == returns[0] == finished["length"][0] - 1
    assert finished["terminated"][0] == 1
    assert finished["reward/alive"][0] == pytest.approx(returns[0] / finished["length"][0])
    assert "fell" not in finished


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e11])
@pytest.mark.parametrize(("name", "frame_skip"), [("HalfCheetah-v5", 5), ("Ant-v5", 1), ("Hopper-v5", 4)])
def test_a_simulation_that_diverges_is_an_error_with_its_last_finite_state(name: str, frame_skip: int, value: float, mujoco_log: Path):
    task = make(name, 4, frame_skip=frame_skip)
    task.reset()
    for _ in range(4):
        task.step(np.zeros((4, task.action_size)))
    before = task.physics.qpos.values[2].copy()
    task.physics.data[2].qvel[1] = value
    with pytest.raises(NonFiniteError, match="the physics state is not finite") as caught:
        task.step(np.full((4, task.action_size), 0.25))
    error = caught.value
    assert (error.env_index, error.step) == (2, 5)
    assert error.last_finite["qpos"] == before.tolist()
    assert error.last_finite["action"] == [0.25] * task.action_size
    assert "Infinity" not in json.dumps(error.last_finite)


@pytest.mark.parametrize("frame_skip", [1, 5])
def test_divergence_in_the_very_first_step_is_seen_too(frame_skip: int, mujoco_log: Path):
    task = make("HalfCheetah-v5", 2, frame_skip=frame_skip)
    task.reset()
    model = task.physics.model
    qvel = np.zeros((2, model.nv))
    qvel[1, 0] = 1e12
    task.set_state(np.arange(2), np.tile(model.qpos0, (2, 1)), qvel)
    with pytest.raises(NonFiniteError, match=r"environment 1, step 1\)"):
        task.step(np.zeros((2, 6)))


def test_an_action_that_is_not_finite_is_refused():
    task = make("HalfCheetah-v5", 3)
    task.reset()
    actions = np.zeros((3, 6))
    actions[1, 2] = np.nan
    with pytest.raises(NonFiniteError, match=r"the action is not finite \(environment 1, step 1\)"):
        task.step(actions)


def test_wrong_settings_are_one_clear_line():
    with pytest.raises(ConfigError, match=r"task Ant-v5: main_body: there is no body 'torso'; known: trunk, leg_1"):
        make("Ant-v5", main_body="torso")
    with pytest.raises(ConfigError, match=r"did you mean 'control_cost_weight'\?"):
        make("HalfCheetah-v5", ctrl_cost_weight=0.2)
