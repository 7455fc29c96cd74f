import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.rllib.utils.postprocessing.value_predictions import compute_value_targets

from trainables.ppo.advantages import generalized_advantages


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=8),
    seed=st.integers(0, 2**32 - 1),
    gamma=st.floats(0.5, 1.0),
    gae_lambda=st.floats(0.0, 1.0),
)
def test_equals_rllibs_own_estimator(lengths: list[int], seed: int, gamma: float, gae_lambda: float) -> None:
    rng = np.random.default_rng(seed)
    rewards = [rng.normal(size=length) for length in lengths]
    values = [rng.normal(size=length + 1) for length in lengths]
    terminated = rng.random(len(lengths)) < 0.5
    expected = []
    for fragment_rewards, fragment_values, ends in zip(rewards, values, terminated, strict=True):
        # RLlib wants a phantom step with reward 0 behind each fragment, and the flags at the last real one.
        steps = len(fragment_rewards)
        last = np.zeros(steps + 1)
        last[steps - 1] = 1.0
        targets = compute_value_targets(
            fragment_values, np.append(fragment_rewards, 0.0), last * ends, last * (not ends), gamma, gae_lambda
        )
        expected.append((targets - fragment_values)[:steps])
    computed = generalized_advantages(np.concatenate(rewards), np.concatenate(values), terminated, np.array(lengths), gamma, gae_lambda)
    np.testing.assert_allclose(computed, np.concatenate(expected), atol=2e-4)


def test_truncation_bootstraps_and_termination_does_not() -> None:
    rewards, values = np.array([1.0, 1.0]), np.array([0.0, 0.0, 10.0])
    truncated = generalized_advantages(rewards, values, np.array([False]), np.array([2]), gamma=0.9, gae_lambda=1.0)
    terminated = generalized_advantages(rewards, values, np.array([True]), np.array([2]), gamma=0.9, gae_lambda=1.0)
    np.testing.assert_allclose(truncated, [1 + 0.9 * (1 + 0.9 * 10), 1 + 0.9 * 10], rtol=1e-6)
    np.testing.assert_allclose(terminated, [1 + 0.9, 1.0], rtol=1e-6)
