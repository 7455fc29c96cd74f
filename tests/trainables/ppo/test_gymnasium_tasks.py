import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from cluster.errors import UsageError
from trainables.ppo.tasks import EpisodeMetricsCollector, GymnasiumTask, find_collector, make_vector_task


def test_episode_metrics_equal_gymnasiums_own_record() -> None:
    task = GymnasiumTask("MountainCarContinuous-v0", 3, {})
    assert task.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP

    def recorded() -> gymnasium.Env:
        return gymnasium.wrappers.RecordEpisodeStatistics(gymnasium.make("MountainCarContinuous-v0"))

    reference = SyncVectorEnv([recorded] * 3, autoreset_mode=AutoresetMode.NEXT_STEP)
    task.reset(seed=5)
    reference.reset(seed=5)
    rng, ours, theirs = np.random.default_rng(0), [], []
    for _ in range(2100):  # an episode is cut off after 999 steps
        actions = rng.uniform(-1, 1, (3, 1)).astype(np.float32)
        infos = task.step(actions)[-1]
        expected = reference.step(actions)[-1]
        if "episode_metrics" in infos:
            ended = infos["_episode_metrics"]
            ours += list(zip(infos["episode_metrics"]["return"][ended], infos["episode_metrics"]["length"][ended], strict=True))
        if "episode" in expected:
            ended = expected["_episode"]
            theirs += list(zip(expected["episode"]["r"][ended], expected["episode"]["l"][ended], strict=True))
    assert len(ours) == len(theirs) == 6
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_actions_are_scaled_to_the_environments_own_range() -> None:
    scaled = GymnasiumTask("Pendulum-v1", 1, {})
    plain = gymnasium.make("Pendulum-v1")
    scaled.reset(seed=1)
    plain.reset(seed=1)
    for action in (1.0, -0.25, 7.0):  # beyond 1 it is clipped
        observation = scaled.step(np.array([[action]], dtype=np.float32))[0][0]
        expected = plain.step(np.array([2.0 * min(action, 1.0)], dtype=np.float32))[0]
        np.testing.assert_allclose(observation, expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["CartPole-v1", "NoSuchEnv-v3"])
def test_what_ppo_cannot_run_is_one_clear_line(name: str) -> None:
    with pytest.raises(UsageError, match=name):
        make_vector_task(f"gymnasium:{name}", 1, {}, 0)


def test_the_collector_keeps_metrics_and_hands_no_infos_on() -> None:
    collector = EpisodeMetricsCollector(GymnasiumTask("Pendulum-v1", 2, {}))
    assert find_collector(gymnasium.wrappers.vector.DictInfoToList(collector)) is collector
    collector.reset(seed=0)
    for _ in range(200):
        assert collector.step(np.zeros((2, 1), dtype=np.float32))[-1] == {}
    assert collector.drain()["length"].tolist() == [200, 200]
    assert collector.drain() == {}
