"""From a fragment's arrays to minibatches: one tensor that holds every column, gathered once an epoch and cut by index."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.ppo.fragment import Fragment
from trainables.ppo.moments import all_sum

__all__ = ["Columns", "FragmentTensors", "Rows", "TrainBatch"]


@dataclass(frozen=True)
class FragmentTensors:
    """A fragment on the learner's device. Shapes as in ``Fragment``."""

    normalized_observations: Tensor
    actions: Tensor
    log_probs: Tensor
    rewards: Tensor
    terminated: Tensor
    ended: Tensor
    valid: Tensor
    starts: Tensor
    states: dict[str, Tensor]

    @classmethod
    def from_fragment(cls, fragment: Fragment, normalized_observations: Tensor, rewards: Tensor) -> FragmentTensors:
        """Move the rest to where ``rewards`` (scaled) and ``normalized_observations`` are."""
        device = rewards.device
        # Copied, not shared: what came through Ray's object store is read-only.
        names = ("actions", "log_probs", "terminated", "valid", "starts")
        move = {name: torch.tensor(getattr(fragment, name), device=device) for name in names}
        ended = torch.tensor(fragment.terminated | fragment.truncated, device=device)
        states = {name: torch.tensor(state, device=device) for name, state in fragment.states.items()}
        return cls(normalized_observations=normalized_observations, rewards=rewards, ended=ended, states=states, **move)


@dataclass(frozen=True)
class Rows:
    """A minibatch. For a recurrent actor ``observations`` has a time axis, and ``valid`` picks the rows that the others hold."""

    observations: Tensor
    """Normalised. Shape (rows, observation_size), or (sequences, L, observation_size)."""
    actions: Tensor
    log_probs: Tensor
    advantages: Tensor
    targets: Tensor
    """Value targets in the critic's units. Shape (rows,)."""
    values: Tensor
    """What the critic said before the update. Shape (rows,)."""
    valid: Tensor | None = None
    """Shape (sequences, L), bool; None when every row counts."""
    starts: Tensor | None = None
    states: dict[str, Tensor] | None = None


class Columns:
    """Where each quantity lies in the one tensor of a batch."""

    def __init__(self, **widths: int) -> None:
        self.slices: dict[str, slice] = {}
        start = 0
        for name, width in widths.items():
            self.slices[name] = slice(start, start + width)
            start += width
        self.width = start


class TrainBatch:
    """All rows of an update, to be shuffled and cut. ``sequence_length`` 0: single steps; else sequences of that many steps."""

    def __init__(self, tensors: FragmentTensors, advantages: Tensor, targets: Tensor, values: Tensor, sequence_length: int = 0) -> None:
        observations = tensors.normalized_observations[:-1]
        self.steps_per_item = max(1, sequence_length)
        """Steps that one shuffled item stands for."""
        self._discrete = tensors.actions.dim() == 2
        actions = tensors.actions.unsqueeze(-1).to(torch.float32) if self._discrete else tensors.actions
        single = (tensors.log_probs, advantages, targets, values)
        parts = [observations, actions, *(column.unsqueeze(-1) for column in single)]
        widths = dict(observations=observations.shape[-1], actions=actions.shape[-1], log_probs=1, advantages=1, targets=1, values=1)
        self._states: dict[str, Tensor] | None = None
        if sequence_length:
            parts += [tensors.valid.unsqueeze(-1).to(torch.float32), tensors.starts[:-1].unsqueeze(-1).to(torch.float32)]
            widths |= {"valid": 1, "starts": 1}
        self._slices = Columns(**widths).slices
        data = torch.cat(parts, dim=-1)
        if sequence_length:
            steps, num_envs, width = data.shape
            data = data.view(steps // sequence_length, sequence_length, num_envs, width).transpose(1, 2).reshape(-1, sequence_length, width)
            self._states = {name: state.reshape(-1, *state.shape[2:]) for name, state in tensors.states.items()}
        else:
            data = data[tensors.valid]
        self._data = data

    def cut(self, minibatch_size: int, generator: torch.Generator, shared: bool = False) -> list[list[Tensor]]:
        """Shuffle everything and cut it into minibatches of nearly equal size, each a list that ``rows`` takes.

        Args:
            minibatch_size: steps per minibatch at most, over all learners.
            generator: of the order, on the CPU.
            shared: other learners hold further rows; all of them cut theirs into the same number of pieces.
        """
        items = all_sum(torch.tensor(float(len(self._data)), device=self._data.device), shared)
        pieces = math.ceil(float(items) / max(1, minibatch_size // self.steps_per_item))
        order = torch.randperm(len(self._data), generator=generator).to(self._data.device)
        columns = [tensor[order].tensor_split(pieces) for tensor in (self._data, *(self._states or {}).values())]
        return [list(piece) for piece in zip(*columns, strict=True)]

    def steps_of(self, piece: list[Tensor]) -> int:
        """Steps that count in a minibatch."""
        return len(piece[0]) if self._states is None else int(piece[0][..., self._slices["valid"]].sum())

    def rows(self, piece: list[Tensor]) -> Rows:
        """Name the columns of a minibatch, or of a part of one."""
        data, slices = piece[0], self._slices
        if self._states is None:
            return self._name(data, data[:, slices["observations"]])
        valid = data[..., slices["valid"]].squeeze(-1) > 0
        states = dict(zip(self._states, piece[1:], strict=True))
        starts = data[..., slices["starts"]].squeeze(-1) > 0
        return self._name(data[valid], data[..., slices["observations"]], valid=valid, starts=starts, states=states)

    def _name(self, rows: Tensor, observations: Tensor, **recurrent: object) -> Rows:
        slices = self._slices
        actions = rows[:, slices["actions"]]
        singles = {name: rows[:, slices[name].start] for name in ("log_probs", "advantages", "targets", "values")}
        return Rows(observations=observations, actions=actions.squeeze(-1) if self._discrete else actions, **singles, **recurrent)
