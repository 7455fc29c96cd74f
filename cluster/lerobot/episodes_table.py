"""The episodes' table of a LeRobot v3.0 folder: a row an episode with its place in the files and its statistics, written in batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.lerobot.features import Feature
from cluster.lerobot.layout import ABOUT, EPISODES_PATH
from cluster.lerobot.shards import ShardEpisode
from cluster.lerobot.statistics import Statistics

__all__ = ["index_columns", "starts", "write_episodes"]

BATCH = 1000
"""Episodes whose rows are in memory at a time: with all of them, 40,000 episodes of 62 numbers take more than a gigabyte."""


def write_episodes(
    folder: Path,
    episodes: Sequence[ShardEpisode],
    places: Sequence[tuple[int, int]],
    videos: Mapping[tuple[str, Path], tuple[int, int]],
    features: Sequence[Feature],
    tasks: Sequence[str],
) -> dict[str, dict[str, Any]]:
    """Write the table and return the statistics of all frames by feature, as ``stats.json`` has them.

    Args: see ``metadata.write_metadata``; ``features`` with those of every dataset.
    """
    measured = [feature for feature in features if not feature.is_visual]
    task_index = {task: number for number, task in enumerate(tasks)}
    types = _varying_types(episodes)
    path = folder / EPISODES_PATH.format(chunk_index=0, file_index=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    totals: list[dict[str, Statistics]] = []
    writer: pq.ParquetWriter | None = None
    rows: list[dict[str, Any]] = []
    statistics: list[dict[str, Statistics]] = []
    try:
        for index, (start, episode) in enumerate(starts(episodes)):
            derived = index_columns(index, start, episode.length, task_index[episode.task])
            own = episode.statistics | {name: Statistics.of(values) for name, values in derived.items()}
            statistics.append(own)
            rows.append(
                {
                    "episode_index": index,
                    "tasks": [episode.task],
                    "length": episode.length,
                    "data/chunk_index": places[index][0],
                    "data/file_index": places[index][1],
                    "dataset_from_index": start,
                    "dataset_to_index": start + episode.length,
                    **_video_columns(episode, videos),
                    **{f"stats/{feature.name}/{key}": value for feature in measured for key, value in own[feature.name].to_json().items()},
                    "meta/episodes/chunk_index": 0,
                    "meta/episodes/file_index": 0,
                    **{f"{ABOUT}{name}": value for name, value in episode.about.items()},
                }
            )
            if len(rows) == BATCH or index == len(episodes) - 1:
                # Episodes from several sources may know different things: a column of any is a column of all.
                names = list(dict.fromkeys([*rows[0], *types])) if writer is None else writer.schema.names
                known = types if writer is None else {name: writer.schema.field(name).type for name in names}
                table = pa.table({name: pa.array([row.get(name) for row in rows], known.get(name)) for name in names})
                writer = writer or pq.ParquetWriter(path, table.schema)
                writer.write_table(table)
                totals.append({feature.name: Statistics.combined([one[feature.name] for one in statistics]) for feature in measured})
                rows, statistics = [], []
    finally:
        if writer is not None:
            writer.close()
    return {feature.name: Statistics.combined([one[feature.name] for one in totals]).to_json() for feature in measured}


def _varying_types(episodes: Sequence[ShardEpisode]) -> dict[str, pa.DataType]:
    """Columns that not every episode need have, with the type that fits all of them."""
    about = dict.fromkeys(name for episode in episodes for name in episode.about)
    types = {f"{ABOUT}{name}": pa.array([episode.about.get(name) for episode in episodes]).type for name in about}
    for key in dict.fromkeys(key for episode in episodes for key in episode.videos):
        types |= {f"videos/{key}/{name}": pa.int64() for name in ("chunk_index", "file_index")}
        types |= {f"videos/{key}/{name}": pa.float64() for name in ("from_timestamp", "to_timestamp")}
    return types


def _video_columns(episode: ShardEpisode, places: Mapping[tuple[str, Path], tuple[int, int]]) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    for key, clip in episode.videos.items():
        chunk, file = places[key, clip.file]
        columns |= {
            f"videos/{key}/chunk_index": chunk,
            f"videos/{key}/file_index": file,
            f"videos/{key}/from_timestamp": float(clip.from_timestamp_s),
            f"videos/{key}/to_timestamp": float(clip.to_timestamp_s),
        }
    return columns


def index_columns(episode: int, start: int, length: int, task: int) -> dict[str, np.ndarray]:
    """The columns that follow from where an episode stands. ``start`` is its first frame's place in the dataset."""
    frame = np.arange(length)
    return {
        "frame_index": frame,
        "episode_index": np.full(length, episode),
        "index": start + frame,
        "task_index": np.full(length, task),
    }


def starts(episodes: Sequence[ShardEpisode]) -> Iterator[tuple[int, ShardEpisode]]:
    """Each episode with its first frame's place in the dataset."""
    start = 0
    for episode in episodes:
        yield start, episode
        start += episode.length
