"""Forward and backward of an MLP without autograd: for networks so small that recording the graph costs as much as the arithmetic.

Measured with 256 rows through 17-64-64-6 on one core of a 2.8 GHz Xeon: 0.56 ms with autograd, 0.2 to 0.25 ms here.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

__all__ = ["DirectMlp"]

_aten = torch.ops.aten
_BACKWARD: dict[type[nn.Module], Callable[[Tensor, Tensor], Tensor]] = {
    nn.Tanh: lambda gradient, output: _aten.tanh_backward(gradient, output),
    nn.ReLU: lambda gradient, output: _aten.threshold_backward(gradient, output, 0),
    nn.ELU: lambda gradient, output: _aten.elu_backward(gradient, 1.0, 1.0, 1.0, True, output),
}
"""Gradient of an activation's input, from that of its output and the output itself."""
_FORWARD: dict[type[nn.Module], Callable[[Tensor], Tensor]] = {
    nn.Tanh: torch.tanh_,
    nn.ReLU: torch.relu_,
    nn.ELU: nn.functional.elu_,
}


class DirectMlp:
    """A ``Sequential`` of linear layers with one kind of activation between them, as ``networks.policies.mlp`` makes it.

    ``backward`` adds to the parameters' ``grad``, which must be there. Forward and backward take turns.
    """

    def __init__(self, network: nn.Sequential) -> None:
        layers = list(network)
        self._linear = [layer for layer in layers if isinstance(layer, nn.Linear)]
        activation = type(layers[1]) if len(layers) > 1 else nn.ReLU
        self._activate, self._activate_backward = _FORWARD[activation], _BACKWARD[activation]
        self._inputs: list[Tensor] = []

    @torch.no_grad()
    def forward(self, rows: Tensor) -> Tensor:
        """(rows, inputs) -> (rows, outputs), equal to the network's own."""
        last, hidden = self._linear[-1], rows
        self._inputs = [rows]
        for layer in self._linear[:-1]:
            hidden = self._activate(torch.addmm(layer.bias, hidden, layer.weight.t()))
            self._inputs.append(hidden)
        return torch.addmm(last.bias, hidden, last.weight.t())

    @torch.no_grad()
    def backward(self, gradient: Tensor) -> None:
        """Add the gradients of all parameters, given that of the output. Shape (rows, outputs)."""
        for index in range(len(self._linear) - 1, -1, -1):
            layer, inputs = self._linear[index], self._inputs[index]
            layer.weight.grad.addmm_(gradient.t(), inputs)
            layer.bias.grad.add_(gradient.sum(0))
            if index:
                gradient = self._activate_backward(gradient @ layer.weight, inputs)
