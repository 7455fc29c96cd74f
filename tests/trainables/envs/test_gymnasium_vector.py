"""Gymnasium's environments and a user's own behind the interface of our tasks."""

from __future__ import annotations

import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from cluster.errors import UsageError
from trainables.envs.gymnasium_vector import GymnasiumTask, make_gymnasium_task
from trainables.envs.vector import make_vector_task


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch):
    """Name of the module with a user's environments."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    yield "own_environments"
    sys.modules.pop("own_environments", None)


def recorded(task: GymnasiumTask, reference: SyncVectorEnv, steps: int) -> tuple[list, list]:
    """Return and length of each finished episode: ours, and Gymnasium's own record of the same run."""
    np.testing.assert_allclose(task.reset(seed=5)[0], reference.reset(seed=5)[0], rtol=1e-6)
    reference.action_space.seed(0)
    ours, theirs = [], []
    for _ in range(steps):
        actions = reference.action_space.sample()
        observations, *_, infos = task.step(actions)
        expected_observations, *_, expected = reference.step(actions)
        np.testing.assert_allclose(observations, expected_observations, rtol=1e-5, atol=1e-6)
        assert observations.dtype == np.float32
        if "episode_metrics" in infos:
            ended = infos["_episode_metrics"]
            ours += list(zip(infos["episode_metrics"]["return"][ended], infos["episode_metrics"]["length"][ended], strict=True))
        if "episode" in expected:
            ended = expected["_episode"]
            theirs += list(zip(expected["episode"]["r"][ended], expected["episode"]["l"][ended], strict=True))
    return ours, theirs


@pytest.mark.parametrize(("name", "steps", "episodes"), [("MountainCarContinuous-v0", 1_010, 3), ("CartPole-v1", 150, 12)])
def test_episode_metrics_equal_gymnasiums_own_record(name: str, steps: int, episodes: int):
    task = make_gymnasium_task(name, 3, {})
    assert task.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    reference = SyncVectorEnv([lambda: gymnasium.wrappers.RecordEpisodeStatistics(gymnasium.make(name))] * 3)
    ours, theirs = recorded(task, reference, steps)
    assert len(ours) == len(theirs) >= episodes
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_choices_stay_choices():
    task = make_gymnasium_task("CartPole-v1", 4, {})
    assert task.single_action_space == gymnasium.spaces.Discrete(2)
    assert task.single_observation_space.shape == (4,)
    task.reset(seed=0)
    observations, *_ = task.step(np.array([0, 1, 1, 0]))
    assert np.array_equal(np.sign(observations[:, 1]), [-1, 1, 1, -1])  # the cart's velocity after a push


def test_actions_are_scaled_to_the_environments_own_range():
    scaled = make_gymnasium_task("Pendulum-v1", 1, {})
    plain = gymnasium.make("Pendulum-v1")
    scaled.reset(seed=1)
    plain.reset(seed=1)
    for action in (1.0, -0.25, 7.0):  # beyond 1 it is clipped
        observation = scaled.step(np.array([[action]], dtype=np.float32))[0][0]
        expected = plain.step(np.array([2.0 * min(action, 1.0)], dtype=np.float32))[0]
        np.testing.assert_allclose(observation, expected, rtol=1e-5)


def test_a_discrete_observation_becomes_one_hot():
    task = make_gymnasium_task("FrozenLake-v1", 2, {"is_slippery": False})
    observations, _ = task.reset(seed=0)
    assert observations.tolist() == [[1.0] + [0.0] * 15] * 2
    observations, *_ = task.step(np.array([2, 1]))  # right, down on a map of 4 x 4
    assert observations.argmax(axis=1).tolist() == [1, 4]


def test_the_seed_it_is_made_with_holds_until_a_reset_gives_another():
    first, again, other = (make_vector_task("gymnasium:Pendulum-v1", 2, {}, seed) for seed in (3, 3, 4))
    observations = first.reset()[0]
    assert np.array_equal(observations, again.reset()[0])
    assert not np.array_equal(observations, other.reset()[0])
    assert np.array_equal(observations, other.reset(seed=3)[0])


def test_an_environment_of_ones_own_with_an_observation_of_many_parts(own: str):
    task = make_vector_task(f"{own}:Parts", 2, {"goal": 4}, 0)
    assert task.single_action_space == gymnasium.spaces.Discrete(3)
    observations, _ = task.reset()
    assert observations.shape == (2, 3 + 4 + 2 + 1)
    assert task.observation_space.contains(observations)
    lengths = []
    for _ in range(8):
        observations, *_, infos = task.step(np.array([2, 1]))  # 7 and 6 in the environment's own counting
        if "episode_metrics" in infos:
            lengths += infos["episode_metrics"]["length"][infos["_episode_metrics"]].tolist()
    assert lengths == [2, 4, 2, 2]


def test_actions_of_any_shape_are_flat_for_the_policy(own: str):
    task = make_vector_task(f"{own}:Matrix", 3, {}, 0)
    assert task.single_action_space == gymnasium.spaces.Box(-1.0, 1.0, (4,), np.float32)
    task.reset()
    observations, *_ = task.step(np.array([[-1.0, -1.0, -1.0, -1.0], [0.0, 0.5, 0.5, 1.0], [9.0, 9.0, 9.0, 9.0]]))
    np.testing.assert_allclose(observations, [[0, -4, 0, -1], [1, 2, 7.5, 1], [2, 4, 10, 1]])


def test_a_vector_environment_of_ones_own_keeps_its_figures(own: str):
    task = make_vector_task(f"{own}:Counters", 2, {"limit": 3}, 0)
    task.reset()
    for step in range(1, 5):
        observations, *_, infos = task.step(np.array([1, 0]))
        assert ("episode_metrics" in infos) == (step == 3)
        if step == 3:
            metrics = infos["episode_metrics"]
            assert [metrics[name][0] for name in ("return", "length", "terminated", "count")] == [3, 3, 1, 3]
            assert infos["_episode_metrics"].tolist() == [True, False]
    assert observations.tolist() == [[0.0], [0.0]]


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("gymnasium:NoSuchEnv-v3", {}, "task gymnasium:NoSuchEnv-v3: .*NoSuchEnv"),
        ("gymnasium:Pendulum-v1", {"gravity": 3}, "task gymnasium:Pendulum-v1: .*gravity"),
        ("OWN:Matrix", {"bound": float("inf")}, "give its Box finite bounds"),
        ("OWN:Words", {}, "have no fixed length"),
        ("OWN:SameStep", {}, "must be AutoresetMode.NEXT_STEP, given AutoresetMode.SAME_STEP"),
        ("OWN:Nothing", {}, "Nothing is neither a gymnasium.Env nor a gymnasium.vector.VectorEnv"),
        ("OWN:Part", {}, "own_environments has no class 'Part'; did you mean 'Parts'?"),
        ("OWN:Parts", {"gaol": 3}, "task own_environments:Parts: .*unexpected keyword argument 'gaol'"),
        ("no_such_module:Task", {}, "no_such_module cannot be imported: No module named 'no_such_module'; write package.module:Class"),
    ],
)
def test_what_cannot_be_run_is_one_clear_line(name: str, config: dict, message: str, own: str):
    with pytest.raises(UsageError, match=message) as caught:
        make_vector_task(name.replace("OWN", own), 1, config, 0)
    assert "\n" not in str(caught.value)
