"""Fitting one network to the expert: what an epoch is, when to stop, what to keep.

A ``Fit`` is a pure function of its seed, its frames and its configuration: every epoch draws from a generator of its own, so a
run that resumes after a crash goes on exactly as the uninterrupted one would have.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainables.imitation.config import ImitationConfig, LstmConfig, MlpConfig
from trainables.imitation.frames import Frames, Sequences
from trainables.imitation.workers import all_reduce_, average_gradients
from trainables.networks.normalizer import RunningNormalizer
from trainables.networks.policies import LstmPolicy, MlpPolicy, Policy

__all__ = ["Fit", "LstmFit", "MlpFit", "make_fit"]

FINAL_LEARNING_RATE = 0.05  # share of the first one, at the last epoch
GRADIENT_NORM = 1.0
VALIDATION_ROWS = 8192


@dataclass
class Fit(ABC):
    """One network on its way; subclasses say what an epoch is."""

    policy: Policy
    config: ImitationConfig
    model: MlpConfig | LstmConfig
    rank: int = 0
    epoch: int = 0
    best_epoch: int = 0
    best_loss: float = math.inf
    finished: bool = False
    history: list[dict[str, float]] = field(default_factory=list)
    """One row an epoch: epoch, train_loss, validation_loss, learning_rate."""

    def __post_init__(self) -> None:
        self.optimizer = torch.optim.Adam(self.policy.parameters(), lr=self.model.learning_rate)
        self.best = self._weights()

    def run_epoch(self) -> None:
        """Train one epoch, validate, keep the best weights, decide whether to stop."""
        learning_rate = self._learning_rate()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.policy.train()
        train_loss = self._train(torch.Generator().manual_seed(self._epoch_seed()))
        self.policy.eval()
        with torch.no_grad():
            validation_loss = self._validate()
        self.epoch += 1
        if validation_loss < self.best_loss * (1 - self.config.minimum_improvement):
            self.best_loss, self.best_epoch, self.best = validation_loss, self.epoch, self._weights()
        row = {"train_loss": train_loss, "validation_loss": validation_loss, "learning_rate": learning_rate}
        self.history.append({"epoch": self.epoch, **row})
        self.finished = self.epoch >= self.model.epochs or self.epoch - self.best_epoch >= self.config.patience

    def state_dict(self) -> dict[str, Any]:
        """Everything that a later process needs to continue; tensors and plain values only."""
        names = ("epoch", "best_epoch", "best_loss", "finished", "history", "best")
        return {
            "architecture": self.policy.architecture(),
            "policy": self._weights(),
            "optimizer": self.optimizer.state_dict(),
            **{name: getattr(self, name) for name in names},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict``."""
        self.policy.load_state_dict(state["policy"])
        self.optimizer.load_state_dict(state["optimizer"])
        for name in ("epoch", "best_epoch", "best_loss", "finished", "history", "best"):
            setattr(self, name, state[name])

    @abstractmethod
    def _train(self, generator: torch.Generator) -> float:
        """One pass over the training split -> mean loss over its updates."""

    @abstractmethod
    def _validate(self) -> float:
        """Mean squared error over the validation split of all workers."""

    def _update(self, loss: Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        average_gradients(self.policy.parameters())
        torch.nn.utils.clip_grad_norm_(self.policy.parameters(), GRADIENT_NORM)
        self.optimizer.step()

    def _learning_rate(self) -> float:
        progress = self.epoch / max(1, self.model.epochs - 1)
        share = FINAL_LEARNING_RATE + (1 - FINAL_LEARNING_RATE) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        return self.model.learning_rate * share

    def _epoch_seed(self) -> int:
        return int(np.random.SeedSequence([self.config.seed, self.epoch, self.rank]).generate_state(1, np.uint64)[0] >> 1)

    def _tensor(self, value: float | list[float]) -> Tensor:
        """A float64 tensor where the policy is, so that workers can reduce it whatever their backend."""
        return torch.tensor(value, dtype=torch.float64, device=next(self.policy.parameters()).device)

    def _weights(self) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self.policy.state_dict().items()}


class MlpFit(Fit):
    """Frames in random order, noise on what is sensed, none on what is told."""

    def attach(self, train: Frames, validation: Frames, fields: dict[str, slice]) -> MlpFit:
        """Give it this worker's frames and where each observation field lies in the flat vector."""
        assert isinstance(self.policy, MlpPolicy)
        assert isinstance(self.model, MlpConfig)
        device = next(self.policy.parameters()).device
        self.train_x, self.train_y = _tensors(device, train.observation, train.target)
        self.valid_x, self.valid_y = _tensors(device, validation.observation, validation.target)
        self.noise = torch.full((train.observation.shape[1],), self.model.observation_noise, device=device)
        for name in self.model.exact_fields:
            self.noise[fields[name]] = 0.0
        return self

    def prepare(self) -> None:
        """Before the first epoch: observation statistics of the training split; no weight yet on what is sensed.

        An expert that replays a gait makes every sensor a consequence of its past actions. A clone with weight on them moves by
        its own echo (de Haan et al. 2019, "Causal confusion in imitation learning"): walking, it loses all its speed. So
        sensors start at zero weight and stay small under noise; reinforcement learning finds its own use for them.
        """
        fit_normalizer(self.policy.normalizer, self.train_x, self.config.std_floor)
        with torch.no_grad():
            self.policy.network[0].weight.mul_(self.noise == 0)
        self.best = self._weights()

    def _train(self, generator: torch.Generator) -> float:
        normalised = self.policy.normalizer(self.train_x)
        order = torch.randperm(len(normalised), generator=generator).to(normalised.device)
        losses = []
        batch = self.model.batch_size
        for step in range(self._updates()):
            rows = order[step * batch : (step + 1) * batch]
            noise = torch.randn(len(rows), normalised.shape[1], generator=generator).to(normalised.device)
            loss = torch.nn.functional.mse_loss(self.policy.network(normalised[rows] + noise * self.noise), self.train_y[rows])
            self._update(loss)
            losses.append(loss.detach())
        return float(torch.stack(losses).mean())

    def _updates(self) -> int:
        """The same on every worker: gradients are averaged update by update."""
        return max(1, int(all_reduce_(self._tensor([math.ceil(len(self.train_x) / self.model.batch_size)]), "min")))

    def _validate(self) -> float:
        errors = [
            (self.policy(x) - y).square().sum(dtype=torch.float64)
            for x, y in zip(self.valid_x.split(VALIDATION_ROWS), self.valid_y.split(VALIDATION_ROWS), strict=True)
        ]
        total = torch.stack([torch.stack(errors).sum(), self._tensor(self.valid_y.numel())])
        error, count = all_reduce_(total, "sum")
        return float(error / count)


class LstmFit(Fit):
    """Episodes side by side, windows one after the other with the state carried on, gradients cut between them."""

    def attach(self, train: Frames, validation: Frames, fields: dict[str, slice]) -> LstmFit:
        """Give it this worker's frames."""
        assert isinstance(self.policy, LstmPolicy)
        assert isinstance(self.model, LstmConfig)
        device = next(self.policy.parameters()).device
        sequences, held_out = Sequences.of(train), Sequences.of(validation)
        self.train_x, self.train_y, self.train_valid = _tensors(device, sequences.observation, sequences.target, sequences.valid)
        self.valid_x, self.valid_y, self.valid_valid = _tensors(device, held_out.observation, held_out.target, held_out.valid)
        self.train_rows = torch.from_numpy(train.observation).to(device)
        return self

    def prepare(self) -> None:
        """Before the first epoch: input statistics of the training split."""
        fit_normalizer(self.policy.normalizer, self.train_rows[:, self.policy.indices], self.config.std_floor)
        self.best = self._weights()

    def _train(self, generator: torch.Generator) -> float:
        order = torch.randperm(len(self.train_x), generator=generator).to(self.train_x.device)
        batch, window = self.model.batch_size, self.model.window
        counts = self._tensor([math.ceil(len(self.train_x) / batch), math.ceil(self.train_x.shape[1] / window)])
        batches, windows = (max(1, int(count)) for count in all_reduce_(counts, "min"))
        losses = []
        for number in range(batches):
            rows = order[number * batch : (number + 1) * batch]
            state = self.policy.initial_state(len(rows))
            for start in range(0, windows * window, window):
                part = slice(start, start + window)
                predicted, state = self.policy(self.train_x[rows, part], state)
                state = {name: value.detach() for name, value in state.items()}
                loss = _masked_error(predicted, self.train_y[rows, part], self.train_valid[rows, part])
                self._update(loss)
                losses.append(loss.detach())
        return float(torch.stack(losses).mean())

    def _validate(self) -> float:
        total = self._tensor([0.0, 0.0])
        if self.valid_x.numel():  # with several workers one may hold no validation frame
            predicted, _ = self.policy(self.valid_x)
            total[0] = ((predicted - self.valid_y).square() * self.valid_valid.unsqueeze(-1)).sum(dtype=torch.float64)
            total[1] = self.valid_valid.sum(dtype=torch.float64) * self.valid_y.shape[-1]
        error, count = all_reduce_(total, "sum")
        return float(error / count)


def make_fit(
    name: str, config: ImitationConfig, observation_size: int, action_size: int, fields: dict[str, slice], rank: int, device: torch.device
) -> Fit:
    """An untrained fit; every worker builds the same initial weights from the seed."""
    torch.manual_seed(config.seed)
    model = getattr(config, name)
    if isinstance(model, MlpConfig):
        policy: Policy = MlpPolicy(observation_size, action_size, model.hidden, model.activation)
        return MlpFit(policy.to(device), config, model, rank)
    inputs = range(observation_size)[fields[model.input_field]]
    policy = LstmPolicy(observation_size, action_size, tuple(inputs), model.hidden_size, model.head_size)
    return LstmFit(policy.to(device), config, model, rank)


def fit_normalizer(normalizer: RunningNormalizer, rows: Tensor, std_floor: float) -> None:
    """Set the statistics of all workers' rows, shape (frames, size).

    The count stays the number of frames: reinforcement learning then shifts the statistics as its own frames outnumber these.
    """
    wide = rows.to(torch.float64)
    size = wide.shape[1]
    sums = all_reduce_(torch.cat([wide.sum(0), wide.square().sum(0), wide.new_tensor([len(wide)])]), "sum")
    count = sums[-1]
    mean = sums[:size] / count
    var = (sums[size:-1] / count - mean.square()).clamp_min(0.0)
    normalizer.set_statistics(mean, var, float(count), std_floor)


def _masked_error(predicted: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    error = (predicted - target).square().mean(-1) * valid
    return error.sum() / valid.sum().clamp_min(1.0)


def _tensors(device: torch.device, *arrays: np.ndarray) -> list[Tensor]:
    return [torch.from_numpy(array).to(device) for array in arrays]
