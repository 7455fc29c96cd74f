"""Learners and env runners in processes of their own: the same update, overlap, and a runner that is killed."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from ray.rllib.core import COMPONENT_LEARNER, COMPONENT_RL_MODULE, DEFAULT_MODULE_ID

from trainables.ppo.algorithm import GaitwayPPO, build_algorithm
from trainables.ppo.config import PPOConfig

pytestmark = pytest.mark.usefixtures("ray_session")
Small = Callable[..., PPOConfig]


def whole_state(algorithm: GaitwayPPO) -> dict[str, np.ndarray]:
    return {name: np.asarray(value) for name, value in algorithm._module_state().items()}


def set_whole_state(algorithm: GaitwayPPO, state: dict[str, np.ndarray]) -> None:
    algorithm.learner_group.set_state({COMPONENT_LEARNER: {COMPONENT_RL_MODULE: {DEFAULT_MODULE_ID: state}}})
    algorithm._weights = algorithm._sampling_weights()


def on_learners(algorithm: GaitwayPPO, function: Callable[[Any], Any]) -> list[Any]:
    return [answer.get() for answer in algorithm.learner_group.foreach_learner(function)]


@pytest.mark.parametrize("network", ["mlp", "lstm"])
def test_two_learners_make_the_update_of_one(small: Small, network: str) -> None:
    """The whole batch in one minibatch, so that the order of the rows has no say; five environments, so that the shares are uneven."""
    settings = small(
        network=network, sequence_length=5, lstm_size=8, num_envs=5, batch_size=200, minibatch_size=200, num_epochs=3, learning_rate=1e-3,
        return_scaling="popart" if network == "mlp" else "rewards", entropy_coefficient=0.01,
    )  # fmt: skip
    one, two = build_algorithm(settings), build_algorithm(settings.model_copy(update={"num_learners": 2}))
    try:
        set_whole_state(two, whole_state(one))
        steps = 0
        for _ in range(2):
            fragment, _ = one._source.collect(one._weights)
            steps += fragment.env_steps
            answers = one._learn(fragment, steps), two._learn(fragment, steps)
            weights = [next(weights for _, weights in answer if weights is not None) for answer in answers]
            one._weights = two._weights = weights[0]
            assert weights[0].keys() == weights[1].keys()
        expected = whole_state(one)
        for state in on_learners(two, lambda learner: {name: value.numpy() for name, value in learner.actor_critic.state_dict().items()}):
            for name, value in expected.items():
                np.testing.assert_allclose(state[name], value, atol=2e-5, rtol=1e-4, err_msg=name)
        figures = [{name: value.peek() for name, value in answer[0][0][DEFAULT_MODULE_ID].items()} for answer in answers]
        for name in ("policy_loss", "value_loss", "kl", "gradient_norm", "entropy"):
            assert figures[1][name] == pytest.approx(figures[0][name], rel=1e-3, abs=1e-5), name
    finally:
        one.stop()
        two.stop()


@pytest.mark.slow
def test_two_learners_train_with_minibatches(small: Small) -> None:
    algorithm = build_algorithm(small(num_learners=2, num_envs=6, batch_size=192, minibatch_size=48))
    try:
        for _ in range(2):
            result = algorithm.train()
        assert np.isfinite(result["learners"]["default_policy"]["kl"])
        weights = on_learners(algorithm, lambda learner: learner.actor_critic.critic[0].weight.detach().numpy())
        np.testing.assert_array_equal(weights[0], weights[1])
    finally:
        algorithm.stop()


def test_overlap_learns_from_the_batch_before_and_says_how_stale_it_is(small: Small) -> None:
    settings = small(num_env_runners=1, overlap=True, minibatch_size=256, num_epochs=1, learning_rate=2e-2, total_env_steps=10_000)
    algorithm = build_algorithm(settings)
    try:
        figures = []
        for iteration in range(4):
            assert algorithm._source.asked == (iteration > 0)
            result = algorithm.train()
            figures.append(result["learners"]["default_policy"])
            runners = result["env_runners"]
            assert runners["num_env_steps_sampled"] <= 256
            assert runners["num_env_steps_sampled_lifetime"] == pytest.approx(256 * (iteration + 1), abs=8)
        assert figures[0]["kl"] == pytest.approx(0, abs=1e-6)  # the first two batches are of the first weights
        assert all(later["kl"] > 1e-5 for later in figures[1:])  # those of before the last update
        assert algorithm._source.asked
    finally:
        algorithm.stop()


@pytest.fixture(scope="module")
def two_runners(ray_session: None) -> Iterator[GaitwayPPO]:
    """Half a second of sampling an iteration: long enough to be killed in the middle of it."""
    settings = PPOConfig(
        task="gymnasium:Pendulum-v1",
        num_env_runners=2,
        num_envs=4,
        batch_size=4096,
        minibatch_size=512,
        num_epochs=1,
        total_env_steps=10**6,
    )
    algorithm = build_algorithm(settings)
    yield algorithm
    algorithm.stop()


def test_remote_runners_sample_different_episodes_with_the_learners_weights(two_runners: GaitwayPPO) -> None:
    result = two_runners.train()
    assert result["env_runners"]["num_env_steps_sampled"] == pytest.approx(4096, abs=40)  # less the steps that only reset
    fragment, metrics = two_runners._source.collect(two_runners._weights)
    assert fragment.valid.shape == (512, 8)
    assert len(metrics) == 2
    assert len({tuple(first) for first in fragment.observations[0].round(4).tolist()}) == 8
    for state in two_runners.env_runner_group.foreach_env_runner(lambda runner: runner.module.get_state(), local_env_runner=False):
        for name, value in two_runners._weights.items():
            np.testing.assert_array_equal(state[name], value, err_msg=name)
    learner = two_runners.learner_group._learner
    assert float(learner.actor_critic.actor.normalizer.count) == result["env_runners"]["num_env_steps_sampled"]


def test_a_killed_runner_costs_its_own_fragment_only(two_runners: GaitwayPPO) -> None:
    def process_ids() -> list[int]:
        return two_runners.env_runner_group.foreach_env_runner(lambda runner: os.getpid(), local_env_runner=False)

    def noise_seeds() -> list[int]:
        return two_runners.env_runner_group.foreach_env_runner(lambda runner: runner._generator.initial_seed(), local_env_runner=False)

    pids, seeds = process_ids(), noise_seeds()
    assert len({*pids, os.getpid()}) == 3
    two_runners._source.ask(two_runners._weights)
    os.kill(pids[0], signal.SIGKILL)  # both are in the middle of a fragment
    result = two_runners.train()
    assert result["env_runners"]["num_env_steps_sampled"] == pytest.approx(2048, abs=20)  # the other's half
    assert np.isfinite(result["learners"]["default_policy"]["kl"])
    deadline_s = time.monotonic() + 90
    steps = 0
    while steps < 4000 and time.monotonic() < deadline_s:
        steps = two_runners.train()["env_runners"]["num_env_steps_sampled"]
        time.sleep(0.5)
    assert steps == pytest.approx(4096, abs=40)  # RLlib brought it back
    again = process_ids()
    assert len(again) == 2
    assert set(again) & set(pids) == {pids[1]}
    assert len({*seeds, *noise_seeds()}) == 3  # the new one repeats nobody's noise and episodes
