"""LeRobot v3.0 folders as a whole: write episodes from one process, read frames into memory.

For more than one process and more than fits, ``trainables.datasets`` has both through Ray Data.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.lerobot.commit import check_target, clear_leftovers, commit, staging_folder
from cluster.lerobot.digest import dataset_digest, episode_digest, with_videos
from cluster.lerobot.episodes import Episode
from cluster.lerobot.errors import DatasetError
from cluster.lerobot.features import Feature, to_numpy, with_index_features
from cluster.lerobot.info import DatasetInfo, EpisodeInfo, load_info
from cluster.lerobot.metadata import DatasetSpec
from cluster.lerobot.parquet import groups_with, open_parquet
from cluster.lerobot.shards import write_shard

__all__ = ["compute_digest", "files_of", "load_frames", "write_dataset"]


def write_dataset(path: str | Path, episodes: Iterable[Episode], spec: DatasetSpec, overwrite: bool = False) -> DatasetInfo:
    """Write a dataset from this process alone; it appears whole or not at all.

    Raises:
        DatasetError: ``path`` is taken, there are no episodes, or one does not fit the features.
    """
    path = Path(path)
    check_target(path, overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    clear_leftovers(path, path.parent)
    staging = staging_folder(path, path.parent)
    try:
        written = write_shard(staging, episodes, with_index_features(spec.features), spec.fps)
        commit(path, staging, written, spec, overwrite)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return load_info(path)


def load_frames(
    path: str | Path, split: str | None = None, episodes: Sequence[int] | None = None, columns: Sequence[str] | None = None
) -> dict[str, np.ndarray]:
    """Frames in order, in memory.

    Args:
        path: dataset folder.
        split: only episodes of this split.
        episodes: only these episodes.
        columns: only these columns; None: all numeric ones.

    Returns:
        Column -> array. Shape (frames, *feature.shape), or (frames,) for a scalar.

    Raises:
        DatasetError: the folder is no readable dataset, or has no such split, episode or column.
    """
    info = load_info(path)
    names = info.check_columns(columns)
    chosen = info.select(split, episodes)
    order = ["episode_index", "frame_index"]
    tables = [
        _read_file(info, file, own, [*names, *(name for name in order if name not in names)]) for file, own in files_of(chosen).items()
    ]
    if not tables:
        return {name: np.zeros((0, *_frame_shape(info.features[name])), info.features[name].dtype) for name in names}
    table = pa.concat_tables(tables).sort_by([(name, "ascending") for name in order])
    return {name: to_numpy(table[name], info.features[name]) for name in names}


def compute_digest(path: str | Path) -> str:
    """Digest of what is in the files now; equal to the recorded one exactly when no value has changed."""
    info = load_info(path)
    digests = []
    for file, own in files_of(list(info.episodes)).items():
        stored = [name for name, feature in info.features.items() if feature.is_column]
        table = _read_file(info, file, own, stored)
        of_frame = table["episode_index"].to_numpy()
        for episode in own:
            rows = table.filter(pa.array(of_frame == episode.index)).sort_by("frame_index")
            columns = {name: to_numpy(rows[name], info.features[name]) for name in stored}
            digest = episode_digest(episode.tasks[0] if episode.tasks else "", columns)
            digests.append((episode.index, with_videos(digest, episode.videos)))
    return dataset_digest(info.fps, (digest for _, digest in sorted(digests)))


def files_of(episodes: Sequence[EpisodeInfo]) -> dict[Path, list[EpisodeInfo]]:
    """Data files that hold them, each with those that are in it."""
    files: dict[Path, list[EpisodeInfo]] = {}
    for episode in episodes:
        files.setdefault(episode.data_file, []).append(episode)
    return files


def _read_file(info: DatasetInfo, file: Path, episodes: Sequence[EpisodeInfo], columns: list[str]) -> pa.Table:
    wanted = [episode.index for episode in episodes]
    with open_parquet(file, columns) as parquet:
        table = parquet.read_row_groups(groups_with(parquet, min(wanted), max(wanted)), columns=columns)
    table = table.filter(pc.is_in(table["episode_index"], pa.array(wanted, table["episode_index"].type)))
    frames = sum(episode.length for episode in episodes)
    if len(table) != frames:
        raise DatasetError(f"{file}: holds {len(table)} frames of the {frames} that {info.path}'s episodes have")
    # Chunk and type differences between files do not matter to what is read.
    return table.replace_schema_metadata(None)


def _frame_shape(feature: Feature) -> tuple[int, ...]:
    return () if feature.shape == (1,) else feature.shape
