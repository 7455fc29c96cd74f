"""Generalised advantage estimation (Schulman et al. 2016), all environments at once."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["generalized_advantages"]


def generalized_advantages(rewards: Tensor, values: Tensor, terminated: Tensor, ended: Tensor, gamma: float, gae_lambda: float) -> Tensor:
    """Advantages of a batch of steps.

    ``values[t + 1]`` is of the observation after step ``t``, also where an episode ended there: it stands in for the rest of the
    return unless the end was a termination (a cut-off episode bootstraps). Nothing flows back over an episode's end.

    Args:
        rewards: shape (T, N).
        values: shape (T + 1, N).
        terminated: the episode ended for good. Shape (T, N), bool.
        ended: the episode ended in either way. Shape (T, N), bool.
        gamma: discount per step.
        gae_lambda: weight of longer returns.

    Returns:
        Shape (T, N). What stands at a step that only reset its environment means nothing.
    """
    deltas = rewards + gamma * values[1:] * ~terminated - values[:-1]
    carry = gamma * gae_lambda * ~ended
    advantages = torch.empty_like(deltas)
    running = torch.zeros_like(deltas[0])
    for step in range(len(deltas) - 1, -1, -1):
        running = torch.addcmul(deltas[step], carry[step], running, out=advantages[step])
    return advantages
