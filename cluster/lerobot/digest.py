"""The digest of a dataset: SHA-256 over its values, whatever files, shards or row groups hold them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np

from cluster.lerobot.videos import VideoClip

__all__ = ["dataset_digest", "episode_digest", "with_videos"]

# Follow from the order of the episodes, or count frames: not values of their own.
DERIVED = frozenset({"frame_index", "episode_index", "index", "task_index"})


def episode_digest(task: str, columns: Mapping[str, np.ndarray]) -> str:
    """Of one episode: its task, and the name, type, shape and values of each column, in the order of the names."""
    digest = hashlib.sha256(b"gaitway-episode-1\0")
    digest.update(json.dumps(task).encode())
    for name in sorted(set(columns) - DERIVED):
        values = np.ascontiguousarray(columns[name])
        if values.dtype == object:  # encoded images
            digest.update(json.dumps([name, "image", list(values.shape)]).encode())
            for image in values:
                digest.update(hashlib.sha256(image).digest())
            continue
        values = values.astype(values.dtype.newbyteorder("<"), copy=False)
        digest.update(json.dumps([name, values.dtype.str, list(values.shape)]).encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


def dataset_digest(fps: float, episodes: Iterable[str]) -> str:
    """Of a dataset: its frame rate and its episodes' digests, in episode order."""
    digest = hashlib.sha256(b"gaitway-dataset-1\0")
    digest.update(json.dumps(float(fps)).encode())
    for episode in episodes:
        digest.update(bytes.fromhex(episode))
    return digest.hexdigest()


def with_videos(episode: str, videos: Mapping[str, VideoClip]) -> str:
    """The digest of an episode that has videos: its values', and of each clip the file's content and where in it the clip is."""
    if not videos:
        return episode
    digest = hashlib.sha256(bytes.fromhex(episode))
    for key in sorted(videos):
        clip = videos[key]
        digest.update(json.dumps([key, _content(clip.file), float(clip.from_timestamp_s), float(clip.to_timestamp_s)]).encode())
    return digest.hexdigest()


def _content(file: Path) -> str:
    if not file.is_file():
        return "missing"
    status = file.stat()
    return _content_of(file, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4096)
def _content_of(file: Path, size: int, modified_ns: int) -> str:
    """Kept while size and time of change stay as they are: one file holds the clips of many episodes."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
