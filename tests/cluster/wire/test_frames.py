"""Frames: what goes in comes out; what is no frame is refused in words, never with another exception."""

from __future__ import annotations

import contextlib

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.wire.frames import ACTION, OBSERVATION, STATE, FrameError, pack, read_compact, unpack, write_compact


def test_compact_frames_carry_numbers_and_state() -> None:
    numbers, state = np.arange(6, dtype=np.float32), np.array([0.5, -0.5], np.float32)
    frame = write_compact(OBSERVATION, 2**32 - 1, numbers, state, flags=STATE)
    assert len(frame) == 8 + 4 * 8
    sequence, read, read_state = read_compact(frame, OBSERVATION, 6, 2)
    assert sequence == 2**32 - 1
    np.testing.assert_array_equal(read, numbers)
    assert read_state is not None
    np.testing.assert_array_equal(read_state, state)
    sequence, read, read_state = read_compact(write_compact(ACTION, 0, numbers), ACTION, 6, 2)
    assert (sequence, read.shape, read_state) == (0, (6,), None)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (b"", "has 0 bytes, its header alone 8"),
        (write_compact(ACTION, 1, np.zeros(3, np.float32)), "of kind 2 with flags 0; kind 1"),
        (write_compact(OBSERVATION, 1, np.zeros(3, np.float32), flags=2), "flags 2"),
        (write_compact(OBSERVATION, 1, np.zeros(4, np.float32)), "has 24 bytes; 8 and 3 float32 make 20"),
        (write_compact(OBSERVATION, 1, np.zeros(3, np.float32), flags=STATE), "8 and 5 float32 and state make 28"),
    ],
)
def test_what_is_no_compact_frame_is_refused(frame: bytes, message: str) -> None:
    with pytest.raises(FrameError, match=message):
        read_compact(frame, OBSERVATION, 3, 2)


def test_maps_carry_arrays_as_openpi_packs_them() -> None:
    message = {"observation": {"a": np.arange(6, dtype=np.float64).reshape(2, 3), "b": np.float32(0.5)}, "sequence": 7, "text": "é"}
    packed = pack(message)
    raw = msgpack.unpackb(packed, strict_map_key=False)
    assert raw["observation"]["a"] == {
        b"__ndarray__": True,
        b"data": message["observation"]["a"].tobytes(),
        b"dtype": "<f8",
        b"shape": [2, 3],
    }
    read = unpack(packed)
    np.testing.assert_array_equal(read["observation"]["a"], message["observation"]["a"])
    assert (read["observation"]["b"], read["sequence"], read["text"]) == (0.5, 7, "é")


@pytest.mark.parametrize(
    "array",
    [
        {b"dtype": "|O", b"data": b"x" * 8, b"shape": [1]},
        {b"dtype": "<f4", b"data": b"x" * 8, b"shape": [3]},
        {b"dtype": "<f4", b"data": b"x" * 8, b"shape": [2**40, 2**40]},
        {b"dtype": "<f4", b"data": b"x" * 8, b"shape": [-1]},
        {b"dtype": "<f4", b"data": "text", b"shape": [2]},
        {b"dtype": "f4,f4", b"data": b"x" * 8, b"shape": [1]},
        {b"dtype": "<M8[s]", b"data": b"x" * 8, b"shape": [1]},
        {b"dtype": 3, b"data": b"", b"shape": [0]},
        {},
    ],
)
def test_arrays_that_are_not_of_numbers_are_refused(array: dict[bytes, object]) -> None:
    with pytest.raises(FrameError):
        unpack(msgpack.packb({"observation": {b"__ndarray__": True, **array}}))


def test_what_cannot_be_sent_is_named() -> None:
    with pytest.raises(TypeError, match="object cannot be sent"):
        pack({"x": object()})
    with pytest.raises(TypeError, match="ndarray cannot be sent"):
        pack({"x": np.array([object()])})


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(frame: bytes) -> None:
    for read, wanted in ((unpack, dict), (lambda data: read_compact(data, OBSERVATION, 3, 2), tuple)):
        with contextlib.suppress(FrameError):  # and nothing else
            assert isinstance(read(frame), wanted)
