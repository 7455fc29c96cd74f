"""Which arm an episode gets: a pure function of the comparison's salt, the episode's id and the weights.

Every replica computes the same answer with no shared state, an episode keeps its arm through reconnects, and another salt
shuffles everything anew. The draw is an exponential race (weighted rendezvous hashing, Thaler & Ravishankar 1998): arm k's
clock rings at ``-ln(u_k) / w_k`` for a uniform ``u_k`` hashed from salt and episode; the first to ring wins, which happens with
probability ``w_k / sum(w)`` exactly. Clocks do not know of each other, so changing one arm's weight moves episodes only into or
out of that arm, and no more of them than the change of its share.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from hashlib import blake2b

__all__ = ["MAX_ARMS", "assign", "uniforms"]

MAX_ARMS = 8
"""One 64-byte digest holds eight 64-bit draws."""


def uniforms(salt: str, episode_id: str, count: int) -> list[float]:
    """``count`` independent uniforms in (0, 1) for one episode, at most ``MAX_ARMS``.

    The salt is the hash's key, so that no two (salt, episode) pairs can run together into the same text.
    """
    key = salt.encode() if len(salt.encode()) <= 64 else blake2b(salt.encode()).digest()
    digest = blake2b(episode_id.encode(), key=key, digest_size=64).digest()
    # 53 bits fit a float exactly; the half keeps 0 and 1 out, whose logarithms would be infinite or zero.
    return [((int.from_bytes(digest[8 * arm : 8 * arm + 8], "big") >> 11) + 0.5) * 2.0**-53 for arm in range(count)]


def assign(salt: str, episode_id: str, weights: Sequence[float]) -> tuple[int, float]:
    """The arm of an episode.

    Args:
        salt: the comparison's salt.
        episode_id: the unit of assignment.
        weights: one non-negative weight an arm, not all zero, at most ``MAX_ARMS``; they need not sum to one.

    Returns:
        The arm's index and its propensity: the probability with which that arm was drawn, in (0, 1].
    """
    if not 0 < len(weights) <= MAX_ARMS or min(weights) < 0 or not 0 < sum(weights) < math.inf:
        raise ValueError(f"weights {list(weights)}: give 1 to {MAX_ARMS} non-negative numbers, not all zero")
    draws = uniforms(salt, episode_id, len(weights))
    rings = [-math.log(u) / weight if weight > 0 else math.inf for u, weight in zip(draws, weights, strict=True)]
    winner = rings.index(min(rings))
    return winner, weights[winner] / sum(weights)
