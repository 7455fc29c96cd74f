"""PopArt (van Hasselt et al. 2016): the critic works in standard deviations of the return, so rewards may be of any size."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["ValueScale"]

_HORIZON = 100_000
"""Bounds the weight of the past, rows: returns grow while a policy learns."""


class ValueScale(nn.Module):
    """Mean and standard deviation of the return. Before the first ``update`` both directions change nothing."""

    mean: Tensor
    std: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("std", torch.ones(()))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    def to_returns(self, values: Tensor) -> Tensor:
        """From the critic's units to returns. Any shape."""
        return values * self.std + self.mean

    def to_values(self, returns: Tensor) -> Tensor:
        """From returns to the critic's units. Any shape."""
        return (returns - self.mean) / self.std

    @torch.no_grad()
    def update(self, count: Tensor, mean: Tensor, var: Tensor, last_layer: nn.Linear) -> None:
        """Merge the statistics of new returns and rescale the critic's last layer, so that its predictions stay what they were.

        Args:
            count: rows of the new returns, float64 scalar; so are ``mean`` and ``var`` of them.
            mean: their mean.
            var: their population variance.
            last_layer: the critic's output layer; changed in place.
        """
        weight = count / (torch.clamp(self.count, max=_HORIZON) + count)
        old_mean, old_std = self.mean.to(torch.float64), self.std.to(torch.float64)
        delta = mean - old_mean
        # On the first batch the initial 0 and 1 stand for nothing: weight is 1 and both drop out.
        new_mean = old_mean + weight * delta
        variance = (1 - weight) * old_std.square() + weight * var + weight * (1 - weight) * delta.square()
        new_std = torch.clamp(variance.sqrt(), min=1e-4)
        last_layer.weight.mul_((old_std / new_std).to(last_layer.weight.dtype))
        last_layer.bias.copy_(((old_std * last_layer.bias.to(torch.float64) + old_mean - new_mean) / new_std).to(last_layer.bias.dtype))
        self.mean.copy_(new_mean.to(self.mean.dtype))
        self.std.copy_(new_std.to(self.std.dtype))
        self.count += count
