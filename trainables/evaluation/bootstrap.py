"""Statistics of a few dozen episodes: interquartile mean, bootstrap intervals, probability of improvement.

Few runs deserve robust aggregates with intervals (Agarwal et al. 2021, "Deep RL at the edge of the statistical precipice").
Everything is one NumPy expression over all resamples and repeats for a seed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from scipy.special import ndtr, ndtri

__all__ = ["bootstrap_interval", "interquartile_mean", "mean", "probability_of_improvement", "probability_of_improvement_interval"]

Statistic = Callable[[np.ndarray], np.ndarray]
"""Reduces the last axis: (..., n) -> (...)."""


def mean(values: np.ndarray) -> np.ndarray:
    """Arithmetic mean over the last axis."""
    return np.asarray(values, dtype=np.float64).mean(-1)


def interquartile_mean(values: np.ndarray) -> np.ndarray:
    """Mean of the middle half over the last axis: floor(n/4) values are cut at each end, as ``scipy.stats.trim_mean`` does."""
    ordered = np.sort(np.asarray(values, dtype=np.float64), axis=-1)
    cut = ordered.shape[-1] // 4
    return ordered[..., cut : ordered.shape[-1] - cut].mean(-1)


def bootstrap_interval(
    values: np.ndarray,
    statistic: Statistic = mean,
    *,
    seed: int,
    confidence: float = 0.95,
    resamples: int = 4000,
    method: Literal["bca", "percentile"] = "bca",
) -> tuple[float, float]:
    """Two-sided bootstrap interval of ``statistic`` over one sample, shape (n,), n >= 1.

    ``bca`` is bias-corrected and accelerated (Efron 1987). Where it is undefined (every value equal, or every resample on one
    side of the estimate) the percentile interval is returned, which is then a single point or close to it.
    """
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1 or sample.size == 0:
        raise ValueError(f"one non-empty sample is wanted, given shape {sample.shape}")
    n = sample.size
    indices = np.random.default_rng(seed).integers(0, n, (resamples, n))
    distribution = statistic(sample[indices])
    tail = (1 - confidence) / 2
    levels = np.array([tail, 1 - tail])
    if method == "bca":
        levels = _bca_levels(sample, statistic, distribution, levels)
    low, high = np.quantile(distribution, levels)
    return float(low), float(high)


def _bca_levels(sample: np.ndarray, statistic: Statistic, distribution: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """The percentile levels that the bias and the skew of the estimate call for; ``levels`` themselves where that is undefined."""
    estimate = statistic(sample)
    # Ties count half, as in scipy: a discrete statistic would otherwise look biased.
    below = ((distribution < estimate).mean() + (distribution <= estimate).mean()) / 2
    n = sample.size
    if n < 2 or not 0 < below < 1:
        return levels
    left_out = statistic(np.broadcast_to(sample, (n, n))[~np.eye(n, dtype=bool)].reshape(n, n - 1))
    deviation = left_out.mean() - left_out
    largest = np.abs(deviation).max()
    if largest == 0:
        return levels
    deviation /= largest  # its scale cancels out, and the powers of a tiny one would underflow
    acceleration = (deviation**3).sum() / (6 * (deviation**2).sum() ** 1.5)
    bias = ndtri(below)
    shifted = bias + ndtri(levels)
    return ndtr(bias + shifted / (1 - acceleration * shifted))


def probability_of_improvement(challenger: np.ndarray, champion: np.ndarray) -> float:
    """P(a challenger's episode beats a champion's), ties counted half: the Mann-Whitney statistic over all pairs. Shapes (n,), (m,)."""
    return float(_wins(challenger, champion).mean())


def probability_of_improvement_interval(
    challenger: np.ndarray, champion: np.ndarray, *, seed: int, confidence: float = 0.95, resamples: int = 4000
) -> tuple[float, float]:
    """Percentile bootstrap interval of ``probability_of_improvement``; episodes with the same seed are resampled together.

    Shapes (n,) and (n,): entry i of both comes from the same seed.
    """
    wins = _wins(challenger, champion)
    n = wins.shape[0]
    if wins.shape != (n, n):
        raise ValueError(f"the two samples are paired by seed, given {wins.shape[0]} and {wins.shape[1]} episodes")
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples).astype(np.float64)
    distribution = np.einsum("ri,ij,rj->r", counts, wins, counts, optimize=True) / n**2
    tail = (1 - confidence) / 2
    low, high = np.quantile(distribution, [tail, 1 - tail])
    return float(low), float(high)


def _wins(challenger: np.ndarray, champion: np.ndarray) -> np.ndarray:
    left, right = np.asarray(challenger, dtype=np.float64)[:, None], np.asarray(champion, dtype=np.float64)[None, :]
    return (left > right) + 0.5 * (left == right)
