"""Fitting one network to the expert: what an epoch is, when to stop, what to keep.

A ``Fit`` is a pure function of its seed, its frames and its configuration: every epoch draws from a generator of its own, so a
run that resumes after a crash goes on exactly as the uninterrupted one would have. Frames come in pools: one for data in memory,
one buffer after the other for data that are streamed.

In memory every worker holds all frames and takes its share of each batch, so that W workers do what one would do with the same
batch, but for the order of sums. Streamed, a worker draws its share from its own part of the data.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainables.imitation.batch_size import find_batch_size
from trainables.imitation.config import ImitationConfig
from trainables.imitation.frames import Frames
from trainables.imitation.workers import all_reduce_, average_gradients, world_size
from trainables.networks.normalizer import RunningNormalizer
from trainables.networks.policies import Policy

__all__ = ["Fit", "Moments", "fit_normalizer", "tensors"]

FINAL_LEARNING_RATE = 0.05  # share of the first one, at the last epoch
GRADIENT_NORM = 1.0
TIMED_BATCHES = 3

Moments = tuple[np.ndarray, np.ndarray, int]
"""Mean, population variance and count of the training split's observations."""
LossOf = Callable[[slice], Tensor]


@dataclass
class Fit(ABC):
    """One network on its way; subclasses say what a batch is."""

    policy: Policy
    config: ImitationConfig
    model: Any
    """The section of the configuration for it."""
    noise: Tensor
    """Noise on each input while training, in its standard deviations. Shape (observation_size,)."""
    rank: int = 0
    epoch: int = 0
    updates: int = 0
    best_epoch: int = 0
    best_loss: float = math.inf
    finished: bool = False
    batch_size: int = 0
    """Rows of one update over all workers; settled by ``prepare``."""
    history: list[dict[str, float]] = field(default_factory=list)
    """One row an epoch: epoch, train_loss, validation_loss, learning_rate."""

    def __post_init__(self) -> None:
        decay = self.model.weight_decay
        matrices = [parameter for parameter in self.policy.parameters() if parameter.ndim > 1]
        others = [parameter for parameter in self.policy.parameters() if parameter.ndim <= 1]
        if decay:
            groups: Any = [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]
            self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(groups, lr=self.model.learning_rate)
        else:
            self.optimizer = torch.optim.Adam(self.policy.parameters(), lr=self.model.learning_rate)
        self.best = self._weights()
        self.average: dict[str, Tensor] | None = self._weights() if self.model.ema_decay else None
        self.device = next(self.policy.parameters()).device
        self._timing = False

    # Data ----------------------------------------------------------------------------------------------------------------

    def attach(self, train: Frames, validation: Frames) -> Fit:
        """Give it all frames, held in memory; every worker gets the same."""
        self._is_shared = True
        pools = [self._load(train)], [self._load(validation)]
        self._train_pools: Callable[[int], Iterable[Any]] = lambda epoch: pools[0]
        self._validation_pools: Callable[[], Iterable[Any]] = lambda: pools[1]
        self._rows: Tensor | Moments = tensors(self.device, train.observation)[0]
        return self

    def attach_stream(self, train: Callable[[int], Iterator[Frames]], validation: Callable[[], Iterator[Frames]], moments: Moments) -> Fit:
        """Give it this worker's streams instead.

        Args:
            train: epoch -> buffers of whole episodes, in another order each time.
            validation: -> buffers of this worker's validation episodes.
            moments: of the observations of the whole training split.
        """
        self._is_shared = False
        self._train_pools = lambda epoch: map(self._load, train(epoch))
        self._validation_pools = lambda: map(self._load, validation())
        self._rows = moments
        return self

    def prepare(self) -> None:
        """Before the first epoch: observation statistics of the training split, initial weights, batch size.

        An expert that replays a gait makes every sensor a consequence of its past actions. A clone with weight on them moves by
        its own echo (de Haan et al. 2019, "Causal confusion in imitation learning"): walking, it loses all its speed. So
        sensors start at zero weight and stay small under noise; reinforcement learning finds its own use for them.
        """
        fit_normalizer(self.policy.normalizer, self._rows, self.config.std_floor, self._inputs())
        with torch.no_grad():
            self._silence(self.noise == 0)
        self.best = self._weights()
        self.average = self._weights() if self.model.ema_decay else None
        self.batch_size = self._find_batch_size() if self.model.batch_size == "auto" else self.model.batch_size

    # An epoch ------------------------------------------------------------------------------------------------------------

    def run_epoch(self) -> None:
        """Train one epoch, validate, keep the best weights, decide whether to stop."""
        self.policy.train()
        train_loss = self._train(torch.Generator().manual_seed(self._epoch_seed()))
        self.policy.eval()
        trained = self._weights() if self.average else None
        if self.average:
            self.policy.load_state_dict(self.average)
        with torch.no_grad():
            validation_loss = self._validate()
        learning_rate = self._learning_rate()
        self.epoch += 1
        if validation_loss < self.best_loss * (1 - self.config.minimum_improvement):
            self.best_loss, self.best_epoch, self.best = validation_loss, self.epoch, self._weights()
        if trained:
            self.policy.load_state_dict(trained)
        row = {"train_loss": train_loss, "validation_loss": validation_loss, "learning_rate": learning_rate}
        self.history.append({"epoch": self.epoch, **row})
        self.finished = self.epoch >= self.model.epochs or self.epoch - self.best_epoch >= self.config.patience

    def state_dict(self) -> dict[str, Any]:
        """Everything that a later process needs to continue; tensors and plain values only."""
        return {
            "architecture": self.policy.architecture(),
            "policy": self._weights(),
            "optimizer": self.optimizer.state_dict(),
            **{name: getattr(self, name) for name in _KEPT},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict``."""
        self.policy.load_state_dict(state["policy"])
        self.optimizer.load_state_dict(state["optimizer"])
        for name in _KEPT:
            setattr(self, name, state[name])

    # What subclasses say -------------------------------------------------------------------------------------------------

    @abstractmethod
    def _load(self, frames: Frames) -> Any:
        """A pool: frames as tensors where the policy is."""

    @abstractmethod
    def _count(self, pool: Any) -> int:
        """Rows of a pool that batches are drawn from."""

    @abstractmethod
    def _batch(self, pool: Any, rows: Tensor, generator: torch.Generator) -> list[tuple[Tensor, float]]:
        """Update once or several times on some rows of all workers together -> mean loss and weight of this worker's share, each time."""

    @abstractmethod
    def _errors(self, pool: Any, mine: slice) -> tuple[Tensor, float]:
        """Validation error summed over every ``mine``-th row of a pool, float64, and the number of entries."""

    def _inputs(self) -> Tensor | None:
        """Which observations the network reads; None: all."""
        return None

    @abstractmethod
    def _silence(self, heard: Tensor) -> None:
        """Zero the first weights of inputs that are not ``heard``. Shape (observation_size,), bool."""

    # Machinery -----------------------------------------------------------------------------------------------------------

    def _train(self, generator: torch.Generator) -> float:
        """One pass over the training split -> mean loss over its updates."""
        losses: list[tuple[Tensor, float]] = []
        for pool in self._in_step(self._train_pools(self.epoch)):
            count = self._count(pool)
            order = torch.randperm(count, generator=generator).to(self.device)
            batch = self.batch_size if self._is_shared else max(1, math.ceil(self.batch_size / world_size()))
            for step in range(self._agreed(math.ceil(count / batch), "min")):
                losses += self._batch(pool, order[step * batch : (step + 1) * batch], generator)
        if world_size() == 1:
            return float(torch.stack([loss for loss, _ in losses]).mean())
        sums = all_reduce_(self._tensor([[float(loss) * weight, weight] for loss, weight in losses]), "sum")
        seen = sums[sums[:, 1] > 0]
        return float((seen[:, 0] / seen[:, 1]).mean())

    def _in_step(self, pools: Iterable[Any]) -> Iterator[Any]:
        """Pools as long as every worker has one; what is left over is read to its end, as the other readers wait for it."""
        if self._is_shared or world_size() == 1:
            yield from pools
            return
        iterator = iter(pools)
        while True:
            pool = next(iterator, None)
            if not self._agreed(int(pool is not None), "min"):
                for _ in iterator:
                    pass
                return
            yield pool

    def _agreed(self, value: int, operation: str) -> int:
        """The same number on every worker: gradients are averaged update by update."""
        if self._is_shared or self._timing:
            return value
        return int(all_reduce_(self._tensor([value]), operation))

    def _mine(self) -> slice:
        """This worker's share of a batch."""
        return slice(self.rank, None, world_size()) if self._is_shared and not self._timing else slice(None)

    def _draw_noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor | None:
        """Noise for a batch of all workers together, so that each sees the same whatever their number; None: there is none."""
        if not bool(self.noise.any()):
            return None
        return torch.randn(*shape, generator=generator).to(self.device) * self.noise

    def _update(self, loss_of: LossOf, weights: Tensor) -> tuple[Tensor, float]:
        """One step of the optimizer.

        Args:
            loss_of: mean loss of a slice of this worker's rows.
            weights: what each row counts for. Shape (rows,).

        Returns:
            The mean loss over this worker's rows, and the sum of their weights.
        """
        self.optimizer.zero_grad(set_to_none=True)
        total = float(weights.sum())
        mean = torch.zeros((), device=self.device)
        size = max(1, math.ceil(len(weights) / self.model.gradient_accumulation))
        for start in range(0, len(weights), size):
            part = slice(start, start + size)
            weight = float(weights[part].sum())
            if weight == 0:
                continue
            with self._autocast():
                loss = loss_of(part)
            loss = loss.float() if weight == total else loss.float() * (weight / total)
            loss.backward()
            mean = mean + loss.detach()
        if not self._timing:
            self._step(total)
        return mean, total

    def _step(self, weight: float) -> None:
        average_gradients(self.policy.parameters(), weight)
        torch.nn.utils.clip_grad_norm_(self.policy.parameters(), GRADIENT_NORM)
        rising = min(1.0, (self.updates + 1) / max(1, self.model.warmup_updates))
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate() * rising
        self.optimizer.step()
        self.updates += 1
        if self.average:
            with torch.no_grad():
                for name, tensor in self.policy.state_dict().items():
                    if tensor.is_floating_point():
                        self.average[name].lerp_(tensor, 1.0 - self.model.ema_decay)

    def _validate(self) -> float:
        """Mean error over the validation split of all workers."""
        total = self._tensor([0.0, 0.0])
        for pool in self._validation_pools():
            error, entries = self._errors(pool, self._mine())
            total += torch.stack([error, self._tensor(entries)])
        error, count = all_reduce_(total, "sum")
        return float(error / count)

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.model.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def _find_batch_size(self) -> int:
        """Time forward and backward passes of growing batches on the first pool; nothing is learned from them."""
        pool = next(iter(self._train_pools(0)))
        count = self._count(pool)
        generator = torch.Generator().manual_seed(self.config.seed)
        self._timing = True

        def time_a_row(batch: int) -> float:
            rows = torch.randperm(count, generator=generator)[:batch].to(self.device)
            self._batch(pool, rows, generator)
            started_s = time.perf_counter()
            for _ in range(TIMED_BATCHES):
                self._batch(pool, rows, generator)
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            return (time.perf_counter() - started_s) / TIMED_BATCHES / len(rows)

        try:
            found = find_batch_size(time_a_row, count)
        finally:
            self._timing = False
            self.optimizer.zero_grad(set_to_none=True)
        return int(all_reduce_(self._tensor([found * (1 if self._is_shared else world_size())]), "min"))

    def _learning_rate(self) -> float:
        progress = self.epoch / max(1, self.model.epochs - 1)
        share = FINAL_LEARNING_RATE + (1 - FINAL_LEARNING_RATE) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        return self.model.learning_rate * share

    def _epoch_seed(self) -> int:
        rank = 0 if self._is_shared else self.rank
        return int(np.random.SeedSequence([self.config.seed, self.epoch, rank]).generate_state(1, np.uint64)[0] >> 1)

    def _tensor(self, value: Any) -> Tensor:
        """A float64 tensor where the policy is, so that workers can reduce it whatever their backend."""
        return torch.tensor(value, dtype=torch.float64, device=next(self.policy.parameters()).device)

    def _weights(self) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self.policy.state_dict().items()}


_KEPT = ("epoch", "updates", "best_epoch", "best_loss", "finished", "batch_size", "history", "best", "average")


def fit_normalizer(normalizer: RunningNormalizer, rows: Tensor | Moments, std_floor: float, inputs: Tensor | None = None) -> None:
    """Set the statistics of the training split: of its rows, shape (frames, size), or as they were measured.

    The count stays the number of frames: reinforcement learning then shifts the statistics as its own frames outnumber these.

    Args:
        normalizer: of the network.
        rows: observations, or their moments.
        std_floor: least standard deviation.
        inputs: indices of the observations that the network reads; None: all.
    """
    if isinstance(rows, tuple):
        mean, var, count = torch.from_numpy(rows[0]), torch.from_numpy(rows[1]), rows[2]
        if inputs is not None:
            mean, var = mean[inputs.cpu()], var[inputs.cpu()]
        normalizer.set_statistics(mean, var, float(count), std_floor)
        return
    wide = (rows if inputs is None else rows[:, inputs]).to(torch.float64)
    mean = wide.sum(0) / len(wide)
    var = (wide.square().sum(0) / len(wide) - mean.square()).clamp_min(0.0)
    normalizer.set_statistics(mean, var, float(len(wide)), std_floor)


def tensors(device: torch.device, *arrays: np.ndarray) -> list[Tensor]:
    """Arrays as tensors on a device; those that lie in Ray's shared memory are copied, as torch wants to be able to write."""
    return [torch.from_numpy(array if array.flags.writeable else array.copy()).to(device) for array in arrays]
