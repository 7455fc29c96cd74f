"""PPO's loss (Schulman et al. 2017) as a sum over rows: divided by the rows of the whole minibatch, however it was cut up."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["LossTerms", "ppo_gradients", "ppo_loss"]


@dataclass(frozen=True)
class LossTerms:
    """Sums over the rows given. All of shape ()."""

    policy: Tensor
    value: Tensor
    kl: Tensor
    """Schulman's low-variance estimate of KL(old || new), ``ratio - 1 - log ratio``; http://joschu.net/blog/kl-approx.html"""
    clipped: Tensor
    """Rows whose ratio is outside the clip."""


def ppo_loss(
    log_prob: Tensor,
    old_log_prob: Tensor,
    advantages: Tensor,
    value: Tensor,
    old_value: Tensor,
    target: Tensor,
    clip: float,
    value_clip: float | None,
    with_figures: bool = True,
) -> LossTerms:
    """Clipped surrogate and squared value error of some rows, each of shape (rows,). Values are in the critic's units.

    ``with_figures`` False leaves ``kl`` and ``clipped`` at 0: they cost as much as the loss and are only looked at.
    """
    log_ratio = log_prob - old_log_prob
    ratio = torch.exp(log_ratio)
    policy = -torch.minimum(advantages * ratio, advantages * torch.clamp(ratio, 1 - clip, 1 + clip)).sum()
    squared_error = (value - target).square()
    if value_clip is not None:
        limited = old_value + torch.clamp(value - old_value, -value_clip, value_clip)
        squared_error = torch.maximum(squared_error, (limited - target).square())
    with torch.no_grad():
        zero = policy.new_zeros(())
        kl = (ratio - 1 - log_ratio).sum() if with_figures else zero
        clipped = ((ratio - 1).abs() > clip).sum().to(ratio.dtype) if with_figures else zero
    return LossTerms(policy, 0.5 * squared_error.sum(), kl, clipped)


@torch.no_grad()
def ppo_gradients(
    log_prob: Tensor,
    old_log_prob: Tensor,
    advantages: Tensor,
    value: Tensor,
    old_value: Tensor,
    target: Tensor,
    clip: float,
    value_clip: float | None,
) -> tuple[Tensor, Tensor]:
    """What ``ppo_loss`` gives by autograd, written out: gradients of its ``policy`` and ``value`` by ``log_prob`` and ``value``.

    Where the clipped surrogate is the smaller one the ratio has no influence, and elsewhere its derivative is the surrogate itself.
    """
    ratio = torch.exp(log_prob - old_log_prob)
    surrogate = advantages * ratio
    counts = surrogate <= advantages * torch.clamp(ratio, 1 - clip, 1 + clip)
    error = value - target
    if value_clip is not None:
        change = value - old_value
        limited = old_value + torch.clamp(change, -value_clip, value_clip) - target
        error = torch.where(error.abs() >= limited.abs(), error, limited * (change.abs() <= value_clip))
    return surrogate.mul_(counts).neg_(), error
