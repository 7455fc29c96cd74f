"""The members of an ``.npz`` file, read a few rows at a time: none is loaded whole, unpickled, or believed beyond what it stores."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy_format

from cluster.lerobot.errors import DatasetError
from trainables.datasets.sources.limits import (
    MAX_EPISODE_BYTES,
    MIB,
    SMALL_BYTES,
    check_expansion,
    check_not_empty,
    path_inside,
    unreadable,
)

__all__ = ["Member", "open_npz_file", "read_small"]

SUFFIX = ".npy"
BROKEN = (zipfile.BadZipFile, zlib.error, ValueError, KeyError, RuntimeError, SyntaxError)
"""What a file that is broken, encrypted or compressed in a way that ``zipfile`` does not know raises when it is read."""


@dataclass(frozen=True)
class Member:
    """One array of the file, by its header. Picklable: the file is opened again to read it."""

    file: Path
    name: str
    """As ``np.load`` has it, without ``.npy``."""
    shape: tuple[int, ...]
    dtype: np.dtype
    is_fortran: bool

    @property
    def row_bytes(self) -> int:
        """Of one row along the first axis."""
        return int(np.prod(self.shape[1:], dtype=object)) * self.dtype.itemsize

    @contextmanager
    def opened(self, archive: zipfile.ZipFile) -> Iterator[Rows]:
        """Its rows, from the first."""
        with archive.open(f"{self.name}{SUFFIX}") as stream:
            _header(stream)
            yield Rows(self, stream)


class Rows:
    """Reads the rows of a member in order."""

    def __init__(self, member: Member, stream: IO[bytes]) -> None:
        self._member, self._stream = member, stream
        self._whole: np.ndarray | None = None
        self._next = 0

    def read(self, count: int) -> np.ndarray:
        """The next ``count`` rows. Raises ``DatasetError`` where they are too large or not there."""
        member = self._member
        where = f"{member.file}: {member.name}"
        if member.is_fortran and len(member.shape) > 1:
            # Column after column: no row can be read without all of it.
            if self._whole is None:
                self._whole = self._numbers(int(np.prod(member.shape, dtype=object)), SMALL_BYTES, where).reshape(member.shape, order="F")
            rows = self._whole[self._next : self._next + count]
        else:
            total = count * int(np.prod(member.shape[1:], dtype=object))
            rows = self._numbers(total, MAX_EPISODE_BYTES, where).reshape(count, *member.shape[1:])
        self._next += count
        return rows

    def _numbers(self, count: int, limit_bytes: int, where: str) -> np.ndarray:
        wanted = count * self._member.dtype.itemsize
        if wanted > limit_bytes:
            raise DatasetError(
                f"{where}: {wanted / MIB:.0f} MiB would have to be in memory at once; up to {limit_bytes // MIB} MiB are read"
            )
        data = self._stream.read(wanted)
        if len(data) != wanted:
            raise DatasetError(f"{where}: ends {wanted - len(data)} bytes early (truncated)")
        return np.frombuffer(data, self._member.dtype)


@contextmanager
def open_npz_file(file: Path) -> Iterator[tuple[zipfile.ZipFile, dict[str, Member]]]:
    """The archive and its members, their headers read and checked; whatever is wrong with it is a ``DatasetError``."""
    check_not_empty(file, "npz")
    with unreadable(file, ".npz file", *BROKEN), zipfile.ZipFile(file) as archive:
        members: dict[str, Member] = {}
        for entry in archive.infolist():
            path_inside(file, entry.filename, file)
            if not entry.filename.endswith(SUFFIX):
                continue
            where = f"{file}: {entry.filename.removesuffix(SUFFIX)}"
            check_expansion(where, entry.file_size, entry.compress_size)
            with archive.open(entry) as stream:
                shape, is_fortran, dtype = _header(stream)
            if dtype.hasobject:
                raise DatasetError(f"{where}: holds pickled objects, which are never read")
            if any(length < 0 for length in shape):
                raise DatasetError(f"{where}: has the shape {shape} (damaged)")
            declared = int(np.prod(shape, dtype=object)) * dtype.itemsize
            if declared > entry.file_size:
                raise DatasetError(f"{where}: declares {declared:,} bytes and stores {entry.file_size:,} (truncated or damaged)")
            name = entry.filename.removesuffix(SUFFIX)
            members[name] = Member(file, name, shape, dtype, is_fortran)
        yield archive, members


def read_small(archive: zipfile.ZipFile, member: Member) -> np.ndarray:
    """All of a small array, such as the ends of the episodes. Raises ``DatasetError`` for a large one."""
    size = int(np.prod(member.shape, dtype=object)) * member.dtype.itemsize
    if size > SMALL_BYTES:
        raise DatasetError(f"{member.file}: {member.name} has {size / MIB:.0f} MiB; up to {SMALL_BYTES // MIB} MiB are wanted there")
    with archive.open(f"{member.name}{SUFFIX}") as stream:
        _header(stream)
        values = np.frombuffer(stream.read(size), member.dtype)
    return values.reshape(member.shape, order="F" if member.is_fortran else "C")


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = npy_format.read_magic(stream)
    read = npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
    shape, is_fortran, dtype = read(stream)
    return tuple(int(length) for length in shape), bool(is_fortran), dtype
