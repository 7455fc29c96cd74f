"""When each mean was refuted: confidence sequences at many times at once.

``eprocess`` finds an interval at one time by bisection, each step of which reads all observations. Here one reading serves all times: the
bound at time n is the largest mean that was refuted by then, and a mean is refuted from the time on at which the wealth against it first
reaches 1/level. So a reading for one mean ends at that time and tells for every n whether the bound lies above or below. Bisecting means
for all times together needs a few readings a time, most of them short.

The wealth is multiplied up, not summed in logarithms, which is ten times faster: no reading goes on beyond 1/level, so nothing overflows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from serve_apps.comparison.eprocess import BET_SHARES, BET_WEIGHTS, EffectScores

__all__ = ["effect_bounds", "first_refuted", "mean_bounds"]

Array = NDArray[np.float64]
Times = NDArray[np.int64]

_BLOCK = 64
_LEAST = 1e-120
"""Less than this is as good as nothing; smaller numbers would make the processor slow, and a block of bad bets could reach zero."""
_PRECISION = 0.01
"""Of a bound, as a share of its distance to the estimate; the eye sees no less."""


def first_refuted(z: Array, lowest: Array, hypothesis: float, level: float) -> int:
    """After how many observations "the mean is at most ``hypothesis``" is refuted; ``len(z) + 1``: never.

    Args:
        z: observations. Shape (n,).
        lowest: ``b`` with ``z >= -b`` known before each observation. Shape (n,).
        hypothesis: the mean to refute, above ``-lowest``.
        level: probability with which a true mean is ever refuted.
    """
    gain = (z + lowest) / (hypothesis + lowest) - 1.0
    carried = np.ones_like(BET_SHARES)
    with np.errstate(over="ignore"):  # within the block in which it is refuted, and it ends there
        for start in range(0, len(z), _BLOCK):
            wealth = 1.0 + gain[start : start + _BLOCK, None] * BET_SHARES
            wealth[0] *= carried
            np.multiply.accumulate(wealth, axis=0, out=wealth)
            over = wealth @ BET_WEIGHTS >= 1.0 / level
            if over.any():
                return start + int(over.argmax()) + 1
            carried = np.maximum(wealth[-1], _LEAST)
    return len(z) + 1


def effect_bounds(scores: EffectScores, times: Times, alpha: float) -> tuple[Array, Array]:
    """Confidence sequence of the effect at many times; see ``eprocess.effect_interval``.

    Args:
        scores: of all episodes.
        times: numbers of episodes, ascending. Shape (times,).
        alpha: of each side.

    Returns:
        Lower and upper bounds in [-1, 1], a little wide rather than narrow. Shape (times,) each.
    """
    lower = _lower_bounds(scores.z, scores.lowest, times, alpha, -1.0, 1.0)
    return lower, -_lower_bounds(-scores.z, scores.highest, times, alpha, -1.0, 1.0)


def mean_bounds(outcome: Array, times: Times, alpha: float) -> tuple[Array, Array]:
    """Confidence sequence of one arm's mean at many times, in [0, 1]; see ``eprocess.mean_interval`` and ``effect_bounds``."""
    lower = _lower_bounds(outcome, np.zeros_like(outcome), times, alpha, 0.0, 1.0)
    return lower, -_lower_bounds(-outcome, np.ones_like(outcome), times, alpha, -1.0, 0.0)


def _lower_bounds(z: Array, lowest: Array, times: Times, level: float, low: float, high: float) -> Array:
    bounds = np.full(len(times), low)
    seen = times > 0
    if not seen.any():
        return bounds
    means = np.cumsum(z)[times[seen] - 1] / times[seen]
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
        longest = int(times[end - 1])
        at = first_refuted(z[:longest], lowest[:longest], middle, level)
        split = begin + int(np.searchsorted(times[begin:end], at))
        if split > begin:
            brackets.append((begin, split, refuted, middle))
        if split < end:
            brackets.append((split, end, middle, possible))
    return bounds
