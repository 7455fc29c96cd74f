"""Runs: how long something stays the same, vectorised over components.

An episode is some hundred frames of some components, so that a call of NumPy costs as much as its arithmetic: here and in the checks
differences are slices, what need not be computed is not, and ``values`` best have contiguous components (Fortran order).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

__all__ = ["Runs", "filled", "find_runs", "gaussian", "mean_square", "median", "noise", "smoothed", "true_runs"]


def true_runs(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First and past-the-last index of each run of true. Shape (n,) -> two of shape (runs,)."""
    framed = np.zeros(len(mask) + 2, bool)
    framed[1:-1] = mask
    edges = (framed[1:] != framed[:-1]).nonzero()[0]
    return edges[::2], edges[1::2]


@dataclass(frozen=True)
class Runs:
    """Bit-identical frames of some components."""

    longest: np.ndarray
    """Frames that repeat the one before, in the longest run. Shape (components,)."""
    first: np.ndarray
    """Its first frame. Shape (components,)."""
    before: np.ndarray | None
    """Of every step, how many repeats precede it. Shape (frames - 1, components); None: nothing ever repeats."""
    changes: np.ndarray
    """Share of the steps that are none. Shape (components,)."""
    whole: np.ndarray
    """Steps in which no component changes. Shape (frames - 1,)."""

    def of(self, places: Sequence[int]) -> Runs:
        """Of some of the components; ``whole`` stays that of all."""
        if list(places) == list(range(len(self.longest))):
            return self
        chosen = np.asarray(places)
        changes = self.changes[chosen]
        before = None if self.before is None or changes.min() == 1.0 else self.before[:, chosen]
        return Runs(self.longest[chosen], self.first[chosen], before, changes, self.whole)


def find_runs(values: np.ndarray) -> Runs:
    """Look at every component. Shape (frames, components); NaN equals nothing."""
    same = values[1:] == values[:-1]
    components = values.shape[1]
    longest, first, changes = np.zeros(components, np.int32), np.zeros(components, np.int32), np.ones(components)
    some = same.any(axis=0).nonzero()[0]  # a component with noise never repeats
    if not len(some):
        return Runs(longest, first, None, changes, np.zeros(len(same), bool))
    repeated = same[:, some]
    changes[some] -= repeated.sum(axis=0) / len(same)
    place = np.arange(len(same), dtype=np.int32)[:, None]
    repeats = place - np.maximum.accumulate(np.where(repeated, np.int32(-1), place), axis=0)
    end = repeats.argmax(axis=0)
    longest[some] = repeats[end, np.arange(len(some))]
    first[some] = end + 1 - longest[some]
    before = np.zeros(same.shape, np.int32)
    before[1:, some] = repeats[:-1]
    whole = same.all(axis=1) if len(some) == components else np.zeros(len(same), bool)
    return Runs(longest, first, before, changes, whole)


@lru_cache
def gaussian(sigma_frames: float) -> np.ndarray:
    """Kernel of a Gaussian low-pass, its sum 1. Shape (odd,)."""
    reach = max(1, int(np.ceil(3 * sigma_frames)))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / max(sigma_frames, 1e-6)) ** 2)
    kernel /= kernel.sum()
    kernel.setflags(write=False)
    return kernel


def smoothed(values: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Low-pass along time with a symmetric kernel of odd length, edges held. Shape (frames, components).

    As ``scipy.ndimage.correlate1d``, which takes two to three times as long and half a second to load in each task's process.
    """
    frames, components = values.shape
    reach = len(kernel) // 2
    # One component after the other, each with its edges: one convolution does all of them.
    padded = np.empty((components, frames + 2 * reach))
    padded[:, reach : reach + frames] = values.T
    padded[:, :reach] = values[0][:, None]
    padded[:, reach + frames :] = values[-1][:, None]
    result = np.empty_like(padded)
    result.reshape(-1)[: padded.size - 2 * reach] = np.convolve(padded.reshape(-1), kernel, mode="valid")
    return result[:, :frames].T


def noise(values: np.ndarray) -> np.ndarray:
    """Standard deviation of white noise on each component: 1.4826 · median |fourth difference| / √70. Shape (frames, n) -> (n,).

    A smooth motion has a fourth difference near 0 (a second one would still hold its acceleration), and the median does not see the few
    large ones.
    """
    if len(values) < 5:
        return np.zeros(values.shape[1])
    fourth = values
    for _ in range(4):
        fourth = fourth[1:] - fourth[:-1]
    np.abs(fourth, out=fourth)
    middle = len(fourth) // 2
    fourth.partition(middle, axis=0)
    return 1.4826 * fourth[middle] / np.sqrt(70.0)


def mean_square(values: np.ndarray) -> np.ndarray:
    """Of each component. Shape (frames, n) -> (n,)."""
    result: np.ndarray = np.einsum("ij,ij->j", values, values)
    return result / max(1, len(values))


def median(values: np.ndarray) -> np.ndarray:
    """Along time, as ``np.median`` without its care for NaN, which takes more than half of it. Shape (frames, ...) -> (...)."""
    middle = len(values) // 2
    if len(values) % 2:
        result: np.ndarray = np.partition(values, middle, axis=0)[middle]
        return result
    ordered = np.partition(values, (middle - 1, middle), axis=0)
    return (ordered[middle - 1] + ordered[middle]) / 2


def filled(values: np.ndarray) -> np.ndarray:
    """What is not finite, interpolated along time; a component without any finite value becomes 0. Shape (frames, n)."""
    finite = np.isfinite(values)
    if finite.all():
        return values
    result, frames = values.copy(), np.arange(len(values))
    for place in np.flatnonzero(~finite.all(axis=0)):
        good = finite[:, place]
        result[:, place] = np.interp(frames, frames[good], values[good, place]) if good.any() else 0.0
    return result
