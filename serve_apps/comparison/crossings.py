"""When each mean was refuted: confidence sequences at many times at once.

``eprocess`` finds an interval at one time by bisection, each step of which reads all observations. Here one reading serves all times: the
bound at time n is the largest mean that was refuted by then, and a mean is refuted from the time on at which the wealth against it first
reaches 1/level. So a reading for one mean ends at that time and tells for every n whether the bound lies above or below. Bisecting means
for all times together needs a few readings a time, most of them short.

The wealth is multiplied up, not summed in logarithms, which is ten times faster: no reading goes on beyond 1/level, so nothing overflows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serve_apps.comparison.eprocess import ALL_WEIGHTS, BET_SHARES, BET_WEIGHTS, EffectScores, edge_shares

__all__ = ["Bets", "effect_bounds", "first_refuted", "mean_bounds"]

Array = NDArray[np.float64]
Times = NDArray[np.int64]

_BLOCK = 64
_LEAST = 1e-120
"""Less than this is as good as nothing; smaller numbers would make the processor slow, and a block of bad bets could reach zero."""
_PRECISION = 0.01
"""Of a bound, as a share of its distance to the estimate; the eye sees no less."""


@dataclass(frozen=True)
class Bets:
    """Observations, and how much of its wealth each gambler puts at stake in each."""

    z: Array
    """Shape (n,)."""
    lowest: Array
    """``b`` with ``z >= -b`` known before each observation. Shape (n,)."""
    shares: Array
    """Shape (n, gamblers), or (1, gamblers) where they never change."""
    weights: Array
    """What each gambler begins with. Shape (gamblers,)."""

    @classmethod
    def of(cls, z: Array, lowest: Array, variance: Array | None = None) -> Bets:
        """The gamblers of ``eprocess.log_wealth``."""
        if variance is None:
            return cls(z, lowest, BET_SHARES[None], BET_WEIGHTS)
        constant = np.broadcast_to(BET_SHARES, (len(z), len(BET_SHARES)))
        return cls(z, lowest, np.concatenate((constant, edge_shares(lowest, variance).T), axis=-1), ALL_WEIGHTS)


def first_refuted(bets: Bets, hypothesis: float, level: float, among: int) -> int:
    """After how many observations "the mean is at most ``hypothesis``" is refuted; ``among + 1``: not within these.

    Args:
        bets: observations and gamblers.
        hypothesis: the mean to refute, above ``-lowest``.
        level: probability with which a true mean is ever refuted.
        among: how many observations to look at.
    """
    gain = ((bets.z[:among] - hypothesis) / (hypothesis + bets.lowest[:among]))[:, None]
    carried = np.ones(len(bets.weights))
    with np.errstate(over="ignore"):  # within the block in which it is refuted, and it ends there
        for start in range(0, among, _BLOCK):
            shares = bets.shares if len(bets.shares) == 1 else bets.shares[start : min(start + _BLOCK, among)]
            wealth = 1.0 + gain[start : start + _BLOCK] * shares
            wealth[0] *= carried
            np.multiply.accumulate(wealth, axis=0, out=wealth)
            over = wealth @ bets.weights >= 1.0 / level
            if over.any():
                return start + int(over.argmax()) + 1
            carried = np.maximum(wealth[-1], _LEAST)
    return among + 1


def effect_bounds(scores: EffectScores, times: Times, alpha: float) -> tuple[Array, Array]:
    """Confidence sequence of the effect at many times; see ``eprocess.effect_interval``.

    Args:
        scores: of all episodes.
        times: numbers of episodes, ascending. Shape (times,).
        alpha: of each side.

    Returns:
        Lower and upper bounds in [-1, 1], a little wide rather than narrow. Shape (times,) each.
    """
    lower = _lower_bounds(Bets.of(scores.z, scores.lowest, scores.variance), times, alpha, -1.0, 1.0)
    return lower, -_lower_bounds(Bets.of(-scores.z, scores.highest, scores.variance), times, alpha, -1.0, 1.0)


def mean_bounds(outcome: Array, times: Times, alpha: float) -> tuple[Array, Array]:
    """Confidence sequence of one arm's mean at many times, in [0, 1]; see ``eprocess.mean_interval`` and ``effect_bounds``."""
    lower = _lower_bounds(Bets.of(outcome, np.zeros_like(outcome)), times, alpha, 0.0, 1.0)
    return lower, -_lower_bounds(Bets.of(-outcome, np.ones_like(outcome)), times, alpha, -1.0, 0.0)


def _lower_bounds(bets: Bets, times: Times, level: float, low: float, high: float) -> Array:
    bounds = np.full(len(times), low)
    seen = times > 0
    if not seen.any():
        return bounds
    means = np.cumsum(bets.z)[times[seen] - 1] / times[seen]
    first = len(times) - len(means)
    # Brackets of the bounds of neighbouring times that are not told apart yet: (first time, end, refuted, possible).
    brackets = [(first, len(times), low, high)]
    while brackets:
        begin, end, refuted, possible = brackets.pop()
        bounds[begin:end] = refuted
        distance = float(np.abs(means[begin - first : end - first] - refuted).min())
        if possible - refuted <= max(_PRECISION * distance, 1e-5 * (high - low)):
            continue
        middle = (refuted + possible) / 2.0
        at = first_refuted(bets, middle, level, among=int(times[end - 1]))
        split = begin + int(np.searchsorted(times[begin:end], at))
        if split > begin:
            brackets.append((begin, split, refuted, middle))
        if split < end:
            brackets.append((split, end, middle, possible))
    return bounds
