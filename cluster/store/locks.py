"""Locks between processes: a file that the kernel unlocks when its holder dies, however it dies."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.errors import StoreError

__all__ = ["exclusive_file_lock"]


@contextmanager
def exclusive_file_lock(path: Path) -> Iterator[None]:
    """Hold ``path`` locked for one process and thread; waits for whoever holds it. The file stays: removing it would race."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = path.open("a")
    except OSError as error:
        raise StoreError(
            f"{path}: cannot be locked: {error.strerror}; set GAITWAY_HOME and GAITWAY_STORAGE_PATH to writable folders"
        ) from None
    with handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
