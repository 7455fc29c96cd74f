"""Step for step what Gymnasium's environments of the same names do, from the same states under the same actions.

Both run the same MuJoCo, so positions and velocities agree to the last bit; observations and rewards to rounding.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from scipy.stats import ks_2samp

from trainables.envs.mujoco_task import MujocoTask
from trainables.envs.registry import make_task

NAMES = (
    "HalfCheetah-v5",
    "Hopper-v5",
    "Walker2d-v5",
    "Ant-v5",
    "InvertedPendulum-v5",
    "InvertedDoublePendulum-v5",
    "Reacher-v5",
)
ONWARD: dict[str, Any] = {"terminate_when_unhealthy": False}
UNHEALTHY = {**ONWARD, "exclude_current_positions_from_observation": False, "frame_skip": 2}


def make(name: str, num_envs: int, **config: Any) -> MujocoTask:
    task = make_task(name, num_envs, config, seed=4)
    assert isinstance(task, MujocoTask)
    return task


class Reference:
    """Gymnasium's environment, started from the state of one of ours."""

    def __init__(self, task: MujocoTask, index: int, options: dict[str, Any]) -> None:
        self.env = gymnasium.make(task.name, **options)
        self.task, self.index = task, index
        self.action_scale = np.asarray(self.env.action_space.high, dtype=np.float64)

    def start(self) -> np.ndarray:
        self.env.reset(seed=self.index)
        unwrapped: Any = self.env.unwrapped
        physics = self.task.physics
        unwrapped.set_state(physics.qpos.values[self.index].copy(), physics.qvel.values[self.index].copy())
        return unwrapped._get_obs()

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool]:
        observation, reward, terminated, truncated, _ = self.env.step(action * self.action_scale)
        return observation, float(reward), bool(terminated), bool(truncated)

    def assert_same_state(self) -> None:
        unwrapped: Any = self.env.unwrapped
        assert np.array_equal(self.task.physics.qpos.values[self.index], unwrapped.data.qpos)
        assert np.array_equal(self.task.physics.qvel.values[self.index], unwrapped.data.qvel)


def assert_close(ours: Any, theirs: Any) -> None:
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)


def assert_parity(
    name: str, steps: int, config: dict[str, Any] | None = None, options: dict[str, Any] | None = None, largest_action: float = 1.0
) -> int:
    """Drive three environments of each for ``steps`` steps; returns how many episodes ended."""
    task = make(name, 3, **(config or {}))
    references = [Reference(task, index, options or {}) for index in range(3)]
    observations, _ = task.reset()
    for reference in references:
        assert_close(observations[reference.index], reference.start())
    rng, ended, episodes = np.random.default_rng(1), np.zeros(3, dtype=bool), 0
    for _ in range(steps):
        actions = np.clip(rng.uniform(-largest_action, largest_action, (3, task.action_size)), -1.0, 1.0)
        observations, rewards, terminated, truncated, _ = task.step(actions)
        for index, reference in enumerate(references):
            if ended[index]:
                assert_close(observations[index], reference.start())
                assert (rewards[index], terminated[index], truncated[index]) == (0.0, False, False)
                continue
            expected, reward, failed, cut_off = reference.step(actions[index])
            reference.assert_same_state()
            assert_close(observations[index], expected)
            assert_close(rewards[index], reward)
            assert terminated[index] == failed
            assert truncated[index] == (cut_off and not failed)  # ours gives one reason
        ended = terminated | truncated
        episodes += int(ended.sum())
    for reference in references:
        reference.env.close()
    task.close()
    return episodes


@pytest.mark.parametrize(
    ("name", "steps", "at_least"),
    [
        ("HalfCheetah-v5", 1_003, 3),
        ("Hopper-v5", 400, 20),
        ("Walker2d-v5", 400, 20),
        ("Ant-v5", 1_003, 6),
        ("InvertedPendulum-v5", 200, 20),
        ("InvertedDoublePendulum-v5", 200, 20),
        ("Reacher-v5", 160, 9),
    ],
)
def test_default_episodes_are_gymnasiums(name: str, steps: int, at_least: int, mujoco_log: Path):
    assert assert_parity(name, steps) >= at_least


@pytest.mark.parametrize("name", ["Hopper-v5", "Walker2d-v5"])
def test_whole_episodes_of_those_that_fall_early(name: str):
    assert assert_parity(name, 1_003, ONWARD, ONWARD) == 3


@pytest.mark.parametrize("name", ["HalfCheetah-v5", "Ant-v5"])
def test_saturated_actions(name: str, mujoco_log: Path):
    assert_parity(name, 300, largest_action=20.0)


@pytest.mark.parametrize(
    ("name", "config", "options"),
    [
        (
            "HalfCheetah-v5",
            {
                "frame_skip": 1,
                "forward_reward_weight": 2.0,
                "control_cost_weight": 0.3,
                "exclude_current_positions_from_observation": False,
            },
            {"frame_skip": 1, "forward_reward_weight": 2.0, "ctrl_cost_weight": 0.3, "exclude_current_positions_from_observation": False},
        ),
        (
            "Hopper-v5",
            {**UNHEALTHY, "healthy_state_range": (-1.0, 1.0), "healthy_z_range": (1.2, 1.26), "healthy_reward": 3.0},
            {**UNHEALTHY, "healthy_state_range": (-1.0, 1.0), "healthy_z_range": (1.2, 1.26), "healthy_reward": 3.0},
        ),
        (
            "Walker2d-v5",
            {**UNHEALTHY, "healthy_angle_range": (None, 0.01), "control_cost_weight": 0.5},
            {**UNHEALTHY, "healthy_angle_range": (-np.inf, 0.01), "ctrl_cost_weight": 0.5},
        ),
        (
            "Ant-v5",
            {**UNHEALTHY, "main_body": "upper_1", "healthy_z_range": (0.5, 0.6), "contact_force_range": (-0.1, 5.0)},
            {**UNHEALTHY, "main_body": "aux_1", "healthy_z_range": (0.5, 0.6), "contact_force_range": (-0.1, 5.0)},
        ),
        (
            "Ant-v5",
            {"include_contact_forces_in_observation": False, "contact_cost_weight": 0.0, "control_cost_weight": 0.1},
            {"include_cfrc_ext_in_observation": False, "contact_cost_weight": 0.0, "ctrl_cost_weight": 0.1},
        ),
        ("InvertedDoublePendulum-v5", {"healthy_reward": 2.0, "frame_skip": 1}, {"healthy_reward": 2.0, "frame_skip": 1}),
        (
            "Reacher-v5",
            {"reward_distance_weight": 3.0, "reward_control_weight": 0.2},
            {"reward_dist_weight": 3.0, "reward_control_weight": 0.2},
        ),
    ],
)
def test_each_setting_means_what_gymnasiums_does(name: str, config: dict[str, Any], options: dict[str, Any], mujoco_log: Path):
    assert_parity(name, 120, config, options)


@pytest.mark.parametrize(("name", "largest_steps"), [("InvertedPendulum-v5", 12), ("Hopper-v5", 25), ("InvertedDoublePendulum-v5", 6)])
def test_automatic_resets_are_those_of_a_vector_environment(name: str, largest_steps: int):
    # Without initial noise both start every episode in the same state, so whole runs can be compared across resets.
    task = make(name, 4, reset_noise_scale=0.0, max_episode_steps=largest_steps)
    reference = SyncVectorEnv(
        [lambda: gymnasium.make(name, reset_noise_scale=0.0, max_episode_steps=largest_steps)] * 4, autoreset_mode=AutoresetMode.NEXT_STEP
    )
    assert_close(task.reset()[0], reference.reset(seed=0)[0])
    high, rng, reasons = reference.single_action_space.high, np.random.default_rng(0), np.zeros(2)
    for _ in range(200):
        actions = rng.uniform(-1, 1, (4, task.action_size))
        observations, rewards, terminated, truncated, _ = task.step(actions)
        expected, expected_rewards, failed, cut_off, _ = reference.step(actions * high)
        assert_close(observations, expected)
        assert_close(rewards, expected_rewards)
        assert np.array_equal(terminated, failed)
        assert np.array_equal(truncated, cut_off & ~failed)
        reasons += terminated.sum(), truncated.sum()
    assert (reasons > 0).all()
    reference.close()


@pytest.mark.parametrize("name", NAMES)
def test_episodes_start_as_often_in_each_state_as_gymnasiums(name: str, mujoco_log: Path):
    task, rng = make(name, 1), np.random.default_rng(2)
    env = gymnasium.make(name).unwrapped
    ours, theirs = [], []
    for index in range(600):
        ours.append(np.concatenate(task._draw_state(rng)))
        env.reset(seed=index)
        theirs.append(np.concatenate([env.data.qpos, env.data.qvel]))
    for one, other in zip(np.array(ours).T, np.array(theirs).T, strict=True):
        if np.ptp(other) == 0.0:
            assert np.array_equal(one, other)
        else:
            assert ks_2samp(one, other).pvalue > 1e-3
