"""Actor and critic with a memory: an LSTM over every observation, unrolled by the learner from the states that were sampled.

The whole sequence goes through the input side of the cell at once; only the recurrent product is left to do step by step. An
episode that begins inside a sequence starts from an empty memory, exactly as it did while sampling.
"""

from __future__ import annotations

from typing import Any

import torch
from ray.rllib.core.columns import Columns
from torch import Tensor, nn
from torch.nn import functional

from trainables.networks.policies import LstmPolicy
from trainables.ppo.batch import Rows
from trainables.ppo.module import ActorCritic, State

__all__ = ["RecurrentActorCritic", "unroll"]


def unroll(cell: nn.LSTM, inputs: Tensor, state: State, starts: Tensor) -> Tensor:
    """The cell's hidden output after every step.

    Args:
        cell: one layer; its equations are those of ``LstmPolicy.step``.
        inputs: normalised. Shape (time, rows, input_size).
        state: ``lstm_h`` and ``lstm_c`` before the first step. Shapes (rows, hidden_size).
        starts: where the state is forgotten before the step. Shape (time, rows), bool.

    Returns:
        Shape (time, rows, hidden_size).
    """
    gates_in = functional.linear(inputs, cell.weight_ih_l0, cell.bias_ih_l0 + cell.bias_hh_l0).unbind(0)
    weight = cell.weight_hh_l0.t()
    keeps = (~starts).unsqueeze(-1).to(inputs.dtype).unbind(0)
    forgets = starts.any(1).tolist()
    hidden, memory = state["lstm_h"], state["lstm_c"]
    outputs = []
    for gate_in, keep, forget_some in zip(gates_in, keeps, forgets, strict=True):
        if forget_some:
            hidden, memory = hidden * keep, memory * keep
        ingate, forget, candidate, outgate = torch.addmm(gate_in, hidden, weight).chunk(4, dim=-1)
        memory = torch.addcmul(torch.sigmoid(forget) * memory, torch.sigmoid(ingate), torch.tanh(candidate))
        hidden = torch.sigmoid(outgate) * torch.tanh(memory)
        outputs.append(hidden)
    return torch.stack(outputs)


class RecurrentActorCritic(ActorCritic):
    """The actor is an ``LstmPolicy`` of all observations; the critic is an MLP that also sees what the actor remembers.

    The critic has no memory of its own and its error does not reach the actor's: it reads the hidden output without its gradient.
    """

    actor: LstmPolicy

    def setup(self) -> None:
        """Build the networks; a last layer near 0 starts near the default pose, as that of ``MlpPolicy`` does."""
        super().setup()
        nn.init.orthogonal_(self.actor.head[-1].weight, 0.01)
        nn.init.zeros_(self.actor.head[-1].bias)

    def _critic_inputs(self) -> int:
        return super()._critic_inputs() + self.model_config["actor"]["hidden_size"]

    def act(self, observations: Tensor, state: State, starts: Tensor) -> tuple[Tensor, State]:
        """See ``ActorCritic.act``; the state is ``lstm_h`` and ``lstm_c``, each (N, hidden_size)."""
        if starts.any():
            keep = (~starts).unsqueeze(-1).to(observations.dtype)
            state = {name: value * keep for name, value in state.items()}
        return self.actor.step(observations, state)

    def fragment_values(self, observations: Tensor, state: State, starts: Tensor) -> Tensor:
        """See ``ActorCritic.fragment_values``; one unrolling over the whole fragment."""
        return self._values(observations, unroll(self.actor.cell, observations, state, starts))

    def evaluate_rows(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """See ``ActorCritic.evaluate_rows``; each sequence starts from the state that it had while sampling."""
        hidden = unroll(self.actor.cell, rows.observations.transpose(0, 1), rows.states, rows.starts.t()).transpose(0, 1)[rows.valid]
        return self.actor.head(hidden), self._values(rows.observations[rows.valid], hidden.detach())

    def _values(self, observations: Tensor, hidden: Tensor) -> Tensor:
        return self.critic(torch.cat([observations, hidden], dim=-1)).squeeze(-1)

    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> Tensor:
        """See ``ActorCritic.compute_values``; each row is one step from the state given, or from an empty one."""
        hidden = self._step(batch)[1]["lstm_h"].detach()
        return self.value_scale.to_returns(self._values(self.actor.normalizer(batch[Columns.OBS]), hidden))
