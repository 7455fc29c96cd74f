"""What stays of an episode's frames: a digest, a MinHash by which near copies are found, a few states for the coverage."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

__all__ = ["BANDS", "ROWS", "content_digest", "min_hash", "near_copies", "sampled"]

BANDS, ROWS = 21, 3
"""Bands of the locality-sensitive hash: two episodes with half their frames in common meet in one with probability 0.94, with a tenth
in common with 0.02 (1 - (1 - J³)²¹; Broder 1997, Indyk and Motwani 1998)."""
STEPS_A_RANGE = 1000.0
"""Positions are rounded to this before frames are compared, so that a copy that was converted on its way is still one."""
_MIX = np.uint64(0x9E3779B97F4A7C15)
"""2⁶⁴ over the golden ratio, odd: carries every bit into the upper half (Knuth, The Art of Computer Programming 3, 6.4)."""
LARGEST_BUCKET = 32
"""Episodes of one bucket that are compared with each other; thousands of equal ones need no more."""


def content_digest(arrays: Sequence[np.ndarray]) -> bytes:
    """128 bits of the values of an episode."""
    digest = hashlib.sha256()
    for values in arrays:
        digest.update(f"{values.dtype.str}{values.shape}".encode())
        digest.update(np.ascontiguousarray(values).data)
    return digest.digest()[:16]


def min_hash(position: np.ndarray) -> tuple[np.ndarray, int]:
    """Signature of the set of an episode's frames, and how many there are. Positions in ranges, shape (frames, joints) -> (63,), uint32.

    Equal entries of two signatures estimate the share of frames in common (Jaccard); where in the episode a frame is does not
    matter, so a trimmed or shifted copy is found too.
    """
    multiplier, offset, joints = _constants(position.shape[1])
    steps = np.rint(np.clip(position * STEPS_A_RANGE, -1e9, 1e9)).astype(np.int64).view(np.uint64)
    frames = steps @ joints
    frames ^= frames >> np.uint64(31)
    frames *= _MIX
    # 32 bits are enough for the frames of an episode, and twice as many of them are multiplied at once.
    short = (frames >> np.uint64(32)).astype(np.uint32)
    mixed = multiplier[:, None] * short
    mixed += offset[:, None]
    frames.sort()
    return mixed.min(axis=1), 1 + int(np.count_nonzero(frames[1:] != frames[:-1]))


def near_copies(signatures: np.ndarray, least: float) -> dict[int, tuple[int, float]]:
    """The earliest episode of which each is a near copy, and the share in common. Shape (episodes, 63); ``least``: Jaccard."""
    found: dict[int, tuple[int, float]] = {}
    for band in range(BANDS):
        part = np.ascontiguousarray(signatures[:, band * ROWS : (band + 1) * ROWS])
        buckets = part.view([("", part.dtype)] * ROWS).reshape(-1)
        _, inverse, counts = np.unique(buckets, return_inverse=True, return_counts=True)
        order = np.argsort(inverse, kind="stable")
        ends = np.cumsum(counts)
        for bucket in np.flatnonzero(counts > 1):
            members = order[ends[bucket] - counts[bucket] : ends[bucket]]
            heads = members[:LARGEST_BUCKET]
            alike = (signatures[members, None] == signatures[None, heads]).mean(axis=2)
            for row, episode in enumerate(members.tolist()):
                for column, earlier in enumerate(heads.tolist()):
                    if earlier >= episode:
                        break
                    if alike[row, column] >= least and (episode not in found or earlier < found[episode][0]):
                        found[episode] = (earlier, float(alike[row, column]))
    return found


def sampled(position: np.ndarray, count: int) -> np.ndarray:
    """Some states, evenly spread over the episode. Shape (count or fewer, joints), float32."""
    return position[_spread(len(position), count)].astype(np.float32)


@lru_cache
def _spread(length: int, count: int) -> np.ndarray:
    return np.unique(np.linspace(0, length - 1, min(count, length)).astype(int))


@lru_cache
def _constants(joints: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(20240229)
    multiplier, offset = random.integers(0, 2**32, (2, BANDS * ROWS), dtype=np.uint32)
    return multiplier | np.uint32(1), offset, random.integers(0, 2**63, joints, dtype=np.int64).astype(np.uint64) | np.uint64(1)
