"""What several steps do to an episode's columns: choose frames, keep the clock, keep the end's flags at the end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from cluster.lerobot.episodes import Episode
from cluster.lerobot.videos import VideoClip

__all__ = ["choose_frames", "mark_end", "with_clock"]


def choose_frames(episode: Episode, start: int, stop: int, fps: float) -> Episode:
    """Frames ``start`` up to but not including ``stop``, with the clips of its videos cut alike and the clock at 0 again."""
    columns = {name: np.asarray(values)[start:stop] for name, values in episode.columns.items()}
    videos = {
        name: VideoClip(clip.file, clip.from_timestamp_s + start / fps, clip.from_timestamp_s + stop / fps)
        for name, clip in episode.videos.items()
    }
    return with_clock(replace(episode, columns=columns, videos=videos), fps)


def with_clock(episode: Episode, fps: float) -> Episode:
    """Timestamps on the frame clock and frames numbered from 0, where the episode carries them."""
    clock: dict[str, np.ndarray] = {}
    for name, dtype, values in (
        ("timestamp", np.float32, np.arange(episode.length) / fps),
        ("frame_index", np.int64, np.arange(episode.length)),
    ):
        if name in episode.columns:
            clock[name] = values.astype(dtype)
    return replace(episode, columns=_merged(episode.columns, clock)) if clock else episode


def mark_end(original: Episode, changed: Episode) -> Episode:
    """``next.done`` and other flags of the last frame: on the last frame alone, if the original had them there alone."""
    flags: dict[str, np.ndarray] = {}
    for name, values in original.columns.items():
        values = np.asarray(values)
        if not name.startswith("next.") or values.dtype != bool or values.ndim != 1 or not values[-1] or values[:-1].any():
            continue
        flags[name] = np.arange(changed.length) == changed.length - 1
    return replace(changed, columns=_merged(changed.columns, flags)) if flags else changed


def _merged(columns: Mapping[str, np.ndarray], new: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: new.get(name, values) for name, values in columns.items()}
