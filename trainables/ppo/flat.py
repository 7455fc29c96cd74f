"""All parameters of a module as views of one tensor: one clip, one Adam step and one all-reduce instead of a dozen of each."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["flatten_parameters"]


def flatten_parameters(parameters: list[nn.Parameter]) -> nn.Parameter:
    """Move ``parameters`` into one tensor and return it with its gradient allocated.

    Afterwards each parameter and its ``grad`` are views: autograd adds into them, an optimizer of the returned parameter changes
    them, ``load_state_dict`` copies into them. What must not happen any more is ``module.to(...)``, which would replace them.
    """
    flat = nn.Parameter(torch.cat([parameter.detach().reshape(-1) for parameter in parameters]))
    flat.grad = torch.zeros_like(flat)
    start = 0
    for parameter in parameters:
        end = start + parameter.numel()
        parameter.data = _view(flat.data, start, end, parameter)
        parameter.grad = _view(flat.grad, start, end, parameter)
        start = end
    return flat


def _view(flat: Tensor, start: int, end: int, parameter: nn.Parameter) -> Tensor:
    return flat[start:end].view(parameter.shape)
