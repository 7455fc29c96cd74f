r"""Is the challenger better? An anytime-valid test and interval for two randomised arms with bounded outcomes.

Episode i gets the challenger (``a_i = 1``) with a known probability ``p_i`` and ends with an outcome ``y_i`` in [0, 1]. The test
rests on that randomisation alone: for any number ``m_i`` chosen before the episode,

    z_i = (a_i - p_i) / (p_i (1 - p_i)) * (y_i - m_i)

has, given everything before, the expectation E[y | challenger] - E[y | champion] of that episode: the effect. So the test stays
valid when outcomes drift with batteries, floors and robots, when the split changes on the way, and for any distribution. With
``m_i = (1 - p) mean_challenger + p mean_champion`` of the past this is the augmented inverse-propensity (doubly robust) score,
whose noise is that of the outcomes alone: two steady arms are told apart in a few episodes.

**e-process** (Waudby-Smith & Ramdas 2024, "Estimating means of bounded random variables by betting", JRSS-B; for randomised
experiments Waudby-Smith, Wu, Ramdas, Karampatziakis & Mineiro 2024, "Anytime-valid off-policy inference"). Let ``b_i`` be the
least number with ``z_i >= -b_i`` whatever happens. Under the hypothesis "effect <= delta", the stock that returns
``(z_i + b_i) / (delta + b_i)`` in episode i loses on average, so a gambler who always keeps the share f of the wealth in it,

    K_n(delta; f) = prod_i [ (1 - f) + f (z_i + b_i) / (delta + b_i) ],

has a non-negative supermartingale that starts at 1; f may change from episode to episode as long as it is chosen before each, and any
mixture over gamblers is one too. By Ville's inequality the mixture ever reaches 1/q with probability at most q. Two kinds of gamblers
share the wealth, two fifths to three:

- **Every constant share** f in (0, 1): a universal portfolio (Cover & Ordentlich 1996), whose wealth trails that of the best f in hindsight
  by a power of n only, so that it bets boldly when outcomes are steady and cautiously when they are noisy. Our prior is Beta(3/2, 3/2),
  the semicircle, summed at its Gauss-Chebyshev nodes (second kind): against Cover's arcsine prior it takes the weight from
  bets of almost nothing and of almost everything, which robots' outcomes rarely call for.
- **Eight supposed effects** e from 0.04 to 0.4 of the range, the sizes that robots are compared for. Each bets as if the effect were e:
  ``f_i = min(0.7, e b_i / (v_i + e^2))`` with ``v_i`` the mean square of past scores, which is the share with the fastest growth to second
  order (Kelly 1956; Waudby-Smith & Ramdas 2024, "aGRAPA"). The cap keeps one surprise from ruining a gambler who has seen little.

By simulation (400 to 2,000 comparisons each, 80 % power), against the constant shares alone, the second kind finds a rise from 75 to 95 %
success with 11 % fewer episodes, from 50 to 65 % with 10 % and from 50 to 55 % with 18 % fewer; of nineteen cases with effects from 0.01
to 0.4 of the range one was found later, by 2 % (50 to 65 %, one episode in ten). The effects and their weights were chosen on such cases.

**Interval**. For each f the wealth falls as delta grows; so does the mixture, and its running maximum. The values of delta
not yet refuted are therefore an interval, exactly, found by bisection: a confidence sequence, valid at all times together. An
arm's own mean is the same construction with ``z = y, b = 0``; it also needs the arm's mean to stay put, and is there for the eye.

Two one-sided processes at alpha each: "promote" needs an e-value of 1/alpha against "effect <= 0", "keep" the same against
"effect >= 0". Whichever of the two holds, only one of the decisions can be wrong, and that has a probability of at most alpha, however
often one looks. The interval is made of the same two, and so is one of level 1 - 2 alpha: it excludes zero exactly when a side is decided.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "ALL_WEIGHTS",
    "BET_SHARES",
    "BET_WEIGHTS",
    "EDGE_WEIGHTS",
    "EFFECT_EDGES",
    "LARGEST_EDGE_SHARE",
    "EffectScores",
    "bet_returns",
    "edge_shares",
    "effect_interval",
    "effect_log_e_values",
    "effect_scores",
    "log_wealth",
    "mean_interval",
    "sample_ratio_log_e_values",
    "share_log_e_values",
]

Array = NDArray[np.float64]

_NODES = 32
_ANGLES: Array = np.arange(1, _NODES + 1) * np.pi / (_NODES + 1)
BET_SHARES: Array = (1.0 - np.cos(_ANGLES)) / 2.0
"""Shares f of the wealth at stake: the nodes of the prior Beta(3/2, 3/2) on (0, 1)."""
BET_WEIGHTS: Array = np.sin(_ANGLES) ** 2 / np.sum(np.sin(_ANGLES) ** 2)
"""What the prior puts on each."""
EFFECT_EDGES: Array = np.geomspace(0.04, 0.4, 8)
"""Effects that gamblers of the second kind suppose, as shares of the outcome's range."""
EDGE_WEIGHTS: Array = EFFECT_EDGES ** (2 / 3) / np.sum(EFFECT_EDGES ** (2 / 3))
"""How they divide what they begin with: who looks for little is the better served by constant shares, the smaller it is."""
LARGEST_EDGE_SHARE = 0.7
"""The most that one of these puts at stake."""
_SUPPOSED_EPISODES = 4.0
"""Weight of the first guess at the scores' mean square, in episodes: that of outcomes at the two ends of the range."""

ALL_WEIGHTS: Array = np.concatenate((0.4 * BET_WEIGHTS, 0.6 * EDGE_WEIGHTS))
"""What gamblers of both kinds begin with: constant shares, then supposed effects."""

_SAMPLE_RATIO_TILTS: Array = np.array([-2.0, -1.0, -0.5, -0.25, -0.1, 0.1, 0.25, 0.5, 1.0, 2.0])
_BISECTIONS = 30


@dataclass(frozen=True)
class EffectScores:
    """What each episode says about the effect. All of shape (..., episodes), episodes in the order of assignment."""

    z: Array
    """Unbiased score of the effect, challenger minus champion."""
    lowest: Array
    """``b``: before the episode it was certain that ``z >= -b``."""
    highest: Array
    """Before the episode it was certain that ``z <= highest``."""
    variance: Array
    """``v``: what ``z**2`` was expected to be before the episode."""


def effect_scores(outcome: ArrayLike, challenger: ArrayLike, propensity: ArrayLike) -> EffectScores:
    """Doubly robust scores of a sequence of episodes.

    Args:
        outcome: outcomes in [0, 1], in the order of assignment. Shape (..., episodes).
        challenger: 1 or True where the challenger drove. Shape (..., episodes).
        propensity: probability, known beforehand, that the challenger drives; strictly between 0 and 1. Broadcasts.
    """
    y = np.asarray(outcome, dtype=np.float64)
    a = np.asarray(challenger, dtype=np.float64)
    p = np.broadcast_to(np.asarray(propensity, dtype=np.float64), y.shape)
    # Means of the past only. Half an episode's weight of 0.5, shared by both arms, stands for having seen nothing.
    past_one, past_one_sum = _past(a), _past(a * y)
    past_zero, past_zero_sum = _past(1.0 - a), _past((1.0 - a) * y)
    pooled = (0.5 + past_one_sum + past_zero_sum) / (1.0 + past_one + past_zero)
    mean_one = (pooled + past_one_sum) / (1.0 + past_one)
    mean_zero = (pooled + past_zero_sum) / (1.0 + past_zero)
    baseline = (1.0 - p) * mean_one + p * mean_zero
    z = (a - p) / (p * (1.0 - p)) * (y - baseline)
    guess = np.maximum(baseline * (1.0 - baseline), 1e-3) / (p * (1.0 - p))
    return EffectScores(
        z=z,
        lowest=np.maximum(baseline / p, (1.0 - baseline) / (1.0 - p)),
        highest=np.maximum((1.0 - baseline) / p, baseline / (1.0 - p)),
        variance=(_SUPPOSED_EPISODES * guess + _past(z * z)) / (_SUPPOSED_EPISODES + past_one + past_zero),
    )


def edge_shares(lowest: Array, variance: Array) -> Array:
    """Share of the wealth that each supposed effect puts at stake. Shapes (..., n) to (..., edges, n)."""
    edges = EFFECT_EDGES[:, None]
    shares: Array = edges * (lowest / variance)[..., None, :] / (1.0 + edges**2 / variance[..., None, :])
    return np.minimum(shares, LARGEST_EDGE_SHARE, out=shares)


def bet_returns(gain: Array, lowest: Array, variance: Array | None) -> Array:
    """What each gambler's wealth grows by in each episode, as a share of it.

    A gambler's episodes lie side by side, since they are multiplied up: the other way round that takes twice as long.

    Args:
        gain: what the stock grows by, as a share. Shape (..., n).
        lowest: see ``log_wealth``.
        variance: see ``log_wealth``; None: constant shares only.

    Returns:
        Shape (..., gamblers, n).
    """
    edges = 0 if variance is None else len(EFFECT_EDGES)
    found = np.empty((*gain.shape[:-1], _NODES + edges, gain.shape[-1]))
    np.multiply(gain[..., None, :], BET_SHARES[:, None], out=found[..., :_NODES, :])
    if variance is not None:
        np.multiply(gain[..., None, :], edge_shares(lowest, variance), out=found[..., _NODES:, :])
    return found


def log_wealth(z: Array, lowest: Array, hypothesis: float, variance: Array | None = None) -> Array:
    """Log e-values, after each observation, against "the mean of z is at most ``hypothesis``".

    Args:
        z: observations. Shape (..., n).
        lowest: ``b`` with ``z >= -b`` known before each observation. Shape (..., n).
        hypothesis: the mean to refute; above ``-lowest``.
        variance: ``v`` known before each observation, for the gamblers who suppose an effect; None: only those of constant shares
            bet. Shape (..., n).

    Returns:
        Natural logarithm of the mixture's wealth. Shape (..., n).
    """
    wealth = bet_returns((z - hypothesis) / (hypothesis + lowest), lowest, variance)
    np.cumsum(np.log1p(wealth, out=wealth), axis=-1, out=wealth)
    top = wealth.max(axis=-2, keepdims=True)
    np.exp(np.subtract(wealth, top, out=wealth), out=wealth)
    # Not "@": for a sum over forty gamblers BLAS would wake a thread on every core, and robots wait for those.
    mixed = np.einsum("g,...gn->...n", BET_WEIGHTS if variance is None else ALL_WEIGHTS, wealth)
    total: Array = top[..., 0, :] + np.log(mixed)
    return total


def effect_log_e_values(scores: EffectScores) -> tuple[Array, Array]:
    """Log e-values after each episode: against "the challenger is no better", and against "the champion is no better"."""
    return log_wealth(scores.z, scores.lowest, 0.0, scores.variance), log_wealth(-scores.z, scores.highest, 0.0, scores.variance)


def effect_interval(scores: EffectScores, alpha: float) -> tuple[float, float]:
    """Confidence sequence of the effect at its latest time, in [-1, 1]; covers at all times together with probability 1 - 2 alpha."""
    return (
        _lower_bound(scores.z, scores.lowest, alpha, -1.0, 1.0, scores.variance),
        -_lower_bound(-scores.z, scores.highest, alpha, -1.0, 1.0, scores.variance),
    )


def mean_interval(outcome: ArrayLike, alpha: float) -> tuple[float, float]:
    """Confidence sequence of one arm's mean at its latest time, in [0, 1]; of level 1 - 2 alpha too."""
    y = np.asarray(outcome, dtype=np.float64)
    return (
        _lower_bound(y, np.zeros_like(y), alpha, 0.0, 1.0),
        -_lower_bound(-y, np.ones_like(y), alpha, -1.0, 0.0),
    )


def sample_ratio_log_e_values(arm: ArrayLike, propensities: ArrayLike) -> Array:
    """Log e-values after each episode against "the arms were drawn with the stated probabilities".

    A mixture of likelihood ratios, each of which tilts the odds of one arm by a fixed factor: a martingale that starts at 1 when the
    split is what it says (a sequential sample-ratio check in the manner of Lindon & Malek 2022).

    Args:
        arm: index of each episode's arm. Shape (..., episodes).
        propensities: probability of every arm, known beforehand. Shape (..., episodes, arms), or (arms,) when it never changed.
    """
    index = np.asarray(arm, dtype=np.int64)
    stated = np.asarray(propensities, dtype=np.float64)
    stated = np.broadcast_to(stated, (*index.shape, stated.shape[-1]))[..., None]
    factor = np.exp(_SAMPLE_RATIO_TILTS)
    total = 1.0 + stated * (factor - 1.0)  # of all arms after one of them is tilted. Shape (..., episodes, tilted arm, tilt)
    is_tilted = (index[..., None] == np.arange(stated.shape[-2]))[..., None]
    by_tilt = np.cumsum(np.where(is_tilted, _SAMPLE_RATIO_TILTS, 0.0) - np.log(total), axis=-3)
    flat = by_tilt.reshape(*by_tilt.shape[:-2], by_tilt.shape[-2] * by_tilt.shape[-1])
    wealth: Array = np.logaddexp.reduce(flat, axis=-1) - np.log(flat.shape[-1])
    return wealth


def share_log_e_values(counts: ArrayLike, at_most: float) -> Array:
    """Log e-values after each episode against "at most this share of episodes counts", for a guardrail.

    Args:
        counts: 1 where an episode counts. Shape (..., episodes).
        at_most: the share, strictly between 0 and 1.
    """
    y = np.asarray(counts, dtype=np.float64)
    return log_wealth(y, np.zeros_like(y), at_most)


def _past(values: Array) -> Array:
    """Sum of everything before each position along the last axis."""
    before: Array = np.cumsum(values, axis=-1) - values
    return before


def _lower_bound(z: Array, lowest: Array, level: float, low: float, high: float, variance: Array | None = None) -> float:
    """Largest value in [low, high] below which every mean is refuted at ``level``; ``low`` when nothing is refuted."""
    if z.shape[-1] == 0:
        return low
    wanted = -np.log(level)
    refuted, possible = low, high
    for _ in range(_BISECTIONS):
        middle = (refuted + possible) / 2.0
        if log_wealth(z, lowest, middle, variance).max() >= wanted:
            refuted = middle
        else:
            possible = middle
    return refuted
