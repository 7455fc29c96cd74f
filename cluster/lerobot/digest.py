"""The digest of a dataset: SHA-256 over its values, whatever files, shards or row groups hold them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping

import numpy as np

__all__ = ["dataset_digest", "episode_digest"]

# Follow from the order of the episodes, or count frames: not values of their own.
DERIVED = frozenset({"frame_index", "episode_index", "index", "task_index"})


def episode_digest(task: str, columns: Mapping[str, np.ndarray]) -> str:
    """Of one episode: its task, and the name, type, shape and values of each column, in the order of the names."""
    digest = hashlib.sha256(b"gaitway-episode-1\0")
    digest.update(json.dumps(task).encode())
    for name in sorted(set(columns) - DERIVED):
        values = np.ascontiguousarray(columns[name])
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
