"""Runs: how long something stays the same, vectorised over components."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Runs", "filled", "find_runs", "noise", "smoothed", "true_runs"]


def true_runs(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First and past-the-last index of each run of true. Shape (n,) -> two of shape (runs,)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]])))
    return edges[::2], edges[1::2]


@dataclass(frozen=True)
class Runs:
    """Bit-identical frames of some components."""

    longest: np.ndarray
    """Frames that repeat the one before, in the longest run. Shape (components,)."""
    first: np.ndarray
    """Its first frame. Shape (components,)."""
    before: np.ndarray
    """Of every step, how many repeats precede it. Shape (frames - 1, components)."""
    changes: np.ndarray
    """Share of the steps that are none. Shape (components,)."""
    whole: np.ndarray
    """Steps in which no component changes. Shape (frames - 1,)."""

    def of(self, places: Sequence[int]) -> Runs:
        """Of some of the components; ``whole`` stays that of all."""
        chosen = list(places)
        return Runs(self.longest[chosen], self.first[chosen], self.before[:, chosen], self.changes[chosen], self.whole)


def find_runs(values: np.ndarray) -> Runs:
    """Look at every component. Shape (frames, components); NaN equals nothing."""
    same = values[1:] == values[:-1]
    count = same.sum(axis=0)
    longest, first = np.zeros(values.shape[1], np.int32), np.zeros(values.shape[1], np.int32)
    before = np.zeros(same.shape, np.int32)
    some = np.flatnonzero(count)  # a component with noise never repeats
    if len(some):
        repeated = same[:, some]
        place = np.arange(len(same), dtype=np.int32)[:, None]
        repeats = place - np.maximum.accumulate(np.where(repeated, np.int32(-1), place), axis=0)
        end = repeats.argmax(axis=0)
        longest[some] = np.take_along_axis(repeats, end[None], axis=0)[0]
        first[some] = end + 1 - longest[some]
        before[1:, some] = repeats[:-1]
    whole = same.all(axis=1) if len(some) == values.shape[1] else np.zeros(len(same), bool)
    return Runs(longest, first, before, 1.0 - count / max(1, len(same)), whole)


def smoothed(values: np.ndarray, sigma_frames: float) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian low-pass along time, edges held; also the kernel. Shape (frames, components)."""
    reach = max(1, int(np.ceil(3 * sigma_frames)))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / max(sigma_frames, 1e-6)) ** 2)
    kernel /= kernel.sum()
    padded = np.concatenate([np.repeat(values[:1], reach, axis=0), values, np.repeat(values[-1:], reach, axis=0)])
    return sum(weight * padded[shift : shift + len(values)] for shift, weight in enumerate(kernel)), kernel


def noise(values: np.ndarray) -> np.ndarray:
    """Standard deviation of white noise on each component: 1.4826 · median |fourth difference| / √70. Shape (frames, n) -> (n,).

    A smooth motion has a fourth difference near 0 (a second one would still hold its acceleration), and the median does not see the few
    large ones.
    """
    if len(values) < 5:
        return np.zeros(values.shape[1])
    fourth = np.abs(np.diff(values, n=4, axis=0))
    middle = len(fourth) // 2
    return 1.4826 * np.partition(fourth, middle, axis=0)[middle] / np.sqrt(70.0)


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
