"""What a session carries: compact binary frames for the steps, msgpack maps with arrays for everything, JSON for people.

**Compact** (little-endian; a contract fixes every size, so nothing is named)::

    kind u8 | flags u8 | zero u16 | sequence u32 | float32 ... [float32 state ...]

``OBSERVATION`` (robot to server) carries the flat observation, ``ACTION`` (server to robot) the flat action. With the flag ``STATE``
the recurrent state follows, field after field: from the server always when the policy has one, from the robot when it hands it back
after a reconnect. The kinds are below 0x80, where no msgpack map begins.

**msgpack** maps hold arrays as openpi's client packs them: ``{b"__ndarray__": True, b"data": bytes, b"dtype": "<f4", b"shape": [n]}``.
Nothing here is ever unpickled; a ``dtype`` other than a plain number is refused.

**JSON** text frames hold the same maps with lists. What the server refuses, it answers with a JSON text frame whatever the form of
the question: the problem document, and the ``sequence`` that it is about.
"""

from __future__ import annotations

import math
import struct
from typing import Any

import msgpack
import numpy as np

__all__ = ["ACTION", "HEADER_BYTES", "OBSERVATION", "STATE", "FrameError", "pack", "read_compact", "unpack", "write_compact"]

OBSERVATION, ACTION = 1, 2
STATE = 0x01
"""Flag: the recurrent state follows."""
HEADER_BYTES = 8
_HEADER = struct.Struct("<BBHI")
_PLAIN_KINDS = "fiub"


class FrameError(ValueError):
    """A frame is not what it should be; the text says how."""


def write_compact(kind: int, sequence: int, *parts: np.ndarray, flags: int = 0) -> bytes:
    """One compact frame of ``parts``, float32 and C-contiguous, one after the other."""
    return b"".join((_HEADER.pack(kind, flags, 0, sequence), *(part.tobytes() for part in parts)))


def read_compact(frame: bytes, kind: int, size: int, state_size: int = 0) -> tuple[int, np.ndarray, np.ndarray | None]:
    """Sequence, numbers and state of a compact frame; views into it, read-only.

    Args:
        frame: what arrived.
        kind: what it must be.
        size: numbers that it must carry. Shape (size,).
        state_size: numbers of the recurrent state, which come with the flag only. Shape (state_size,).

    Raises:
        FrameError: it is another kind, or longer or shorter than its flags say.
    """
    if len(frame) < HEADER_BYTES:
        raise FrameError(f"the frame has {len(frame)} bytes, its header alone {HEADER_BYTES}")
    found, flags, _, sequence = _HEADER.unpack_from(frame)
    if found != kind or flags & ~STATE:
        raise FrameError(f"the frame is of kind {found} with flags {flags}; kind {kind} and flags 0 or {STATE} are wanted")
    total = size + (state_size if flags & STATE else 0)
    if len(frame) != HEADER_BYTES + 4 * total:
        with_state = " and state" if flags & STATE else ""
        raise FrameError(
            f"the frame has {len(frame)} bytes; {HEADER_BYTES} and {total} float32{with_state} make {HEADER_BYTES + 4 * total}"
        )
    values = np.frombuffer(frame, dtype="<f4", offset=HEADER_BYTES)
    return sequence, values[:size], values[size:] if flags & STATE else None


def pack(message: dict[str, Any]) -> bytes:
    """A map as msgpack, arrays included."""
    packed: bytes = msgpack.packb(message, default=_pack_array)
    return packed


def unpack(frame: bytes) -> dict[str, Any]:
    """The map in a msgpack frame. Raises ``FrameError``."""
    try:
        message = msgpack.unpackb(frame, object_hook=_unpack_array)
    except FrameError:
        raise
    except (ValueError, TypeError, RecursionError, msgpack.exceptions.UnpackException) as error:
        raise FrameError(f"not a msgpack frame: {str(error)[:120] or type(error).__name__}") from None
    if not isinstance(message, dict):
        raise FrameError(f"the frame holds a msgpack {type(message).__name__}; a map is wanted")
    return message


def _pack_array(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in _PLAIN_KINDS:
        if isinstance(value, np.ndarray):
            return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}
    raise TypeError(f"{type(value).__name__} cannot be sent; send numbers, text, lists, maps and arrays of numbers")


def _unpack_array(value: dict[Any, Any]) -> Any:
    if b"__ndarray__" in value:
        dtype, data, shape = _plain_dtype(value.get(b"dtype")), value.get(b"data"), value.get(b"shape")
        if not isinstance(data, bytes) or not isinstance(shape, list) or not all(type(axis) is int and axis >= 0 for axis in shape):
            raise FrameError("an array needs bytes in data, and whole numbers in shape")
        if len(shape) > 8 or math.prod(shape) * dtype.itemsize != len(data):
            raise FrameError(f"an array of shape {shape[:9]} and dtype {dtype.str} does not have {len(data)} bytes")
        return np.frombuffer(data, dtype=dtype).reshape(shape)
    if b"__npgeneric__" in value:
        item = value.get(b"data")
        if type(item) not in (int, float, bool):
            raise FrameError("a scalar needs a number in data")
        return item
    return value


def _plain_dtype(text: Any) -> np.dtype[Any]:
    try:
        dtype = np.dtype(text) if isinstance(text, str) and len(text) <= 8 else None
    except (TypeError, ValueError, SyntaxError):
        dtype = None
    if dtype is None or dtype.kind not in _PLAIN_KINDS or dtype.hasobject:
        raise FrameError(f"dtype {str(text)[:16]!r} is not one of numbers")
    return dtype
