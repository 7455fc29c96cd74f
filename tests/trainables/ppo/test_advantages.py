"""Advantages over [T, N] against a loop over one episode of one environment at a time, written from the definition."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainables.ppo.advantages import generalized_advantages


def reference(rewards, values, terminated, truncated, valid, gamma, gae_lambda):
    """Sum of (gamma lambda)^l delta within each episode's piece; NaN at steps that only reset."""
    steps, num_envs = rewards.shape
    advantages = np.full((steps, num_envs), np.nan)
    for env in range(num_envs):
        pieces, piece = [], []
        for step in range(steps):
            if not valid[step, env]:
                continue
            piece.append(step)
            if terminated[step, env] or truncated[step, env]:
                pieces, piece = [*pieces, piece], []
        for steps_of_piece in [*pieces, piece]:
            deltas = []
            for step in steps_of_piece:
                rest = 0.0 if terminated[step, env] else values[step + 1, env]
                deltas.append(rewards[step, env] + gamma * rest - values[step, env])
            for start, step in enumerate(steps_of_piece):
                advantages[step, env] = sum((gamma * gae_lambda) ** lag * delta for lag, delta in enumerate(deltas[start:]))
    return advantages


@settings(max_examples=60, deadline=None)
@given(
    steps=st.integers(1, 40),
    num_envs=st.integers(1, 5),
    seed=st.integers(0, 2**32 - 1),
    end_probability=st.floats(0, 1),
    gamma=st.floats(0.5, 1.0),
    gae_lambda=st.floats(0.0, 1.0),
)
def test_equals_a_loop_over_episodes(steps, num_envs, seed, end_probability, gamma, gae_lambda) -> None:
    rng = np.random.default_rng(seed)
    rewards, values = rng.normal(size=(steps, num_envs)), rng.normal(size=(steps + 1, num_envs)) * 10
    terminated, truncated, valid = (np.zeros((steps, num_envs), dtype=bool) for _ in range(3))
    resetting = rng.random(num_envs) < end_probability / 2  # an episode may have ended with the last step of the fragment before
    for step in range(steps):
        valid[step] = ~resetting
        ends = valid[step] & (rng.random(num_envs) < end_probability)
        terminated[step] = ends & (rng.random(num_envs) < 0.5)
        truncated[step] = ends & ~terminated[step]
        resetting = ends
    rewards[~valid] = 0.0
    computed = generalized_advantages(  # its discount factors are float32
        *(torch.from_numpy(array) for array in (rewards, values, terminated, terminated | truncated)), gamma, gae_lambda
    ).numpy()
    expected = reference(rewards, values, terminated, truncated, valid, gamma, gae_lambda)
    np.testing.assert_allclose(computed[valid], expected[valid], rtol=1e-5, atol=1e-4)


def test_truncation_bootstraps_and_termination_does_not() -> None:
    rewards, values = torch.ones(2, 2), torch.tensor([[0.0, 0.0], [0.0, 0.0], [10.0, 10.0]])
    terminated, ended = torch.tensor([[False, False], [True, False]]), torch.tensor([[False, False], [True, True]])
    computed = generalized_advantages(rewards, values, terminated, ended, gamma=0.9, gae_lambda=1.0)
    torch.testing.assert_close(computed, torch.tensor([[1 + 0.9, 1 + 0.9 * (1 + 0.9 * 10)], [1.0, 1 + 0.9 * 10]]))
