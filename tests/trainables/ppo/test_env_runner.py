"""The env runner: step for step what RLlib's own does, and RLlib's episodes on top of it."""

from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.tune.registry import register_env

from trainables.envs.vector import make_vector_task
from trainables.ppo.algorithm import rllib_config
from trainables.ppo.config import PPOConfig
from trainables.ppo.env_runner import BatchedEnvRunner
from trainables.ppo.fragment import Fragment

PIDOG = {"physics": {"preset": "fast"}, "max_episode_steps": 12}


def stock_runner(settings: PPOConfig, seed: int) -> SingleAgentEnvRunner:
    """RLlib's own, with its default connectors; the same network and the same environments."""
    config = rllib_config(settings)
    register_env("same-environments", lambda context: make_vector_task(settings.task, settings.num_envs, settings.task_config, seed))
    config.environment("same-environments", normalize_actions=False, clip_actions=False)
    config.env_runners(env_runner_cls=SingleAgentEnvRunner, gym_env_vectorize_mode=gymnasium.VectorizeMode.VECTOR_ENTRY_POINT)
    config.debugging(seed=seed)
    gymnasium.registry.pop("rllib-single-agent-env-v0", None)
    runner = SingleAgentEnvRunner(config=config, worker_index=0)
    runner._seed = seed
    return runner


def pieces(fragment: Fragment) -> Iterator[tuple[int, slice]]:
    """Environment and steps of each piece of an episode, by a plain walk."""
    for env in range(fragment.valid.shape[1]):
        start = None
        for step in range(len(fragment.valid)):
            if not fragment.valid[step, env]:
                continue
            start = step if start is None else start
            if fragment.terminated[step, env] or fragment.truncated[step, env]:
                yield env, slice(start, step + 1)
                start = None
        if start is not None:
            yield env, slice(start, len(fragment.valid))


def assert_same(episode: SingleAgentEpisode, fragment: Fragment, env: int, steps: slice, **tolerance: float) -> None:
    """An episode of RLlib against the same steps of a fragment."""
    last = steps.stop - 1
    assert len(episode) == steps.stop - steps.start
    np.testing.assert_allclose(episode.get_observations(), fragment.observations[steps.start : steps.stop + 1, env], **tolerance)
    np.testing.assert_allclose(episode.get_actions(), fragment.actions[steps, env], **tolerance)
    np.testing.assert_allclose(episode.get_rewards(), fragment.rewards[steps, env], **tolerance)
    np.testing.assert_allclose(episode.get_extra_model_outputs("action_logp"), fragment.log_probs[steps, env], atol=1e-5)
    assert (episode.is_terminated, episode.is_truncated) == (fragment.terminated[last, env], fragment.truncated[last, env])


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # of RLlib's own runner
@pytest.mark.parametrize(
    "changes",
    [{"task": "pidog_run", "task_config": PIDOG}, {"task": "gymnasium:Pendulum-v1", "task_config": {}}, {"task": "gymnasium:CartPole-v1"}],
    ids=["a task of the registry", "Gymnasium, Box", "Gymnasium, Discrete"],
)
def test_gives_the_trajectories_of_rllibs_own_runner(small: Callable[..., PPOConfig], changes: dict[str, Any]) -> None:
    settings = small(**changes, num_envs=3, batch_size=3 * 60, initial_action_std=0.3)
    ours = BatchedEnvRunner(config=rllib_config(settings), worker_index=0)
    stock = stock_runner(settings, seed=settings.seed * 10_007)
    stock.module.load_state_dict(ours.module.state_dict(), strict=False)
    # The same noise for both: ours draws a fragment's at once, RLlib's a step's at a time.
    noise = ours.module.distribution.draw_noise((60, 3), torch.Generator().manual_seed(1))
    ours.module.distribution.draw_noise = lambda shape, generator=None: noise
    steps = iter(noise)
    stock.module.distribution.draw_noise = lambda shape, generator=None: next(steps)

    fragment, _ = ours.sample_fragment()
    assert not fragment.valid.all() or "Pendulum" in settings.task
    episodes = stock.sample(num_timesteps=fragment.env_steps)
    by_first = {tuple(episode.get_observations(0).tolist()): episode for episode in episodes}
    expected = list(pieces(fragment))
    assert len(expected) == len(episodes) == len(by_first)
    for env, span in expected:
        assert_same(by_first[tuple(fragment.observations[span.start, env].tolist())], fragment, env, span, rtol=1e-5, atol=1e-5)
    ours.stop()
    stock.stop()


def test_rllibs_episodes_continue_over_fragments(small: Callable[..., PPOConfig]) -> None:
    runner = BatchedEnvRunner(config=rllib_config(small(task="own_tasks:Uneven", num_envs=5, batch_size=5 * 7)), worker_index=0)
    fragments: list[Fragment] = []
    original = runner.sample_fragment
    runner.sample_fragment = lambda *args, **kwargs: fragments.append((result := original(*args, **kwargs))[0]) or result
    whole: dict[str, SingleAgentEpisode] = {}
    total = 0
    for _ in range(4):
        episodes = runner.sample()
        expected = list(pieces(fragments[-1]))
        assert len(episodes) == len(expected)
        for episode, (env, span) in zip(episodes, expected, strict=True):
            assert_same(episode, fragments[-1], env, span)
            total += len(episode)
            if episode.id_ in whole:
                assert episode.t_started == whole[episode.id_].t
                whole[episode.id_].concat_episode(episode)
            else:
                assert episode.t_started == 0
                whole[episode.id_] = episode
    done = [episode for episode in whole.values() if episode.is_done]
    assert sorted({len(episode) for episode in done}) == [3, 4, 5, 6, 7]  # environment i ends after 3 + i steps
    assert {len(episode) for episode in done if episode.is_truncated} == {4, 6}
    assert sum(len(episode) for episode in whole.values()) == total == sum(fragment.env_steps for fragment in fragments)
    assert len([episode for episode in whole.values() if not episode.is_done]) <= 5


def test_whole_episodes_on_request(small: Callable[..., PPOConfig]) -> None:
    runner = BatchedEnvRunner(config=rllib_config(small(task="own_tasks:Uneven", num_envs=5, batch_size=5 * 4)), worker_index=0)
    runner.sample()
    episodes = runner.sample(num_episodes=9, explore=False)
    assert len(episodes) == 9
    for episode in episodes:
        assert episode.is_done
        assert episode.t_started == 0
        assert len(episode.get_observations()) == len(episode) + 1 == len(episode.get_actions()) + 1
    assert runner.sample(num_timesteps=31, explore=False)


def test_metrics_are_those_of_the_episodes(small: Callable[..., PPOConfig]) -> None:
    runner = BatchedEnvRunner(config=rllib_config(small(task="own_tasks:Uneven", num_envs=5, batch_size=5 * 30)), worker_index=0)
    fragment, metrics = runner.sample_fragment()
    figures = {name: value.peek() for name, value in metrics.items() if name != "episode"}
    ended = [
        fragment.rewards[span, env].sum()
        for env, span in pieces(fragment)
        if (fragment.terminated | fragment.truncated)[span.stop - 1, env]
    ]
    assert figures["num_episodes"] == len(ended)
    assert figures["num_env_steps_sampled"] == fragment.env_steps == fragment.valid.sum()
    assert figures["episode_return_mean"] == pytest.approx(np.mean(ended), rel=1e-5)
    assert figures["episode_return_max"] == pytest.approx(max(ended), rel=1e-5)
    assert metrics["episode"]["return"].peek() == pytest.approx(np.mean(ended), rel=1e-5)
