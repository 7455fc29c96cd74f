"""How a minibatch goes through actor and critic and back: by autograd, or directly where the networks are small MLPs on a CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from trainables.networks.direct_mlp import DirectMlp
from trainables.ppo.batch import Rows

if TYPE_CHECKING:
    from trainables.ppo.module import ActorCritic

__all__ = ["AutogradNetworks", "DirectNetworks"]


class AutogradNetworks:
    """Any module on any device; ``dtype`` is what its forward pass is autocast to, None: nothing."""

    def __init__(self, module: ActorCritic, dtype: torch.dtype | None) -> None:
        self._module, self._dtype = module, dtype

    def forward(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Distribution inputs and values, with their graph. Shapes (rows, input_size), (rows,), float32."""
        with torch.autocast(rows.observations.device.type, self._dtype, enabled=self._dtype is not None):
            inputs, values = self._module.evaluate_rows(rows)
        return inputs.float(), values.float()

    def backward(self) -> None:
        """Nothing: the loss's own ``backward`` reached the parameters."""


class DirectNetworks:
    """Two MLPs; autograd sees only what lies between their outputs and the loss."""

    def __init__(self, actor: nn.Sequential, critic: nn.Sequential) -> None:
        self._actor, self._critic = DirectMlp(actor), DirectMlp(critic)
        self._outputs: tuple[Tensor, Tensor] | None = None

    def forward(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Distribution inputs and values, as leaves that keep their gradient. Shapes (rows, input_size), (rows,)."""
        inputs, values = self._actor.forward(rows.observations), self._critic.forward(rows.observations)
        self._outputs = inputs.requires_grad_(), values.requires_grad_()
        return inputs, values.squeeze(-1)

    def backward(self) -> None:
        """After the loss's ``backward``: from the outputs' gradients to the parameters'."""
        for network, output in zip((self._actor, self._critic), self._outputs, strict=True):
            if output.grad is not None:
                network.backward(output.grad)
