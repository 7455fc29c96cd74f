"""Files that are compressed as a whole: a plain copy on the local disk for as long as somebody reads it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import zstandard

from trainables.datasets.sources.limits import check_expansion, check_not_empty, unreadable

__all__ = ["decompressed"]

PART_BYTES = 4096
"""Decompressed at a time. Four bytes can stand for a block of 128 KiB (RFC 8878), so a part becomes 128 MiB at most."""


@contextmanager
def decompressed(file: Path) -> Iterator[Path]:
    """The content of a zstd file, as a file in the temporary folder. Whoever has opened it there may read on after the block.

    Raises:
        DatasetError: it is damaged or truncated, has no room there, or becomes larger than a recording can by compression.
    """
    check_not_empty(file, "zstd")
    stored_bytes = file.stat().st_size
    with tempfile.TemporaryDirectory(prefix="gaitway-bag-") as folder:
        plain = Path(folder) / "plain"
        with unreadable(file, "zstd", zstandard.ZstdError), file.open("rb") as source, plain.open("wb") as target:
            # The module's streams end without a word where a file was cut; only this object knows whether its frame has ended.
            frame = zstandard.ZstdDecompressor().decompressobj()
            while part := source.read(PART_BYTES):
                while part:
                    if frame.eof:
                        frame = zstandard.ZstdDecompressor().decompressobj()
                    target.write(frame.decompress(part))
                    check_expansion(str(file), target.tell(), stored_bytes)
                    part = frame.unused_data
            if not frame.eof:
                raise EOFError("the file ends within its zstd frame")
        yield plain
