"""A new task of any kind is one file: here one with a choice of three moves and no physics engine."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest

from cluster.contract import TensorField
from cluster.errors import UsageError
from trainables.envs.base import BatchedTask, TaskConfig
from trainables.envs.registry import make_robot_task, robot_tasks


class Line(BatchedTask):
    """Walk along a line: 0 left, 1 stay, 2 right; being past 3 on either side ends the episode."""

    def __init__(self, num_envs: int, config: TaskConfig | None = None, seed: int | None = 0, reward_terms_in_info: bool = True) -> None:
        super().__init__(
            name="line",
            config=config or TaskConfig(max_episode_steps=6),
            num_envs=num_envs,
            control_dt_s=0.1,
            observation_fields=(TensorField(name="position", shape=(1,)), TensorField(name="speed", shape=(1,))),
            action_fields=(TensorField(name="move", shape=(1,)),),
            reward_weights={"right": 2.0, "middle": 0.5},
            seed=seed,
            reward_terms_in_info=reward_terms_in_info,
            single_action_space=gymnasium.spaces.Discrete(3),
        )
        self.position, self.move = np.zeros(num_envs), np.zeros(num_envs)

    def _place(self, envs: np.ndarray) -> None:
        self.position[envs] = [self.rngs[env].uniform(-0.5, 0.5) for env in envs]

    def _advance(self, actions: np.ndarray, active: np.ndarray) -> None:
        assert actions.dtype == np.int64
        self.move = (actions - 1.0) * active
        self.position = self.position + self.move

    def _observe(self) -> np.ndarray:
        return np.stack([self.position, self.move], axis=1).astype(np.float32)

    def _reward_terms(self) -> dict[str, np.ndarray]:
        return {"right": self.move, "middle": -np.abs(self.position)}

    def _terminated(self) -> np.ndarray:
        return np.abs(self.position) > 3

    def _episode_metrics(self) -> dict[str, np.ndarray]:
        return {"last_position": self.position.copy()}


def test_weights_are_taken_as_they_are_and_choices_as_numbers():
    task = Line(3)
    assert task.single_action_space == gymnasium.spaces.Discrete(3)
    assert task.action_space.shape == (3,)
    observations, _ = task.reset()
    start = observations[:, 0].copy()
    observations, rewards, _, _, infos = task.step(np.array([0, 1, 2]))
    assert observations[:, 0] == pytest.approx(start + np.array([-1, 0, 1]))
    assert rewards == pytest.approx(2.0 * np.array([-1, 0, 1]) - 0.5 * np.abs(observations[:, 0]))
    assert infos["reward_terms"]["right"].tolist() == [-2.0, 0.0, 2.0]


def test_each_episode_ends_for_one_reason_and_the_next_step_starts_another():
    task = Line(2)
    task.reset()
    lengths: list[list[float]] = [[], []]
    for _ in range(30):
        started = task._starting.copy()
        observations, rewards, terminated, truncated, infos = task.step(np.array([1, 2]))
        assert (np.abs(observations[started, 0]) <= 0.5).all()
        assert (rewards[started] == 0).all()
        assert not (terminated & truncated).any()
        for env in np.flatnonzero(terminated | truncated):
            metrics = infos["episode_metrics"]
            lengths[env].append(metrics["length"][env])
            assert infos["_episode_metrics"][env]
            assert metrics["terminated"][env] == (env == 1)
            assert metrics["last_position"][env] == pytest.approx(observations[env, 0])
            assert metrics["reward/right"][env] == env
    assert set(lengths[0]) == {6}
    assert set(lengths[1]) <= {3, 4}
    assert len(lengths[0]) == 4


def test_the_same_seed_repeats_and_environments_differ():
    first, again = Line(4, seed=3).reset()[0], Line(4, seed=3).reset()[0]
    assert np.array_equal(first, again)
    assert len(np.unique(first[:, 0])) == 4
    assert np.array_equal(Line(4, seed=0).reset(seed=3)[0], first)


def test_a_task_without_a_robot_is_refused_where_one_is_needed():
    assert robot_tasks() == ["pidog_run"]
    with pytest.raises(UsageError, match="task HalfCheetah-v5 has no robot, which is needed here; tasks with one: pidog_run"):
        make_robot_task("HalfCheetah-v5", 2)
