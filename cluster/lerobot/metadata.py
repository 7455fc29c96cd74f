"""The metadata of a LeRobot v3.0 folder: info, statistics, tasks, episodes, and our own provenance beside them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import pandas as pd

from cluster.lerobot.episodes_table import write_episodes
from cluster.lerobot.errors import DatasetError
from cluster.lerobot.features import Feature, with_index_features
from cluster.lerobot.layout import (
    CHUNKS_SIZE,
    DATA_PATH,
    GAITWAY_PATH,
    INFO_PATH,
    STATS_PATH,
    TASKS_PATH,
    VERSION,
    VIDEO_PATH,
)
from cluster.lerobot.shards import ShardEpisode

__all__ = ["DatasetSpec", "flush", "huggingface_schema", "write_metadata"]


@dataclass(frozen=True)
class DatasetSpec:
    """What a dataset is, before it has episodes."""

    fps: int
    features: tuple[Feature, ...]
    """The dataset's own features; index columns are added."""
    robot_type: str
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Goes into ``meta/gaitway.json``: task, task_config, robot, lineage, ..."""
    validation_fraction: float = 0.0
    seed: int = 0
    """Of the split."""
    data_file_mb: float = 100.0
    """Size at which the next data file begins."""

    def __post_init__(self) -> None:
        if self.fps != int(self.fps) or self.fps < 1:
            raise DatasetError(f"a LeRobot dataset has a whole number of frames a second, given {self.fps}")
        if not 0 <= self.validation_fraction < 1:
            raise DatasetError(f"validation_fraction is {self.validation_fraction}; allowed: 0 up to 1")
        with_index_features(self.features)


def write_metadata(
    folder: Path,
    episodes: Sequence[ShardEpisode],
    places: Sequence[tuple[int, int]],
    videos: Mapping[tuple[str, Path], tuple[int, int]],
    spec: DatasetSpec,
    tasks: list[str],
    split: Mapping[str, list[int]],
    digest: str,
) -> None:
    """Write everything under ``meta/``.

    Args:
        folder: the dataset folder in the making; its data files are written already.
        episodes: in episode order.
        places: (chunk, file) of each episode's data.
        videos: (chunk, file) of each video feature's source file.
        spec: what the dataset is.
        tasks: task strings by task index.
        split: episode indices by side.
        digest: of the values.
    """
    features = with_index_features(spec.features)
    total = write_episodes(folder, episodes, places, videos, features, tasks)
    info = {
        "codebase_version": VERSION,
        "robot_type": spec.robot_type,
        "total_episodes": len(episodes),
        "total_frames": sum(episode.length for episode in episodes),
        "total_tasks": len(tasks),
        "chunks_size": CHUNKS_SIZE,
        "data_files_size_in_mb": max(1, round(spec.data_file_mb)),
        "video_files_size_in_mb": 200,
        "fps": int(spec.fps),
        "splits": {"train": f"0:{len(episodes)}"},
        "data_path": DATA_PATH,
        "video_path": VIDEO_PATH if any(feature.dtype == "video" for feature in features) else None,
        "features": {feature.name: feature.to_json() for feature in features},
    }
    gaitway = {
        "schema_version": 1,
        "digest": digest,
        "split": dict(split),
        "validation_fraction": spec.validation_fraction,
        "split_seed": spec.seed,
        **spec.provenance,
    }
    # LeRobot reads this one with pandas and looks tasks up by its index.
    pd.DataFrame({"task_index": range(len(tasks))}, index=pd.Index(tasks, name="task")).to_parquet(folder / TASKS_PATH)
    for name, content in ((INFO_PATH, info), (STATS_PATH, total), (GAITWAY_PATH, gaitway)):
        with (folder / name).open("w", encoding="utf-8") as file:
            json.dump(content, file, indent=4)
            file.write("\n")
            flush(file)


def huggingface_schema(features: Sequence[Feature]) -> dict[bytes, bytes]:
    """The schema metadata by which Hugging Face's ``datasets`` knows the column types."""
    described: dict[str, Any] = {}
    for feature in features:
        if feature.dtype == "image":
            described[feature.name] = {"_type": "Image"}
            continue
        entry: dict[str, Any] = {"dtype": feature.dtype, "_type": "Value"}
        if feature.shape != (1,):
            for length in reversed(feature.shape):
                entry = {"feature": entry, "length": length, "_type": "List"}
        described[feature.name] = entry
    return {b"huggingface": json.dumps({"info": {"features": described}}).encode()}


def flush(file: IO[Any]) -> None:
    """Make what was written durable before the folder is published."""
    file.flush()
    os.fsync(file.fileno())
