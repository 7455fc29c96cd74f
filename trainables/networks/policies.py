"""The two policy networks: ``MlpPolicy`` over the whole observation and the recurrent ``LstmPolicy`` over four gait inputs.

Both map a flat observation to a *normalised* action in the task's units of [-1, 1]; the physical scaling is the task's
(``ActionScaling``) and enters the graph at export.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainables.networks.normalizer import RunningNormalizer

__all__ = ["LstmPolicy", "MlpPolicy", "Policy", "build_policy", "mlp"]

Activation = Literal["tanh", "relu", "elu"]
_ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU, "elu": nn.ELU}


def mlp(sizes: Sequence[int], activation: Activation = "elu", output_gain: float = 1.0) -> nn.Sequential:
    """Fully connected layers with orthogonal initialisation: gain sqrt(2) inside, ``output_gain`` last (Andrychowicz et al. 2021)."""
    layers: list[nn.Module] = []
    for index, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        last = index == len(sizes) - 2
        layer = nn.Linear(fan_in, fan_out)
        nn.init.orthogonal_(layer.weight, output_gain if last else 2**0.5)
        nn.init.zeros_(layer.bias)
        layers += [layer] if last else [layer, _ACTIVATIONS[activation]()]
    return nn.Sequential(*layers)


class Policy(nn.Module, ABC):
    """What imitation trains, PPO continues from and export writes out."""

    kind: str
    observation_size: int
    action_size: int
    state_shapes: dict[str, tuple[int, ...]]
    """Recurrent state by name, without the batch axis; empty for a stateless policy."""

    @abstractmethod
    def step(self, observation: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """One control step. (batch, observation_size) and state (batch, ...) -> (batch, action_size) normalised action mean, next state."""

    def initial_state(self, batch: int) -> dict[str, Tensor]:
        """All-zero recurrent state for ``batch`` robots."""
        device = next(self.parameters()).device
        return {name: torch.zeros(batch, *shape, device=device) for name, shape in self.state_shapes.items()}

    @abstractmethod
    def architecture(self) -> dict[str, Any]:
        """Arguments that ``build_policy`` needs to make an untrained copy."""


class MlpPolicy(Policy):
    """Running normalisation, then an MLP. ``network`` and ``normalizer`` are what a PPO actor loads for a warm start."""

    kind = "mlp"

    def __init__(self, observation_size: int, action_size: int, hidden: Sequence[int] = (128, 128), activation: Activation = "elu") -> None:
        super().__init__()
        self.observation_size, self.action_size = observation_size, action_size
        self.hidden, self.activation = tuple(hidden), activation
        self.state_shapes = {}
        self.normalizer = RunningNormalizer(observation_size)
        # A small last layer starts near the default pose (Andrychowicz et al. 2021, choice C57).
        self.network = mlp([observation_size, *self.hidden, action_size], activation, output_gain=0.01)

    def forward(self, observation: Tensor) -> Tensor:
        """(..., observation_size) -> (..., action_size) normalised action mean."""
        return self.network(self.normalizer(observation))

    def step(self, observation: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """See ``Policy.step``; the state is empty."""
        return self(observation), {}

    def architecture(self) -> dict[str, Any]:
        """See ``Policy.architecture``."""
        sizes = {"observation_size": self.observation_size, "action_size": self.action_size}
        return {"kind": self.kind, **sizes, "hidden": list(self.hidden), "activation": self.activation}


class LstmPolicy(Policy):
    """``simple_lstm``: 4 phase and command inputs -> LSTM 64 -> 32 -> joints.

    It reads only ``input_indices`` of the flat observation (the command group), so that it is served with the same contract
    as the MLP.
    """

    kind = "simple_lstm"

    def __init__(
        self, observation_size: int, action_size: int, input_indices: Sequence[int], hidden_size: int = 64, head_size: int = 32
    ) -> None:
        super().__init__()
        self.observation_size, self.action_size = observation_size, action_size
        self.input_indices = tuple(input_indices)
        self.hidden_size, self.head_size = hidden_size, head_size
        self.state_shapes = {"lstm_h": (hidden_size,), "lstm_c": (hidden_size,)}
        self.register_buffer("indices", torch.tensor(self.input_indices, dtype=torch.long), persistent=False)
        self.normalizer = RunningNormalizer(len(self.input_indices))
        self.cell = nn.LSTM(len(self.input_indices), hidden_size, batch_first=True)
        self.head = nn.Sequential(nn.Linear(hidden_size, head_size), nn.ReLU(), nn.Linear(head_size, action_size))

    def forward(self, observations: Tensor, state: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """A whole sequence. (batch, time, observation_size) -> (batch, time, action_size) and the state after the last step."""
        inputs = self.normalizer(observations[..., self.indices])
        initial = None if state is None else (state["lstm_h"].unsqueeze(0), state["lstm_c"].unsqueeze(0))
        output, (hidden, cell) = self.cell(inputs, initial)
        return self.head(output), {"lstm_h": hidden.squeeze(0), "lstm_c": cell.squeeze(0)}

    def step(self, observation: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """See ``Policy.step``; the state is ``lstm_h`` and ``lstm_c``, each (batch, hidden_size).

        The cell's equations are written out over the weights of ``nn.LSTM`` (its documentation gives them): one step needs no
        time axis, and the exported graph stays a handful of plain operators.
        """
        inputs = self.normalizer(observation.index_select(-1, self.indices))
        cell = self.cell
        gates = functional.linear(inputs, cell.weight_ih_l0, cell.bias_ih_l0)
        gates = gates + functional.linear(state["lstm_h"], cell.weight_hh_l0, cell.bias_hh_l0)
        ingate, forget, candidate, outgate = gates.chunk(4, dim=-1)
        memory = torch.sigmoid(forget) * state["lstm_c"] + torch.sigmoid(ingate) * torch.tanh(candidate)
        hidden = torch.sigmoid(outgate) * torch.tanh(memory)
        return self.head(hidden), {"lstm_h": hidden, "lstm_c": memory}

    def architecture(self) -> dict[str, Any]:
        """See ``Policy.architecture``."""
        sizes = {"observation_size": self.observation_size, "action_size": self.action_size}
        return {
            "kind": self.kind,
            **sizes,
            "input_indices": list(self.input_indices),
            "hidden_size": self.hidden_size,
            "head_size": self.head_size,
        }


def build_policy(architecture: dict[str, Any]) -> Policy:
    """An untrained policy from ``Policy.architecture()``. Raises ``ValueError`` for an unknown kind."""
    arguments = dict(architecture)
    kind = arguments.pop("kind")
    kinds: dict[str, type[Policy]] = {MlpPolicy.kind: MlpPolicy, LstmPolicy.kind: LstmPolicy}
    if kind not in kinds:
        raise ValueError(f"unknown policy kind {kind!r}; known: {', '.join(kinds)}")
    return kinds[kind](**arguments)
