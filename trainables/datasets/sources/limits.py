"""Limits of what a file may ask of this process, and the checks that every format shares.

A file may declare far more than it holds (a decompression bomb), name files elsewhere, or end early. All of that is refused before
anything large is read, with a line that says the limit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import numpy as np

from cluster.lerobot.errors import DatasetError

__all__ = [
    "MAX_CHUNK_BYTES",
    "MAX_EPISODE_BYTES",
    "MAX_EXPANSION",
    "MIB",
    "SMALL_BYTES",
    "check_expansion",
    "check_not_empty",
    "check_rate",
    "one_line",
    "path_inside",
    "unreadable",
]

MIB = 2**20
SMALL_BYTES = 64 * MIB
"""Up to this size anything may be compressed as far as it goes: it does no harm."""
MAX_EXPANSION = 200
"""Above ``SMALL_BYTES`` data may be this many times as large as what is stored of them; recordings compress 2 to 20 times."""
MAX_CHUNK_BYTES = 256 * MIB
"""Largest compressed unit (HDF5 chunk, MCAP or bag chunk, message) after decompression; writers make them of about 1 MiB."""
MAX_EPISODE_BYTES = 4 * 1024 * MIB
"""Largest episode: one is in memory at a time."""
RATE_TOLERANCE = 0.1
"""A median interval this much off the frame rate is another frame rate."""


def check_not_empty(file: Path, what: str) -> None:
    """Raise ``DatasetError`` for a file that is absent or has no bytes. ``what``: name of the format, for the message."""
    try:
        size = file.stat().st_size
    except OSError as error:
        raise DatasetError(f"{file}: cannot be read: {error.strerror}") from None
    if size == 0:
        raise DatasetError(f"{file}: is empty; a file in the format {what} is wanted")


def check_expansion(where: str, declared_bytes: int, stored_bytes: int) -> None:
    """Raise ``DatasetError`` where compressed data declare more than a recording can have become by compression.

    Args:
        where: file and place in it, for the message.
        declared_bytes: size that the file says the data have.
        stored_bytes: what it holds of them.
    """
    if declared_bytes > SMALL_BYTES and declared_bytes > MAX_EXPANSION * stored_bytes:
        raise DatasetError(
            f"{where}: declares {declared_bytes / MIB:.0f} MiB but stores {stored_bytes / MIB:.3g} MiB; "
            f"above {SMALL_BYTES // MIB} MiB no more than {MAX_EXPANSION} times what is stored is read"
        )


def check_rate(where: str, timestamps_s: np.ndarray, fps: float) -> None:
    """Raise ``DatasetError`` where an episode's frames are at another rate than the dataset's.

    Args:
        where: file and episode, for the message.
        timestamps_s: of its frames. Shape (frames,).
        fps: frames a second of the dataset.
    """
    if len(timestamps_s) < 3:
        return
    interval_s = float(np.median(np.diff(timestamps_s.astype(np.float64))))
    if not abs(interval_s * fps - 1) <= RATE_TOLERANCE:
        found = f"{1 / interval_s:.4g}" if interval_s > 0 else "no"
        raise DatasetError(f"{where}: has {found} frames a second (median), the dataset {fps:g}; all episodes must have one rate")


def path_inside(folder: Path, name: str, file: Path) -> Path:
    """The file that ``name``, which stands in ``file``, means in ``folder``. Raises ``DatasetError`` where it would be elsewhere."""
    path = PurePosixPath(name)
    if not name or "\0" in name or path.is_absolute() or ".." in path.parts or "\\" in name:
        raise DatasetError(f"{file}: the path {name!r} leads out of {folder}; only files inside it are read")
    return folder / path


@contextmanager
def unreadable(file: Path, what: str, *errors: type[BaseException]) -> Iterator[None]:
    """Turn ``errors`` of a library into one ``DatasetError``: what is wrong with the file, and that it may be truncated."""
    try:
        yield
    except DatasetError:
        raise
    except (OSError, EOFError, *errors) as error:
        raise DatasetError(f"{file}: not readable {what} (truncated or damaged): {one_line(error)}") from None


def one_line(error: BaseException) -> str:
    """The message of an error as the end of a line of ours."""
    return " ".join(str(error).split())[:160] or type(error).__name__
