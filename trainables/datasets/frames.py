"""Frames of a LeRobot v3.0 folder as Ray Data blocks: each block holds whole episodes of one file, by episode and time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from cluster.lerobot.errors import DatasetError
from cluster.lerobot.info import DatasetInfo, load_info
from cluster.lerobot.parquet import groups_with, open_parquet
from trainables.datasets.pipeline import quiet_ray_data
from trainables.datasets.sources.base import Piece
from trainables.datasets.sources.lerobot import episode_pieces

if TYPE_CHECKING:
    import ray.data

__all__ = ["INDEX_COLUMNS", "frame_tables"]

INDEX_COLUMNS = ("episode_index", "frame_index")


def frame_tables(
    dataset: str | Path | DatasetInfo, episodes: Sequence[int], columns: Sequence[str], shuffle: bool = False, first_episode: int = 0
) -> ray.data.Dataset:
    """Blocks of whole episodes with ``columns`` and the index columns.

    Args:
        dataset: LeRobot folder, visible to every node.
        episodes: which to read.
        columns: features to read.
        shuffle: pieces come in another order every time that it is read, for training.
        first_episode: what episode 0 is called in the result.

    Raises:
        DatasetError: it is no readable dataset, or has no such episode. The tasks raise it for a file that is not as the metadata say.
    """
    import ray.data

    quiet_ray_data()
    chosen = (dataset if isinstance(dataset, DatasetInfo) else load_info(dataset)).select(episodes=episodes)
    lengths = {episode.index: episode.length for episode in chosen}
    pieces = episode_pieces(chosen)
    names = list(dict.fromkeys((*columns, *INDEX_COLUMNS)))

    def read(batch: pa.Table) -> Iterator[pa.Table]:
        for number in batch["piece"].to_pylist():
            yield _read(pieces[number], lengths, names, first_episode)

    # A block a piece, so that the order of the blocks is the order of the pieces.
    rows = ray.data.from_items([{"piece": number} for number in range(len(pieces))], override_num_blocks=max(1, len(pieces)))
    return (rows.randomize_block_order() if shuffle else rows).map_batches(read, batch_format="pyarrow", batch_size=1, num_cpus=1)


def _read(piece: Piece, lengths: Mapping[int, int], names: list[str], first_episode: int) -> pa.Table:
    """The frames of a piece by episode and time. Raises ``DatasetError`` when some are missing."""
    with open_parquet(piece.file, names) as parquet:
        groups = groups_with(parquet, min(piece.episodes), max(piece.episodes))
        table = parquet.read_row_groups(groups, columns=names, use_threads=False).replace_schema_metadata(None)
    episode, index = (table[name].to_numpy() for name in INDEX_COLUMNS)
    wanted = np.isin(episode, np.array(piece.episodes, dtype=np.int64))
    if not wanted.all():
        table, episode, index = table.filter(pa.array(wanted)), episode[wanted], index[wanted]
    found = dict(zip(*(part.tolist() for part in np.unique(episode, return_counts=True)), strict=True))
    for number in piece.episodes:
        if found.get(number, 0) != lengths[number]:
            raise DatasetError(
                f"{piece.file}: episode {number} has {found.get(number, 0)} frames of the {lengths[number]} that the metadata name"
            )
    step = np.diff(episode)
    if not ((step > 0) | ((step == 0) & (np.diff(index) > 0))).all():
        order = np.lexsort((index, episode))
        table, episode = table.take(pa.array(order)), episode[order]
    if first_episode:
        table = table.set_column(table.column_names.index("episode_index"), "episode_index", pa.array(episode + first_episode))
    return table.combine_chunks()
