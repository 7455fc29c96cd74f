"""An episode as messages in the order of time: what MCAP files and ROS 2 bags of ours have in common."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from cluster.lerobot.episodes import Episode
from trainables.datasets.messages import Channel, frame_times_ns
from trainables.datasets.sources.described import facts_of

__all__ = ["log_episode"]

PAUSE_NS = 10**9
"""Between two episodes, so that whoever looks at the recording sees them apart."""


def log_episode(
    episode: Episode, channels: Sequence[Channel], start_ns: int
) -> tuple[dict[str, Any], Iterator[tuple[str, int, bytes]], int]:
    """An episode's entry in the export's list, its messages (topic, time, CDR bytes) frame by frame, and where the next may start.

    The entry says ``facts``, ``start_ns`` and ``end_ns`` (the times of its first and its last message).
    """
    times = frame_times_ns(episode.columns["timestamp"], start_ns)
    entry = {"facts": facts_of(episode), "start_ns": int(times[0]), "end_ns": int(times[-1])}

    def messages() -> Iterator[tuple[str, int, bytes]]:
        for frame, time_ns in enumerate(times.tolist()):
            for channel in channels:
                yield channel.topic, time_ns, channel.serialise(episode.columns[channel.feature.name][frame], time_ns)

    return entry, messages(), int(times[-1]) + PAUSE_NS
