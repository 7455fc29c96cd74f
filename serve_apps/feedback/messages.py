"""What goes through the pipe to the writer: one msgpack frame an episode, each behind its length. Nothing is ever unpickled.

Back come lines of JSON: ``{"done": [number, ...], "episodes": n, "bytes": n}`` for a dataset that is there, ``{"done": [...], "problem":
"..."}`` for episodes that could not be written.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

from cluster.wire.frames import pack, unpack

__all__ = ["FrameReader", "encode"]

_LENGTH = struct.Struct("<Q")


def encode(message: dict[str, Any]) -> bytes:
    """One frame."""
    body = pack(message)
    return _LENGTH.pack(len(body)) + body


class FrameReader:
    """Puts frames together from whatever pieces a pipe gives."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, piece: bytes) -> Iterator[dict[str, Any]]:
        """The messages that are complete with ``piece``; the rest of an unfinished one stays."""
        self._buffer += piece
        while len(self._buffer) >= _LENGTH.size:
            (size,) = _LENGTH.unpack_from(self._buffer)
            end = _LENGTH.size + size
            if len(self._buffer) < end:
                return
            body = bytes(memoryview(self._buffer)[_LENGTH.size : end])
            del self._buffer[:end]
            yield unpack(body)
