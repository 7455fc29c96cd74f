"""Generalised advantage estimation (Schulman et al. 2016) over many episode fragments at once."""

from __future__ import annotations

import numpy as np

__all__ = ["generalized_advantages"]


def generalized_advantages(
    rewards: np.ndarray, values: np.ndarray, terminated: np.ndarray, lengths: np.ndarray, gamma: float, gae_lambda: float
) -> np.ndarray:
    """Advantages of fragments that lie one after another in flat arrays.

    A fragment of length L has L rewards and L + 1 values: the last one is of the observation after its last step, and stands
    in for the rest of the return unless the fragment ends in a terminal state (so truncation bootstraps, termination does not).

    Args:
        rewards: of every step. Shape (sum(lengths),).
        values: of every observation. Shape (sum(lengths + 1),).
        terminated: whether each fragment ends in a terminal state. Shape (fragments,), bool.
        lengths: steps in each fragment. Shape (fragments,), int.
        gamma: discount per step.
        gae_lambda: weight of longer returns.

    Returns:
        Advantages, shape (sum(lengths),), float32.
    """
    longest = int(lengths.max(initial=0))
    # Right-aligned rows: every fragment ends in the last column, so one backward loop over time serves all of them.
    step_mask = np.arange(longest) >= longest - lengths[:, None]
    value_mask = np.arange(longest + 1) >= longest - lengths[:, None]
    padded_rewards = np.zeros((len(lengths), longest))
    padded_rewards[step_mask] = rewards
    padded_values = np.zeros((len(lengths), longest + 1))
    padded_values[value_mask] = values
    padded_values[:, -1] *= ~terminated
    deltas = padded_rewards + gamma * padded_values[:, 1:] - padded_values[:, :-1]
    advantages = np.empty_like(deltas)
    running = np.zeros(len(lengths))
    for column in range(longest - 1, -1, -1):
        running = deltas[:, column] + gamma * gae_lambda * running
        advantages[:, column] = running
    return advantages[step_mask].astype(np.float32)
