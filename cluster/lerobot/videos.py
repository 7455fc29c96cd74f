"""Videos of a dataset: files that are passed on as they are, and where in them each episode's clip is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["VideoClip", "clips_from_json", "clips_to_json"]


@dataclass(frozen=True)
class VideoClip:
    """The part of a video file that belongs to one episode. The file may be missing; all else works without it."""

    file: Path
    from_timestamp_s: float
    to_timestamp_s: float


def clips_to_json(videos: Mapping[str, VideoClip]) -> dict[str, list[Any]]:
    """For the way between processes."""
    return {key: [str(clip.file), clip.from_timestamp_s, clip.to_timestamp_s] for key, clip in videos.items()}


def clips_from_json(videos: Mapping[str, Any]) -> dict[str, VideoClip]:
    """The reverse."""
    return {key: VideoClip(Path(file), start, end) for key, (file, start, end) in videos.items()}
