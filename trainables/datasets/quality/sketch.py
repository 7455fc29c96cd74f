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
LARGEST_BUCKET = 32
"""Episodes of one bucket that are compared with each other; thousands of equal ones need no more."""


def content_digest(arrays: Sequence[np.ndarray]) -> bytes:
    """128 bits of the values of an episode."""
    digest = hashlib.blake2b(digest_size=16)
    for values in arrays:
        digest.update(f"{values.dtype.str}{values.shape}".encode())
        digest.update(np.ascontiguousarray(values).data)
    return digest.digest()


def min_hash(position: np.ndarray) -> tuple[np.ndarray, int]:
    """Signature of the set of an episode's frames, and how many there are. Positions in ranges, shape (frames, joints) -> (63,), uint32.

    Equal entries of two signatures estimate the share of frames in common (Jaccard); where in the episode a frame is does not
    matter, so a trimmed or shifted copy is found too.
    """
    multiplier, offset, joints = _constants(position.shape[1])
    steps = np.rint(np.clip(position, -1e6, 1e6) * STEPS_A_RANGE).astype(np.int64).astype(np.uint64)
    frames = (steps * joints).sum(axis=1, dtype=np.uint64)
    frames ^= frames >> np.uint64(31)
    mixed = frames[:, None] * multiplier + offset
    return (mixed >> np.uint64(32)).min(axis=0).astype(np.uint32), len(np.unique(frames))


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
    places = np.unique(np.linspace(0, len(position) - 1, min(count, len(position))).astype(int))
    return position[places].astype(np.float32)


@lru_cache
def _constants(joints: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(20240229)
    multiplier, offset = random.integers(0, 2**63, (2, BANDS * ROWS), dtype=np.int64).astype(np.uint64)
    return (
        multiplier * np.uint64(2) + np.uint64(1),
        offset,
        random.integers(0, 2**63, joints, dtype=np.int64).astype(np.uint64) | np.uint64(1),
    )
