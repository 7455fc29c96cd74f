"""What the workers of one training run agree on. With one worker these are the identity."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, distributed, nn

__all__ = ["all_reduce_", "average_gradients"]


def all_reduce_(value: Tensor, operation: Literal["sum", "min"]) -> Tensor:
    """Combine ``value`` over all workers in place, and return it."""
    if _alone():
        return value
    distributed.all_reduce(value, distributed.ReduceOp.SUM if operation == "sum" else distributed.ReduceOp.MIN)
    return value


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its mean over the workers, in one message."""
    if _alone():
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    distributed.all_reduce(flat)
    flat /= distributed.get_world_size()
    offset = 0
    for gradient in gradients:
        gradient.copy_(flat[offset : offset + gradient.numel()].view_as(gradient))
        offset += gradient.numel()


def _alone() -> bool:
    return not distributed.is_available() or not distributed.is_initialized() or distributed.get_world_size() == 1
