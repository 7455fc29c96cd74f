"""Count, mean and variance of rows that may be spread over several learners."""

from __future__ import annotations

import torch
from torch import Tensor, distributed

__all__ = ["all_moments", "all_sum"]


def all_sum(tensor: Tensor, shared: bool) -> Tensor:
    """The sum over all learners, in place; the tensor itself when there is only one."""
    if shared:
        distributed.all_reduce(tensor)
    return tensor


def all_moments(rows: Tensor, shared: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Moments per column over the rows of all learners.

    Args:
        rows: shape (rows, size) or (rows,).
        shared: whether other learners hold further rows.

    Returns:
        count of shape (), mean and population variance of shape (size,) or (); float64.
    """
    wide = rows.to(torch.float64)
    count = all_sum(torch.tensor(float(len(wide)), dtype=torch.float64, device=rows.device), shared)
    mean = all_sum(wide.sum(0), shared) / count
    # Two passes: the difference of large sums would lose the variance of a column far from 0.
    variance = all_sum((wide - mean).square().sum(0), shared) / count
    return count, mean, variance
