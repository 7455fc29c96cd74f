"""Irregular topics on a regular frame clock: the last value before a frame, the nearest, or one on the line between two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cluster.lerobot.errors import DatasetError
from trainables.datasets.sources.mapping import FieldMapping

__all__ = ["Track", "aligned", "frame_times_ns"]

NANOSECONDS = 10**9


@dataclass(frozen=True)
class Track:
    """Messages of one feature in the order of their times."""

    times_ns: np.ndarray
    """Increasing. Shape (messages,), int64."""
    values: np.ndarray
    """Shape (messages, components), or (messages,) of encoded images."""

    @classmethod
    def of(cls, times_ns: Sequence[int], values: Sequence[np.ndarray | bytes]) -> Track:
        """Sorted; of several messages at one time the last counts."""
        times = np.asarray(times_ns, np.int64)
        order = np.argsort(times, kind="stable")
        last = np.append(np.diff(times[order]) > 0, True)
        chosen = order[last]
        if values and isinstance(values[0], bytes):
            table: np.ndarray = np.empty(len(chosen), dtype=object)
            table[:] = [values[index] for index in chosen]
        else:
            table = np.stack([np.asarray(values[index]) for index in chosen])
        return cls(times[chosen], table)

    def check(self, mapping: FieldMapping, fps: int, where: str) -> None:
        """Raise ``DatasetError``, beginning with ``where``, for a topic that is slower than the frames."""
        intervals_s = np.diff(self.times_ns) / NANOSECONDS
        if len(intervals_s) < 2:
            return
        rate_hz, slowest = 1.0 / float(np.median(intervals_s)), mapping.slowest_rate_hz(fps)
        if rate_hz < slowest:
            raise DatasetError(
                f"{where}: {mapping.topic} has {rate_hz:.4g} messages a second (median), {slowest:.4g} are wanted for {fps} frames; "
                "choose a lower fps, align: hold, or min_rate_hz"
            )


def frame_times_ns(tracks: Sequence[tuple[FieldMapping, Track]], fps: int) -> np.ndarray:
    """Times of the frames: from when every topic has spoken until the first of those that are not held falls silent.

    Shape (frames,); empty where the topics do not overlap.
    """
    start = max(int(track.times_ns[0]) for _, track in tracks)
    ends = [int(track.times_ns[-1]) for mapping, track in tracks if mapping.align != "hold"]
    end = min(ends) if ends else max(int(track.times_ns[-1]) for _, track in tracks)
    if end < start:
        return np.zeros(0, np.int64)
    # A tenth of a frame: a last message that came a little early still makes a frame.
    count = int((end - start) * fps / NANOSECONDS + 0.1) + 1
    return start + np.round(np.arange(count) * (NANOSECONDS / fps)).astype(np.int64)


def aligned(track: Track, mapping: FieldMapping, times_ns: np.ndarray, where: str) -> np.ndarray:
    """Values at the frames. Shape (frames, components) in the mapping's element type, or (frames,) of encoded images.

    Raises:
        DatasetError: beginning with ``where``: at some frame the message that counts is further away than allowed.
    """
    after = np.searchsorted(track.times_ns, times_ns, side="right")
    low = np.clip(after - 1, 0, len(track.times_ns) - 1)
    high = np.minimum(after, len(track.times_ns) - 1)
    to_low, to_high = np.abs(times_ns - track.times_ns[low]), np.abs(track.times_ns[high] - times_ns)
    _check_age(to_low if mapping.align == "hold" else np.minimum(to_low, to_high), mapping, where)
    if mapping.align == "hold":
        chosen = track.values[low]
    else:
        if mapping.align == "linear":
            span = track.times_ns[high] - track.times_ns[low]
            share = np.divide(times_ns - track.times_ns[low], span, out=np.zeros(len(times_ns)), where=span > 0)
            share = np.clip(share, 0.0, 1.0)[:, None]
            below, above = track.values[low].astype(np.float64), track.values[high].astype(np.float64)
            # Where a frame falls on a message its value is taken as it is: the other may be NaN.
            chosen = np.where(share == 0, below, np.where(share == 1, above, below + share * (above - below)))
        else:
            chosen = track.values[np.where(to_high < to_low, high, low)]
    if mapping.dtype == "image":
        return chosen
    with np.errstate(over="ignore", invalid="ignore"):  # what does not fit becomes infinity, which whoever writes the dataset names
        return chosen.astype(mapping.dtype)


def _check_age(age_ns: np.ndarray, mapping: FieldMapping, where: str) -> None:
    frame = int(age_ns.argmax())
    age_s = age_ns[frame] / NANOSECONDS
    if age_s > mapping.max_age_s:
        raise DatasetError(
            f"{where}: {mapping.topic} is silent for {age_s:.3g} s at frame {frame} (max_age_s: {mapping.max_age_s:g}); "
            "split the episode there with episodes.gap_s, or allow more"
        )
