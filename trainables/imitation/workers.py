"""What the workers of one training run agree on. With one worker these are the identity."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, distributed, nn

__all__ = ["all_reduce_", "average_gradients", "world_size"]

_OPERATIONS = {"sum": "SUM", "min": "MIN", "max": "MAX"}


def world_size() -> int:
    """Number of workers."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def all_reduce_(value: Tensor, operation: Literal["sum", "min", "max"]) -> Tensor:
    """Combine ``value`` over all workers in place, and return it."""
    if world_size() > 1:
        distributed.all_reduce(value, getattr(distributed.ReduceOp, _OPERATIONS[operation]))
    return value


def average_gradients(parameters: Iterable[nn.Parameter], weight: float) -> None:
    """Replace every gradient by its mean over the workers, in one message.

    Args:
        parameters: with the gradient of this worker's mean loss; without one where it had no row.
        weight: rows that this mean is over, so that the result is the mean over the rows of all workers.
    """
    world = world_size()
    if world == 1:
        return
    held = list(parameters)
    gradients = [parameter.grad if parameter.grad is not None else torch.zeros_like(parameter) for parameter in held]
    flat = torch.cat([*(gradient.reshape(-1) * weight for gradient in gradients), gradients[0].new_tensor([weight])])
    distributed.all_reduce(flat)
    if not flat[-1] > 0:
        return  # nobody had a row: as with one worker, no gradient and no step
    flat = flat[:-1] / flat[-1]
    offset = 0
    for parameter, gradient in zip(held, gradients, strict=True):
        parameter.grad = flat[offset : offset + gradient.numel()].view_as(gradient).clone()
        offset += gradient.numel()
