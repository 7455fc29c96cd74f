"""Running observation normalisation that lives inside the network.

As buffers of the module, mean and variance travel with the weights: to every env runner, into every checkpoint, through a PBT
clone and into the ONNX graph. Nothing outside has to remember them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["RunningNormalizer"]


class RunningNormalizer(nn.Module):
    """``clip((x - mean) / sqrt(var + eps), -clip, clip)`` with statistics merged batch by batch.

    Batches are merged by the parallel formula of Chan, Golub & LeVeque (1979), so the order and size of batches do not matter.
    """

    mean: Tensor
    var: Tensor
    count: Tensor

    def __init__(self, size: int, clip: float = 10.0, eps: float = 1e-8) -> None:
        super().__init__()
        self.clip, self.eps = clip, eps
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("var", torch.ones(size))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise. Shapes (..., size) -> (..., size)."""
        return torch.clamp((x - self.mean) * torch.rsqrt(self.var + self.eps), -self.clip, self.clip)

    @torch.no_grad()
    def update(self, batch: Tensor) -> None:
        """Merge the statistics of ``batch``, shape (..., size)."""
        rows = batch.reshape(-1, batch.shape[-1]).to(torch.float64)
        if rows.shape[0]:
            self.merge(torch.tensor(float(rows.shape[0]), dtype=torch.float64), rows.mean(0), rows.var(0, correction=0))

    @torch.no_grad()
    def merge(self, count: Tensor, mean: Tensor, var: Tensor) -> None:
        """Merge moments measured over ``count`` rows: their mean and population variance, float64. Shapes (), (size,), (size,)."""
        total = self.count + count
        delta = mean - self.mean.to(torch.float64)
        merged_mean = self.mean + delta * (count / total)
        moment = self.var.to(torch.float64) * self.count + var * count + delta**2 * (self.count * count / total)
        self.mean.copy_(merged_mean.to(self.mean.dtype))
        self.var.copy_((moment / total).to(self.var.dtype))
        self.count.copy_(total)

    @torch.no_grad()
    def set_statistics(self, mean: Tensor, var: Tensor, count: float, std_floor: Tensor | float = 0.0) -> None:
        """Take statistics measured elsewhere. Shapes (size,); ``count`` is how many rows they stand for in later updates.

        ``std_floor``, per feature or one for all: a feature that hardly moved in the data must not be magnified a thousandfold
        when it moves later.
        """
        floor = torch.as_tensor(std_floor, dtype=self.var.dtype)
        self.mean.copy_(mean.to(self.mean.dtype))
        self.var.copy_(torch.maximum(var.to(self.var.dtype), floor**2))
        self.count.fill_(count)
