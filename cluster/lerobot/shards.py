"""Shards: what one write task leaves in the staging folder, one row group an episode, and what it reports about them."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.lerobot.digest import episode_digest
from cluster.lerobot.episodes import Episode
from cluster.lerobot.errors import DatasetError
from cluster.lerobot.features import INDEX_FEATURES, Feature, to_arrow
from cluster.lerobot.statistics import Statistics
from cluster.lerobot.videos import VideoClip

__all__ = ["ShardEpisode", "count_staged_episodes", "write_shard"]


@dataclass(frozen=True)
class ShardEpisode:
    """Where one episode waits, and all that the metadata say of it."""

    shard: str
    row_group: int
    key: str
    task: str
    length: int
    digest: str
    statistics: dict[str, Statistics]
    about: Mapping[str, Any] = field(default_factory=dict)
    videos: Mapping[str, VideoClip] = field(default_factory=dict)
    split: str = ""
    origin: str = ""


def write_shard(folder: Path, episodes: Iterable[Episode], features: Sequence[Feature], fps: int) -> list[ShardEpisode]:
    """Write whole episodes to one new file in ``folder`` under a name that no other task uses.

    Args:
        folder: the staging folder; must be visible to this process and to the one that commits.
        episodes: episodes with every one of ``features``; ``timestamp`` is filled in where it is absent.
        features: the dataset's own features and ``timestamp``.
        fps: frames a second.

    Raises:
        DatasetError: an episode does not fit the features.
    """
    derived = {feature.name for feature in INDEX_FEATURES} - {"timestamp"}
    features = [feature for feature in features if feature.is_column and feature.name not in derived]
    schema = pa.schema([pa.field(feature.name, feature.arrow_type) for feature in features])
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{uuid.uuid4().hex}.parquet"
    written: list[ShardEpisode] = []
    try:
        # Measured numbers hardly repeat: with dictionaries files are half as large again and take four times as long.
        with pq.ParquetWriter(temporary, schema, use_dictionary=False) as writer:
            for row_group, episode in enumerate(episodes):
                columns = dict(episode.columns)
                if "timestamp" not in columns:
                    columns["timestamp"] = (np.arange(episode.length) / fps).astype(np.float32)
                complete = replace(episode, columns=columns)
                complete.check(features)
                # The stored element types, so that the digest is of what a reader will see.
                columns = {feature.name: _stored(columns[feature.name], feature) for feature in features}
                table = pa.table([to_arrow(columns[feature.name], feature) for feature in features], schema=schema)
                writer.write_table(table, row_group_size=len(table))
                statistics = {feature.name: Statistics.of(columns[feature.name]) for feature in features if not feature.is_visual}
                written.append(
                    ShardEpisode(
                        "",
                        row_group,
                        episode.key,
                        episode.task,
                        episode.length,
                        episode_digest(episode.task, columns),
                        statistics,
                        episode.about,
                        episode.videos,
                        episode.split,
                        episode.origin,
                    )
                )
        # The number of episodes is in the name, so that whoever watches the folder can count them.
        name = f"shard-{uuid.uuid4().hex}-{len(written)}.parquet"
        temporary.rename(folder / name)
    finally:
        temporary.unlink(missing_ok=True)
    return [replace(part, shard=name) for part in written]


def _stored(values: np.ndarray, feature: Feature) -> np.ndarray:
    return np.asarray(values, dtype=object if feature.dtype == "image" else feature.dtype)


def count_staged_episodes(folder: Path) -> int:
    """Episodes in the finished shards of a staging folder, for progress."""
    try:
        return sum(int(path.stem.rsplit("-", 1)[1]) for path in folder.glob("shard-*.parquet"))
    except (OSError, ValueError, IndexError) as error:
        raise DatasetError(f"{folder}: cannot be counted: {error}") from None
