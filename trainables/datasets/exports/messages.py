"""An episode as messages: one topic a feature, one message a frame, on a clock that runs through the whole export."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from cluster.lerobot.episodes import Episode
from trainables.datasets.sources.carriers import Carrier

__all__ = ["Clock", "frame_messages"]

NANOSECONDS = 10**9
GAP_NS = 10 * NANOSECONDS
"""Between episodes, so that readers who split at silences find them too."""
START_NS = NANOSECONDS


@dataclass
class Clock:
    """Log times: each episode's frames at its own timestamps, the episodes after one another."""

    fps: int
    next_ns: int = START_NS

    def times_ns(self, episode: Episode) -> np.ndarray:
        """Of the frames; increasing. Shape (frames,). The episode lasts until ``next_ns - GAP_NS``, which is set here."""
        offsets = np.round(episode.columns["timestamp"].astype(np.float64) * NANOSECONDS)
        # A file is read in the order of its times: where timestamps jump back, the frames are numbered through instead.
        if not np.isfinite(offsets).all() or abs(offsets).max() >= 2**53 or (np.diff(offsets) <= 0).any():
            offsets = np.arange(episode.length) * (NANOSECONDS / self.fps)
        times = self.next_ns + (offsets - offsets[0]).astype(np.int64)
        self.next_ns = int(times[-1]) + 1 + GAP_NS
        return times


def frame_messages(episode: Episode, carriers: Mapping[str, Carrier], times_ns: np.ndarray) -> Iterator[tuple[str, int, bytes]]:
    """(feature, time, message in CDR), frame by frame."""
    for frame, time_ns in enumerate(times_ns.tolist()):
        for name, carrier in carriers.items():
            yield name, time_ns, carrier.encode(episode.columns[name][frame], time_ns)
