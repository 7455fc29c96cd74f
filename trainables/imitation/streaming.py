"""Frames on their way from files to workers: Ray Data tasks read whole episodes, a worker makes buffers of them to draw batches from.

A block is a table of frames of whole episodes, in order. Streamed, a buffer is filled by a thread while the one before it is trained
on, so a worker holds at most two of them and what Ray Data has read ahead. Pieces of files come in another order each epoch; within
a buffer, batches are drawn at random.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.lerobot.errors import DatasetError
from cluster.lerobot.features import Feature, to_numpy
from cluster.lerobot.folder import files_of
from cluster.lerobot.info import load_info
from trainables.envs.robot_task import ActionScaling
from trainables.imitation.frames import INDEX_COLUMNS, Frames

if TYPE_CHECKING:
    import ray.data

__all__ = ["buffers", "frame_tables", "frames_of_table", "gathered", "read_ahead"]

PIECE_BYTES = 32 * 2**20
"""About how much of a file one task reads, encoded: enough to be worth a task, little enough to give every core some."""


@dataclass(frozen=True)
class _Piece:
    """Whole episodes of one file."""

    file: Path
    episodes: dict[int, int]
    """Length by episode."""


def frame_tables(
    path: Path, episodes: Sequence[int], columns: Sequence[str], shuffle: bool = False, first_episode: int = 0
) -> ray.data.Dataset:
    """Blocks of whole episodes with ``columns`` and the index columns.

    Args:
        path: LeRobot folder, visible to every node.
        episodes: which to read.
        columns: features to read.
        shuffle: pieces come in another order every time that it is read, for training.
        first_episode: what episode 0 is called in the result.
    """
    import ray.data

    from trainables.datasets.lerobot import quiet_ray_data

    quiet_ray_data()
    pieces = _pieces(path, episodes)
    names = list(dict.fromkeys((*columns, *INDEX_COLUMNS)))

    def read(batch: pa.Table) -> Iterator[pa.Table]:
        for number in batch["piece"].to_pylist():
            yield _read(pieces[number], names, first_episode)

    rows = ray.data.from_items([{"piece": number} for number in range(len(pieces))], override_num_blocks=max(1, len(pieces)))
    return (rows.randomize_block_order() if shuffle else rows).map_batches(read, batch_format="pyarrow", batch_size=1, num_cpus=1)


def frames_of_table(
    table: pa.Table, features: Mapping[str, Feature], scaling: ActionScaling, sides: tuple[Sequence[str], Sequence[str]]
) -> Frames:
    """A block as frames. ``sides``: features that make the observation, and the action."""
    episode, index = (table[name].to_numpy() for name in INDEX_COLUMNS)
    observation, action = (
        np.concatenate([to_numpy(table[name], features[name]).reshape(len(table), -1) for name in side], axis=1)
        if len(side) > 1
        else to_numpy(table[side[0]], features[side[0]]).reshape(len(table), -1)
        for side in sides
    )
    target = scaling.to_normalised(action).astype(np.float32, copy=False)
    return Frames(observation.astype(np.float32, copy=False), target, episode, index)


def gathered(blocks: Iterable[Frames]) -> Frames:
    """All blocks in memory, by episode and time, in whatever order they arrive: each holds whole episodes."""
    return _joined(sorted(blocks, key=lambda block: int(block.episode[0])))


def buffers(blocks: Iterable[Frames], least_frames: int) -> Iterator[Frames]:
    """Blocks put together until a buffer holds ``least_frames``; the last may hold fewer."""
    waiting: list[Frames] = []
    held = 0
    for block in blocks:
        waiting.append(block)
        held += len(block)
        if held >= least_frames:
            yield _joined(waiting)
            waiting, held = [], 0
    if held:
        yield _joined(waiting)


def _joined(parts: Sequence[Frames]) -> Frames:
    if len(parts) == 1:
        return parts[0]
    return Frames(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("observation", "target", "episode", "index")))


def read_ahead(make: Callable[[], Iterator[Any]]) -> Iterator[Any]:
    """One item ahead of whoever takes them, in a thread of its own; what it raises is raised here."""
    ready: queue.Queue[tuple[str, Any]] = queue.Queue(maxsize=1)
    stopped = threading.Event()

    def put(kind: str, value: Any) -> bool:
        while not stopped.is_set():
            try:
                ready.put((kind, value), timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def fill() -> None:
        try:
            for item in make():
                if not put("item", item):
                    return
            put("end", None)
        except BaseException as error:  # carried to the thread that takes
            put("error", error)

    thread = threading.Thread(target=fill, name="read-ahead", daemon=True)
    thread.start()
    try:
        while True:
            kind, value = ready.get()
            if kind == "end":
                return
            if kind == "error":
                raise value
            yield value
    finally:
        stopped.set()
        thread.join()


def _pieces(path: Path, episodes: Sequence[int]) -> list[_Piece]:
    info = load_info(path)
    pieces: list[_Piece] = []
    for file, own in files_of(info.select(episodes=episodes)).items():
        parts = max(1, min(len(own), file.stat().st_size // PIECE_BYTES))
        split = np.array_split(np.arange(len(own)), parts)
        pieces += [_Piece(file, {own[place].index: own[place].length for place in part}) for part in split]
    return pieces


def _read(piece: _Piece, names: list[str], first_episode: int) -> pa.Table:
    """The frames of a piece by episode and time. Raises ``DatasetError`` when some are missing."""
    first, last = min(piece.episodes), max(piece.episodes)
    try:
        with pq.ParquetFile(piece.file) as parquet:
            if absent := [name for name in names if name not in parquet.schema_arrow.names]:
                raise DatasetError(f"{piece.file}: the column {absent[0]!r} is missing")
            groups = [n for n in range(parquet.num_row_groups) if _may_hold(parquet.metadata.row_group(n), first, last)]
            table = parquet.read_row_groups(groups, columns=names, use_threads=False).replace_schema_metadata(None)
    except (OSError, ValueError) as error:
        raise DatasetError(f"{piece.file}: not readable parquet: {' '.join(str(error).split())[:160]}") from None
    episode, index = (table[name].to_numpy() for name in INDEX_COLUMNS)
    wanted = np.isin(episode, np.fromiter(piece.episodes, dtype=np.int64))
    if not wanted.all():
        table, episode, index = table.filter(pa.array(wanted)), episode[wanted], index[wanted]
    found = dict(zip(*(part.tolist() for part in np.unique(episode, return_counts=True)), strict=True))
    for number, length in piece.episodes.items():
        if found.get(number, 0) != length:
            raise DatasetError(f"{piece.file}: episode {number} has {found.get(number, 0)} frames of the {length} that the metadata name")
    step = np.diff(episode)
    if not ((step > 0) | ((step == 0) & (np.diff(index) > 0))).all():
        order = np.lexsort((index, episode))
        table, episode = table.take(pa.array(order)), episode[order]
    if first_episode:
        table = table.set_column(table.column_names.index("episode_index"), "episode_index", pa.array(episode + first_episode))
    return table.combine_chunks()


def _may_hold(group: pq.RowGroupMetaData, first: int, last: int) -> bool:
    for place in range(group.num_columns):
        column = group.column(place)
        if column.path_in_schema == "episode_index":
            statistics = column.statistics
            return statistics is None or not statistics.has_min_max or (statistics.max >= first and statistics.min <= last)
    return True
