"""A minibatch in parts that fit the memory: gradients add up to those of the whole, and ``auto`` finds the size by backing off."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

__all__ = ["MicroBatches", "is_out_of_memory"]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on a GPU or on the host (torch has an exception of its own only for the former)."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


class MicroBatches:
    """Cuts minibatches into parts of at most ``limit`` steps.

    Attributes:
        limit: steps per part; None while minibatches go in one piece.
    """

    def __init__(self, size: int | Literal["auto"] | None) -> None:
        self._auto = size == "auto"
        self.limit = size if isinstance(size, int) else None

    def accumulate(self, piece: list[Tensor], steps_per_item: int, begin: Callable[[], None], run: Callable[[list[Tensor]], None]) -> None:
        """Forward and backward over all parts of a minibatch.

        Args:
            piece: tensors of the minibatch, cut along their first axis.
            steps_per_item: steps that one entry of that axis stands for.
            begin: forgets the gradients; called before the first part, and again when the parts were too large.
            run: forward and backward of one part.
        """
        while True:
            begin()
            items = len(piece[0]) if self.limit is None else max(1, self.limit // steps_per_item)
            try:
                for part in zip(*(tensor.split(items) for tensor in piece), strict=True):
                    run(list(part))
                return
            except (RuntimeError, MemoryError) as error:
                if not self._auto or items == 1 or not is_out_of_memory(error):
                    raise
                self.limit = items * steps_per_item // 2
