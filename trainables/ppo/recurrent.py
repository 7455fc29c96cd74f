"""Actor and critic with a memory: an LSTM over every observation, unrolled by the learner from the states that were sampled.

An episode that begins inside a sequence starts from an empty memory, exactly as it did while sampling: the sequence is cut there, and
the pieces go through torch's own LSTM side by side.
"""

from __future__ import annotations

from typing import Any

import torch
from ray.rllib.core.columns import Columns
from torch import Tensor, nn

from trainables.networks.policies import LstmPolicy, run_cell
from trainables.ppo.batch import Rows
from trainables.ppo.module import ActorCritic, State

__all__ = ["RecurrentActorCritic", "unroll"]


def unroll(cell: nn.LSTM, inputs: Tensor, state: State, starts: Tensor) -> Tensor:
    """The cell's hidden output after every step.

    Args:
        cell: one layer, ``batch_first``.
        inputs: normalised. Shape (rows, time, input_size).
        state: ``lstm_h`` and ``lstm_c`` before the first step. Shapes (rows, hidden_size).
        starts: where the state is forgotten before the step. Shape (rows, time), bool.

    Returns:
        Shape (rows, time, hidden_size).
    """
    begins = starts.clone()
    begins[:, 0] = True
    row, begin = begins.nonzero(as_tuple=True)
    keep = ~starts[row, begin].unsqueeze(-1)
    initial = ((state["lstm_h"][row] * keep).unsqueeze(0), (state["lstm_c"][row] * keep).unsqueeze(0))
    if len(row) == len(inputs):
        return run_cell(cell, inputs, initial)[0]
    # Which piece each step belongs to, and how far into it the step is. What follows a short piece is never read.
    piece = begins.flatten().cumsum(0).view_as(begins) - 1
    offset = torch.arange(inputs.shape[1], device=inputs.device) - begin[piece]
    pieces = inputs.new_zeros(len(row), *inputs.shape[1:])
    pieces[piece, offset] = inputs
    return run_cell(cell, pieces, initial)[0][piece, offset]


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

    def fragment_values(self, observations: Tensor, states: State, starts: Tensor) -> Tensor:
        """See ``ActorCritic.fragment_values``; every stored state is followed for its sequence, the last one for a step more."""
        steps = len(observations) - 1
        count, num_envs = next(iter(states.values())).shape[:2]
        length = steps // count
        rows = observations.unfold(0, length + 1, length).permute(0, 1, 3, 2).flatten(0, 1)
        state = {name: value.flatten(0, 1) for name, value in states.items()}
        hidden = unroll(self.actor.cell, rows, state, starts.unfold(0, length + 1, length).flatten(0, 1))
        hidden = hidden.view(count, num_envs, length + 1, -1).transpose(1, 2)
        hidden = torch.cat([hidden[:, :-1].flatten(0, 1), hidden[-1, -1:]])
        return self._values(observations, hidden)

    def evaluate_rows(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """See ``ActorCritic.evaluate_rows``; each sequence starts from the state that it had while sampling."""
        hidden = unroll(self.actor.cell, rows.observations, rows.states, rows.starts)[rows.valid]
        return self.actor.head(hidden), self._values(rows.observations[rows.valid], hidden.detach())

    def _values(self, observations: Tensor, hidden: Tensor) -> Tensor:
        return self.critic(torch.cat([observations, hidden], dim=-1)).squeeze(-1)

    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> Tensor:
        """See ``ActorCritic.compute_values``; each row is one step from the state given, or from an empty one."""
        hidden = self._step(batch)[1]["lstm_h"].detach()
        return self.value_scale.to_returns(self._values(self.actor.normalizer(batch[Columns.OBS]), hidden))
