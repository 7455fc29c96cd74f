"""The policy networks: the feed-forward ``MlpPolicy``, the recurrent ``LstmPolicy``, ``ChunkPolicy`` for several actions at once.

All map a flat observation to *normalised* actions, about [-1, 1]; the physical scaling is the task's or the recording's
(``ActionScaling``) and enters the graph at export.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal, TypedDict

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainables.networks.normalizer import RunningNormalizer

__all__ = ["ChunkPolicy", "LstmPolicy", "MlpPolicy", "Policy", "RelativeBase", "build_policy", "mlp", "run_cell"]

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
    chunk_size: int = 1
    """Control steps that one answer covers."""

    @abstractmethod
    def step(self, observation: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """One control step. (batch, observation_size) and state (batch, ...) -> (batch, action_size) normalised action mean, next state."""

    def plan(self, observation: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """As ``step``, but all actions of the answer: (batch, chunk_size, action_size)."""
        action, following = self.step(observation, state)
        return action.unsqueeze(1), following

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


def run_cell(cell: nn.LSTM, inputs: Tensor, initial: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """What ``nn.LSTM`` gives, computed in float32 also where the rest is autocast.

    A memory adds up its errors, and a CPU without AVX-512 has no bfloat16 LSTM in PyTorch 2.13.
    """
    with torch.autocast(inputs.device.type, enabled=False):
        output, after = cell(inputs, initial)
    return output, after


class LstmPolicy(Policy):
    """Inputs -> LSTM 64 -> 32 -> joints. ``simple_lstm`` gives it 4 phase and command inputs, ``lstm`` all of the observation.

    It reads only ``input_indices`` of the flat observation, so that it is served with the same contract as the MLP.
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
        output, (hidden, cell) = run_cell(self.cell, inputs, initial)
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


class RelativeBase(TypedDict):
    """What a relative policy adds its output to: ``gain * observation[index] + bias``, one entry an action component."""

    index: list[int]
    gain: list[float]
    """0 for a component whose present value is not observed: its output is absolute."""
    bias: list[float]


class ChunkPolicy(Policy):
    """Action chunks: an MLP over the last observations -> the next ``chunk_size`` actions at once (Zhao et al. 2023, ACT).

    ACT's trunk is a transformer over images and a latent style variable; this one is an MLP over numbers. What is kept is that
    a plan of several steps is predicted and executed, which shortens the horizon over which errors add up.

    With ``history`` above 1 the earlier observations are recurrent state: those of the last *questions*. A robot that asks once
    for every ``chunk_steps`` steps has them that far apart; train with ``history_stride`` equal to it.

    With ``base`` the network predicts changes from where the joints are: untrained, it holds them.
    """

    kind = "chunk"

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        chunk_size: int,
        history: int = 1,
        hidden: Sequence[int] = (256, 256),
        activation: Activation = "elu",
        base: RelativeBase | None = None,
    ) -> None:
        super().__init__()
        self.observation_size, self.action_size, self.chunk_size, self.history = observation_size, action_size, chunk_size, history
        self.hidden, self.activation, self.base = tuple(hidden), activation, base
        # Zeros are a possible observation, so the state also says how many have been seen.
        self.state_shapes = {"history": (history - 1, observation_size), "seen": (1,)} if history > 1 else {}
        self.normalizer = RunningNormalizer(observation_size)
        self.network = mlp([history * observation_size, *self.hidden, chunk_size * action_size], activation, output_gain=0.01)
        if base is not None:
            self.register_buffer("base_index", torch.tensor(base["index"], dtype=torch.long), persistent=False)
            self.register_buffer("base_gain", torch.tensor(base["gain"], dtype=torch.float32), persistent=False)
            self.register_buffer("base_bias", torch.tensor(base["bias"], dtype=torch.float32), persistent=False)

    def forward(self, observations: Tensor, noise: Tensor | None = None) -> Tensor:
        """(batch, history, observation_size), oldest first -> (batch, chunk_size, action_size) normalised.

        ``noise`` is added to the normalised observations; the base stays exact. Shape of ``observations``.
        """
        inputs = self.normalizer(observations)
        inputs = inputs if noise is None else inputs + noise
        planned = self.network(inputs.flatten(1)).unflatten(1, (self.chunk_size, self.action_size))
        if self.base is None:
            return planned
        now = observations[:, -1].index_select(-1, self.base_index)
        return planned + (now * self.base_gain + self.base_bias).unsqueeze(1)

    def plan(self, observation: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """See ``Policy.plan``; the state is ``history`` (batch, history - 1, observation_size) and ``seen`` (batch, 1)."""
        now = observation.unsqueeze(1)
        if self.history == 1:
            return self(now), {}
        # At an episode's start the first observation stands for those before it, as in training.
        first = (state["seen"] < 0.5).unsqueeze(-1)
        earlier = torch.where(first, now.expand(-1, self.history - 1, -1), state["history"])
        window = torch.cat([earlier, now], dim=1)
        return self(window), {"history": window[:, 1:], "seen": torch.ones_like(state["seen"])}

    def step(self, observation: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """See ``Policy.step``: the first action of the plan."""
        planned, following = self.plan(observation, state)
        return planned[:, 0], following

    def architecture(self) -> dict[str, Any]:
        """See ``Policy.architecture``."""
        return {
            "kind": self.kind,
            "observation_size": self.observation_size,
            "action_size": self.action_size,
            "chunk_size": self.chunk_size,
            "history": self.history,
            "hidden": list(self.hidden),
            "activation": self.activation,
            "base": self.base,
        }


def build_policy(architecture: dict[str, Any]) -> Policy:
    """An untrained policy from ``Policy.architecture()``. Raises ``ValueError`` for an unknown kind."""
    arguments = dict(architecture)
    kind = arguments.pop("kind")
    kinds: dict[str, type[Policy]] = {kind.kind: kind for kind in (MlpPolicy, LstmPolicy, ChunkPolicy)}
    if kind not in kinds:
        raise ValueError(f"unknown policy kind {kind!r}; known: {', '.join(kinds)}")
    return kinds[kind](**arguments)
