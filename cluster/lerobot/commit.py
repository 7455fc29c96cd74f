"""From shards to one LeRobot v3.0 folder that appears whole or not at all.

Everything is written beside the target under a hidden name and moved into place with one rename; a process that dies before that
leaves a hidden folder, which the next write to the same target removes.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.lerobot.digest import dataset_digest, with_videos
from cluster.lerobot.episodes_table import index_columns, starts
from cluster.lerobot.errors import DatasetError
from cluster.lerobot.features import INDEX_FEATURES, to_arrow, with_index_features
from cluster.lerobot.layout import CHUNKS_SIZE, DATA_PATH, INFO_PATH, VIDEO_PATH
from cluster.lerobot.metadata import DatasetSpec, flush, huggingface_schema, write_metadata
from cluster.lerobot.shards import ShardEpisode
from cluster.lerobot.split import complete_split, without_held_out_copies

__all__ = ["check_target", "clear_leftovers", "commit", "staging_folder"]


def check_target(path: Path, overwrite: bool) -> None:
    """Raise ``DatasetError`` unless ``path`` is free, or holds a dataset that may be replaced."""
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not (path / INFO_PATH).is_file():
        raise DatasetError(f"{path}: exists and is not a dataset; give another folder or remove it")
    if not overwrite:
        raise DatasetError(f"{path}: a dataset is there already; give another name or remove it")


def staging_folder(path: Path, parent: Path) -> Path:
    """A new name in ``parent`` for the shards of a dataset at ``path``; it tells which target they are for."""
    return parent / f"{_staging_prefix(path)}{uuid.uuid4().hex}"


def clear_leftovers(path: Path, staging_parent: Path) -> None:
    """Remove what killed writes to ``path`` left. One process at a time may write to one target."""
    leftovers = [*path.parent.glob(f".{path.name}.partial-*"), *path.parent.glob(f".{path.name}.replaced-*")]
    leftovers += staging_parent.glob(f"{_staging_prefix(path)}*")
    for leftover in leftovers:
        shutil.rmtree(leftover, ignore_errors=True)


def _staging_prefix(path: Path) -> str:
    # Many targets are called ``data`` and stage in one shared folder: the whole path tells them apart.
    return f".{path.name}.staging-{hashlib.sha256(str(path.absolute()).encode()).hexdigest()[:16]}-"


def commit(path: Path, staging: Path, episodes: Sequence[ShardEpisode], spec: DatasetSpec, overwrite: bool = False) -> str:
    """Number the episodes by their keys, write data files and metadata, and publish the folder. Returns the dataset's digest.

    Changed copies of episodes that are held out are left behind.

    Raises:
        DatasetError: there are no episodes, two have one key, or ``path`` is taken.
    """
    if not episodes:
        raise DatasetError(f"{path}: there are no episodes to write")
    everything = sorted(episodes, key=lambda episode: episode.key)
    sides = complete_split(everything, spec.validation_fraction, spec.seed)
    ordered = without_held_out_copies(everything, sides)
    split = {side: [index for index, episode in enumerate(ordered) if sides[episode.key] == side] for side in ("train", "validation")}
    for first, second in itertools.pairwise(ordered):
        if first.key == second.key:
            raise DatasetError(f"{path}: two episodes have the key {first.key!r}")
    check_target(path, overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.parent / f".{path.name}.partial-{uuid.uuid4().hex}"
    try:
        tasks = list(dict.fromkeys(episode.task for episode in ordered))
        places = _write_data(partial, staging, ordered, spec, tasks)
        videos = _copy_videos(partial, ordered)
        digest = dataset_digest(spec.fps, (with_videos(episode.digest, episode.videos) for episode in ordered))
        write_metadata(partial, ordered, places, videos, spec, tasks, split, digest)
        _publish(partial, path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return digest


class _DataFiles:
    """Data files in sequence; the next begins when the current one is large enough."""

    def __init__(self, folder: Path, schema: pa.Schema, limit_bytes: float) -> None:
        self._folder, self._schema, self._limit_bytes = folder, schema, limit_bytes
        self._number = -1
        self._file: BinaryIO | None = None
        self._writer: pq.ParquetWriter | None = None

    def write(self, table: pa.Table) -> tuple[int, int]:
        """Append one episode as one row group. Returns (chunk, file) in which it is."""
        if self._file is None or self._writer is None or self._file.tell() >= self._limit_bytes:
            self.close()
            self._number += 1
            chunk, place = divmod(self._number, CHUNKS_SIZE)
            path = self._folder / DATA_PATH.format(chunk_index=chunk, file_index=place)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("wb")
            self._writer = pq.ParquetWriter(self._file, self._schema, use_dictionary=False)
        self._writer.write_table(table, row_group_size=len(table))
        return divmod(self._number, CHUNKS_SIZE)

    def close(self) -> None:
        """Finish the current file and make it durable."""
        if self._file is not None and self._writer is not None:
            self._writer.close()
            flush(self._file)
            self._file.close()
            self._file = self._writer = None


def _write_data(
    folder: Path, staging: Path, episodes: Sequence[ShardEpisode], spec: DatasetSpec, tasks: list[str]
) -> list[tuple[int, int]]:
    """Copy every episode into the data files, with its index columns. Returns (chunk, file) of each episode."""
    features = with_index_features(spec.features)
    features = tuple(feature for feature in features if feature.is_column)
    schema = pa.schema([pa.field(feature.name, feature.arrow_type) for feature in features]).with_metadata(huggingface_schema(features))
    integers = {feature.name: feature for feature in INDEX_FEATURES}
    shards: dict[str, pq.ParquetFile] = {}
    places: list[tuple[int, int]] = []
    task_index = {task: number for number, task in enumerate(tasks)}
    files = _DataFiles(folder, schema, spec.data_file_mb * 2**20)
    try:
        for index, (start, episode) in enumerate(starts(episodes)):
            if episode.shard not in shards:
                shards[episode.shard] = pq.ParquetFile(staging / episode.shard)
            table = shards[episode.shard].read_row_group(episode.row_group)
            for name, values in index_columns(index, start, episode.length, task_index[episode.task]).items():
                table = table.append_column(name, to_arrow(values, integers[name]))
            places.append(files.write(table.select(schema.names).cast(schema)))
    finally:
        files.close()
        for shard in shards.values():
            shard.close()
    return places


def _copy_videos(folder: Path, episodes: Sequence[ShardEpisode]) -> dict[tuple[str, Path], tuple[int, int]]:
    """Copy the video files as they are, in the order in which the episodes name them. Returns (chunk, file) by feature and source.

    One that is missing keeps its place: the metadata go on naming it.
    """
    places: dict[tuple[str, Path], tuple[int, int]] = {}
    count: dict[str, int] = {}
    for episode in episodes:
        for key, clip in episode.videos.items():
            if (key, clip.file) in places:
                continue
            chunk, place = places[key, clip.file] = divmod(count.get(key, 0), CHUNKS_SIZE)
            count[key] = count.get(key, 0) + 1
            if clip.file.is_file():
                target = folder / VIDEO_PATH.format(video_key=key, chunk_index=chunk, file_index=place)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(clip.file, target)
                with target.open("rb") as file:
                    os.fsync(file.fileno())
    return places


def _publish(partial: Path, path: Path) -> None:
    """The one moment at which the dataset appears."""
    if path.exists():
        replaced = path.parent / f".{path.name}.replaced-{uuid.uuid4().hex}"
        os.rename(path, replaced)
        os.rename(partial, path)
        shutil.rmtree(replaced, ignore_errors=True)
    else:
        os.rename(partial, path)
