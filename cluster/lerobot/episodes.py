"""Episodes on their way into a dataset: one row of an Arrow table is one whole episode, so Ray Data can never cut one in two."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from cluster.lerobot.errors import DatasetError
from cluster.lerobot.features import Feature, to_arrow, to_numpy
from cluster.lerobot.videos import VideoClip, clips_from_json, clips_to_json

__all__ = ["Episode", "episodes_to_table", "table_to_episodes"]


@dataclass(frozen=True)
class Episode:
    """One recorded attempt."""

    key: str
    """Its place among the others: episodes are numbered in the order of their keys, however they arrive."""
    task: str
    """What was attempted; LeRobot's task string."""
    columns: Mapping[str, np.ndarray]
    """Frames of each feature. Shape (frames, *feature.shape), or (frames,) for a scalar; of an image, its encoded files as ``bytes``."""
    about: Mapping[str, str | float | int | bool | None] = field(default_factory=dict)
    """What else is known of it: columns of the episodes' metadata, the same for all episodes of a dataset. Not part of the
    digest."""
    videos: Mapping[str, VideoClip] = field(default_factory=dict)
    """Its clip of each video feature."""
    split: str = ""
    """``train`` or ``validation`` where that is settled; empty: to be drawn when the dataset is written."""
    origin: str = ""
    """Key of the episode that this one is a changed copy of; empty: it is no copy. A copy never stands on the other side of the split."""

    @property
    def length(self) -> int:
        """Number of frames."""
        return len(next(iter(self.columns.values())))

    def check(self, features: Sequence[Feature]) -> None:
        """Raise ``DatasetError`` unless each feature is there in its shape, equally long, and finite."""
        for feature in features:
            if not feature.is_column:
                continue
            if feature.name not in self.columns:
                raise DatasetError(f"episode {self.key}: the column {feature.name!r} is missing (columns: {', '.join(self.columns)})")
            values = np.asarray(self.columns[feature.name])
            wanted = (self.length,) if feature.shape == (1,) or feature.dtype == "image" else (self.length, *feature.shape)
            if values.shape != wanted:
                raise DatasetError(f"episode {self.key}: {feature.name} has shape {values.shape}, {wanted} is wanted")
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                frame = int(np.argwhere(~np.isfinite(values))[0][0])
                raise DatasetError(f"episode {self.key}: {feature.name} of frame {frame} holds NaN or infinity")
        if self.length < 1:
            raise DatasetError(f"episode {self.key}: has no frames")


def episodes_to_table(episodes: Sequence[Episode], features: Sequence[Feature]) -> pa.Table:
    """One row per episode: ``key``, ``task``, ``about`` and ``videos`` as JSON, ``split``, ``origin``, and its frames of each feature."""
    columns: dict[str, pa.Array] = {
        "key": pa.array([episode.key for episode in episodes], pa.string()),
        "task": pa.array([episode.task for episode in episodes], pa.string()),
        "about": pa.array([json.dumps(dict(episode.about)) for episode in episodes], pa.string()),
        "videos": pa.array([json.dumps(clips_to_json(episode.videos)) for episode in episodes], pa.string()),
        "split": pa.array([episode.split for episode in episodes], pa.string()),
        "origin": pa.array([episode.origin for episode in episodes], pa.string()),
    }
    offsets = pa.array(np.concatenate([[0], np.cumsum([episode.length for episode in episodes])]), pa.int32())
    for feature in _columns(features):
        frames = to_arrow(np.concatenate([episode.columns[feature.name] for episode in episodes] or [_no_frames(feature)]), feature)
        columns[feature.name] = pa.ListArray.from_arrays(offsets, frames)
    return pa.table(columns)


def table_to_episodes(table: pa.Table, features: Sequence[Feature]) -> Iterator[Episode]:
    """The reverse."""
    own = _columns(features)
    missing = [name for name in ("key", "task", *(feature.name for feature in own)) if name not in table.column_names]
    if missing:
        raise DatasetError(f"rows for a dataset must have the columns {', '.join(missing)} (they have: {', '.join(table.column_names)})")
    absent = {"about": "{}", "videos": "{}", "split": "", "origin": ""}
    said = {name: table[name].to_pylist() if name in table.column_names else [text] * len(table) for name, text in absent.items()}
    for row in range(len(table)):
        # One row's chunk, sliced: flattening it gives that episode's frames without a copy.
        frames = {feature.name: to_numpy(table[feature.name].slice(row, 1).combine_chunks().flatten(), feature) for feature in own}
        about, videos = json.loads(said["about"][row]), clips_from_json(json.loads(said["videos"][row]))
        key, task = table["key"][row].as_py(), table["task"][row].as_py()
        yield Episode(key, task, frames, about, videos, said["split"][row], said["origin"][row])


def _no_frames(feature: Feature) -> np.ndarray:
    return np.empty(0, object) if feature.dtype == "image" else np.empty((0, *feature.shape), feature.dtype)


def _columns(features: Sequence[Feature]) -> list[Feature]:
    return [feature for feature in features if feature.is_column]
