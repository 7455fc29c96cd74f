"""What a batch is for each kind of policy, and how a fit is begun."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from trainables.imitation.config import ChunkConfig, ImitationConfig, LstmConfig, MlpConfig, SensingConfig
from trainables.imitation.fitting import Fit, tensors
from trainables.imitation.frames import Frames, Sequences, run_bounds
from trainables.imitation.interface import relative_base
from trainables.networks.interface import PolicyInterface
from trainables.networks.policies import ChunkPolicy, LstmPolicy, MlpPolicy, Policy

__all__ = ["ChunkFit", "LstmFit", "MlpFit", "make_fit"]

VALIDATION_ROWS = 8192
VALIDATION_SEQUENCES = 512


def make_fit(
    name: str,
    config: ImitationConfig,
    observation_size: int,
    action_size: int,
    fields: dict[str, slice],
    rank: int,
    device: torch.device,
    interface: PolicyInterface | None = None,
) -> Fit:
    """An untrained fit; every worker builds the same initial weights from the seed.

    Args:
        name: the model.
        config: of the stage.
        observation_size: numbers of an observation.
        action_size: numbers of an action.
        fields: where each observation field lies in the flat vector.
        rank: of this worker.
        device: where to train.
        interface: of a recording; None: a task's, whose expert replays a motion.
    """
    torch.manual_seed(config.seed)
    model = getattr(config, name)
    recorded = interface if interface is not None and interface.is_recorded else None
    noise = _noise(model, observation_size, fields, recorded is not None).to(device)
    if isinstance(model, MlpConfig):
        policy: Policy = MlpPolicy(observation_size, action_size, model.hidden, model.activation)
        return MlpFit(policy.to(device), config, model, noise, rank)
    if isinstance(model, ChunkConfig):
        base = relative_base(recorded) if recorded is not None and model.relative else None
        policy = ChunkPolicy(observation_size, action_size, model.chunk_size, model.history, model.hidden, model.activation, base)
        return ChunkFit(policy.to(device), config, model, noise, rank)
    inputs = range(observation_size)[fields[model.input_field]] if isinstance(model, LstmConfig) else range(observation_size)
    policy = LstmPolicy(observation_size, action_size, tuple(inputs), model.hidden_size, model.head_size)
    return LstmFit(policy.to(device), config, model, noise, rank)


def _noise(model: object, observation_size: int, fields: dict[str, slice], is_recorded: bool) -> Tensor:
    """Noise on each input, in its standard deviations. Shape (observation_size,)."""
    if not isinstance(model, SensingConfig):
        return torch.zeros(observation_size)
    exact = model.exact_fields
    if exact is None:
        exact = tuple(fields) if is_recorded else tuple(name for name in ("command",) if name in fields)
    noise = torch.full((observation_size,), model.observation_noise)
    for name in exact:
        noise[fields[name]] = 0.0
    return noise


@dataclass
class _Rows:
    """Frames of a pool."""

    x: Tensor
    y: Tensor
    normalised: Tensor


class MlpFit(Fit):
    """Frames in random order, noise on what is sensed, none on what is told."""

    policy: MlpPolicy
    model: MlpConfig

    def _load(self, frames: Frames) -> _Rows:
        x, y = tensors(self.device, frames.observation, frames.target)
        return _Rows(x, y, torch.empty(0))

    def _count(self, pool: _Rows) -> int:
        if not len(pool.normalised):
            # Once a pool: the statistics are those of the data and do not change while it is trained on.
            pool.normalised = self.policy.normalizer(pool.x)
        return len(pool.x)

    def _silence(self, heard: Tensor) -> None:
        self.policy.network[0].weight.mul_(heard)

    def _batch(self, pool: _Rows, rows: Tensor, generator: torch.Generator) -> list[tuple[Tensor, float]]:
        noise = self._draw_noise((len(rows), pool.x.shape[1]), generator)
        mine = self._mine()
        rows, noise = rows[mine], None if noise is None else noise[mine]

        def loss(part: slice) -> Tensor:
            inputs = pool.normalised[rows[part]]
            inputs = inputs if noise is None else inputs + noise[part]
            return functional.mse_loss(self.policy.network(inputs), pool.y[rows[part]])

        return [self._update(loss, torch.ones(len(rows)))]

    def _errors(self, pool: _Rows, mine: slice) -> tuple[Tensor, float]:
        x, y = pool.x[mine], pool.y[mine]
        errors = [self._tensor(0.0)]
        errors += [
            (self.policy(part) - wanted).square().sum(dtype=torch.float64)
            for part, wanted in zip(x.split(VALIDATION_ROWS), y.split(VALIDATION_ROWS), strict=True)
        ]
        return torch.stack(errors).sum(), float(y.numel())


@dataclass
class _Runs:
    """Episodes of a pool, padded to one length."""

    x: Tensor
    y: Tensor
    valid: Tensor


class LstmFit(Fit):
    """Episodes side by side, windows one after the other with the state carried on, gradients cut between them."""

    policy: LstmPolicy

    def _load(self, frames: Frames) -> _Runs:
        runs = Sequences.of(frames)
        return _Runs(*tensors(self.device, runs.observation, runs.target, runs.valid))

    def _count(self, pool: _Runs) -> int:
        return len(pool.x)

    def _inputs(self) -> Tensor:
        return self.policy.indices

    def _silence(self, heard: Tensor) -> None:
        self.policy.cell.weight_ih_l0.mul_(heard[self.policy.indices])

    def _batch(self, pool: _Runs, rows: Tensor, generator: torch.Generator) -> list[tuple[Tensor, float]]:
        window = self.model.window
        longest = pool.x.shape[1]
        mine = self._mine()
        state = self.policy.initial_state(len(rows[mine]))
        steps = []
        for start in range(0, self._agreed(math.ceil(longest / window), "max") * window, window):
            part = slice(start, start + window)
            noise = self._draw_noise((len(rows), max(0, min(window, longest - start)), pool.x.shape[2]), generator)
            batch = self._window(pool, rows[mine], part, None if noise is None else noise[mine], state)
            steps.append(batch)
        return steps

    def _window(self, pool: _Runs, rows: Tensor, part: slice, noise: Tensor | None, state: dict[str, Tensor]) -> tuple[Tensor, float]:
        """One update; ``state`` is carried on in place."""
        x, y, valid = pool.x[rows, part], pool.y[rows, part], pool.valid[rows, part]
        if noise is not None:
            # In the units of the observation, as the network normalises by itself.
            x = x + noise * torch.sqrt(self.policy.normalizer.var + self.policy.normalizer.eps)
        before = dict(state)

        def loss(some: slice) -> Tensor:
            predicted, after = self.policy(x[some], {name: value[some] for name, value in before.items()})
            for name, value in after.items():
                state[name] = state[name].clone()
                state[name][some] = value.detach().to(state[name].dtype)
            error = (predicted - y[some]).square().mean(-1) * valid[some]
            return error.sum() / valid[some].sum().clamp_min(1.0)

        return self._update(loss, valid.sum(dim=1) if valid.numel() else torch.zeros(len(rows)))

    def _errors(self, pool: _Runs, mine: slice) -> tuple[Tensor, float]:
        total, count = self._tensor(0.0), 0.0
        parts = (tensor[mine].split(VALIDATION_SEQUENCES) for tensor in (pool.x, pool.y, pool.valid))
        for x, y, valid in zip(*parts, strict=True):
            if x.numel():  # with several workers one may hold no validation frame
                predicted, _ = self.policy(x)
                total += ((predicted - y).square() * valid.unsqueeze(-1)).sum(dtype=torch.float64)
                count += float(valid.sum(dtype=torch.float64)) * y.shape[-1]
        return total, count


@dataclass
class _Windows:
    """Frames of a pool, and where the run of each begins and ends."""

    x: Tensor
    y: Tensor
    first: Tensor
    last: Tensor


class ChunkFit(Fit):
    """Frames in random order; each with the observations before it and the actions after it, masked where the episode ends."""

    policy: ChunkPolicy
    model: ChunkConfig

    def _load(self, frames: Frames) -> _Windows:
        first, last = run_bounds(frames.episode, frames.index)
        return _Windows(*tensors(self.device, frames.observation, frames.target, first, last))

    def _count(self, pool: _Windows) -> int:
        return len(pool.x)

    def _silence(self, heard: Tensor) -> None:
        self.policy.network[0].weight.mul_(heard.repeat(self.policy.history))

    def _batch(self, pool: _Windows, rows: Tensor, generator: torch.Generator) -> list[tuple[Tensor, float]]:
        noise = self._draw_noise((len(rows), self.policy.history, pool.x.shape[1]), generator)
        mine = self._mine()
        rows, noise = rows[mine], None if noise is None else noise[mine]
        steps = torch.minimum(pool.last[rows] - rows + 1, torch.tensor(self.policy.chunk_size, device=self.device))

        def loss(part: slice) -> Tensor:
            errors, valid = self._of_rows(pool, rows[part], None if noise is None else noise[part])
            return (errors.mean(-1) * valid).sum() / valid.sum()

        return [self._update(loss, steps.to(torch.float32))]

    def _of_rows(self, pool: _Windows, rows: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Errors (rows, chunk_size, action_size), and 1 where there is an action to compare with (rows, chunk_size)."""
        ahead = rows[:, None] + torch.arange(self.policy.chunk_size, device=self.device)
        back = self.model.history_stride * torch.arange(self.policy.history - 1, -1, -1, device=self.device)
        # Before an episode's start its first observation is repeated, as the policy does when it is asked.
        x = pool.x[torch.maximum(rows[:, None] - back, pool.first[rows][:, None])]
        last = pool.last[rows][:, None]
        y, valid = pool.y[torch.minimum(ahead, last)], (ahead <= last).to(torch.float32)
        difference = self.policy(x, noise) - y
        return (difference.abs() if self.model.loss == "l1" else difference.square()), valid

    def _errors(self, pool: _Windows, mine: slice) -> tuple[Tensor, float]:
        total, count = self._tensor(0.0), 0.0
        for rows in torch.arange(len(pool.x), device=self.device)[mine].split(VALIDATION_ROWS):
            errors, valid = self._of_rows(pool, rows)
            total += (errors * valid.unsqueeze(-1)).sum(dtype=torch.float64)
            count += float(valid.sum(dtype=torch.float64)) * errors.shape[-1]
        return total, count
