"""Send what libraries print to a file, at the level of file descriptors: C++ and child processes print there too."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TextIO

__all__ = ["captured_output", "terminal_stream"]


def terminal_stream() -> TextIO:
    """A stream on a copy of the present standard error, unaffected by ``captured_output``."""
    return io.TextIOWrapper(os.fdopen(os.dup(2), "wb", buffering=0), encoding="utf-8", errors="replace", write_through=True)


@contextmanager
def captured_output(log: Path) -> Iterator[None]:
    """Append standard output and standard error of this process and its new children to ``log``."""
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.dup2(file, 1)
        os.dup2(file, 2)
        # Where sys.stdout is not descriptor 1 (a notebook, pytest), it has to be led there too. A logging handler may keep these
        # streams for ever, so they are never closed and follow whatever the descriptors are.
        with redirect_stdout(_stream(1)), redirect_stderr(_stream(2)):
            yield
    finally:
        os.dup2(saved[0], 1)
        os.dup2(saved[1], 2)
        for descriptor in (*saved, file):
            os.close(descriptor)


def _stream(descriptor: int) -> TextIO:
    return open(descriptor, "w", encoding="utf-8", errors="replace", buffering=1, closefd=False)
