"""Parquet files that somebody else may have written: opened with errors that name the file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq

from cluster.lerobot.errors import DatasetError

__all__ = ["groups_with", "open_parquet"]


@contextmanager
def open_parquet(file: Path, columns: Sequence[str] = (), where: str = "") -> Iterator[pq.ParquetFile]:
    """Open a file that must have ``columns``, to read within the block.

    Args:
        file: the file.
        columns: names that it must have.
        where: said after the file, such as ``episode 3``.

    Raises:
        DatasetError: it, or what is read of it within the block, is not readable, or a column is missing.
    """
    place = f"{file}: {where}: " if where else f"{file}: "
    try:
        with pq.ParquetFile(file) as parquet:
            present = parquet.schema_arrow.names
            if absent := [name for name in columns if name not in present]:
                raise DatasetError(f"{place}the column {absent[0]!r} is missing (columns: {', '.join(present)})")
            yield parquet
    except FileNotFoundError:
        raise DatasetError(f"{place}is missing") from None
    except (OSError, ValueError) as error:
        raise DatasetError(f"{place}not readable parquet: {' '.join(str(error).split())[:160]}") from None


def groups_with(parquet: pq.ParquetFile, first: int, last: int) -> list[int]:
    """The row groups that may hold frames of the episodes ``first`` to ``last``, by their statistics where they have some."""
    metadata = parquet.metadata
    numbers = range(metadata.num_row_groups)
    place = next((place for place in range(metadata.num_columns) if metadata.schema.column(place).path == "episode_index"), None)
    if place is None:
        return list(numbers)
    return [number for number in numbers if _may_hold(metadata.row_group(number).column(place).statistics, first, last)]


def _may_hold(statistics: pq.Statistics | None, first: int, last: int) -> bool:
    return statistics is None or not statistics.has_min_max or (statistics.max >= first and statistics.min <= last)
