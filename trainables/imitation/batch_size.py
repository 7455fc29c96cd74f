"""How large a batch should be: doubled until a row costs no less, memory ends, or too few updates an epoch would be left."""

from __future__ import annotations

from collections.abc import Callable

import torch

__all__ = ["find_batch_size"]

SMALLEST = 16
LARGEST = 8192
"""Beyond it an update costs so much that the step size would have to be tuned anew."""
LEAST_UPDATES = 8
"""Updates that an epoch keeps."""
GAIN = 0.95
"""A row must cost less than this share of what it did at half the size, or doubling has ended."""


def find_batch_size(time_a_row: Callable[[int], float], rows: int) -> int:
    """The batch size to use.

    Args:
        time_a_row: batch size -> seconds that a row of such a batch takes; may run out of memory.
        rows: rows of an epoch.
    """
    largest = max(1, min(LARGEST, rows // LEAST_UPDATES))
    batch = min(SMALLEST, largest)
    best = time_a_row(batch)
    while batch * 2 <= largest:
        try:
            taken = time_a_row(batch * 2)
        except (MemoryError, torch.OutOfMemoryError):
            break
        if taken > best * GAIN:
            break
        batch, best = batch * 2, taken
    return batch
