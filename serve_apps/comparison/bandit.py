"""A split that follows the outcomes: arms that look better get more episodes while the comparison runs.

After 20 counted observations, and again each time after a tenth more than the last time, the split becomes

    share of arm k = uniform_share / arms + (1 - uniform_share) * P(arm k has the highest mean | what is counted),

Thompson sampling with fixed randomisation mixed in. The posterior of an arm's mean is Beta(1 + sum y, 1 + sum (1 - y)) for outcomes
y in [0, 1] (Agrawal & Goyal 2012: exact for successes, wider than need be for anything steadier). It steers traffic, and nothing else.

**Why the test stays valid**: it rests on the propensities alone (``eprocess``). Each is known before its episode is drawn, is logged
with it, and is at least ``uniform_share / arms``, so that scores stay bounded and unbiased however the split depends on the past
(Waudby-Smith et al. 2024, "Anytime-valid off-policy inference for contextual bandits"). A difference of means would not: an arm that
was unlucky early gets fewer episodes to make up for it. The report tells the mean of the scores instead.

The probability is estimated with draws seeded by the comparison and the version of its weights: replicas that look at the same
moment see the same, and one conditional write decides which of them says so.
"""

from __future__ import annotations

import math
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from serve_apps.comparison.counted import Counted

__all__ = ["bandit_shares", "describe_bandit", "due_after", "next_split", "probability_best"]

_DRAWS = 4000
_FIRST, _GROWTH = 20, 1.1


def due_after(version: int) -> int:
    """Counted observations after which the split with this version, from 1, is replaced: 20, 42, 67, ..."""
    return math.ceil(_FIRST * (_GROWTH**version - 1.0) / (_GROWTH - 1.0) - 1e-9)


def probability_best(
    successes: NDArray[np.float64], failures: NDArray[np.float64], generator: np.random.Generator, draws: int = _DRAWS
) -> NDArray[np.float64]:
    """Posterior probability of each arm to have the highest mean.

    Args:
        successes: sum of y. Shape (..., arms).
        failures: sum of 1 - y. Shape (..., arms).
        generator: where the draws come from.
        draws: how many.

    Returns:
        Shape (..., arms).
    """
    means = generator.beta(1.0 + successes, 1.0 + failures, (draws, *successes.shape))
    best = means.argmax(axis=-1)
    return np.stack([(best == arm).mean(axis=0) for arm in range(successes.shape[-1])], axis=-1)


def bandit_shares(probability: NDArray[np.float64], uniform_share: float) -> NDArray[np.float64]:
    """Shares of the arms: part even, part by the probability to be best. Shape (..., arms)."""
    shares: NDArray[np.float64] = uniform_share / probability.shape[-1] + (1.0 - uniform_share) * probability
    return shares


def next_split(counted: Counted) -> tuple[dict[str, float], str] | None:
    """The weights that are due, and why; None: none are. Arms without weight, taken away, stay so."""
    comparison = counted.comparison
    version = comparison.weights[-1].version
    if len(counted) < due_after(version):
        return None
    alive = [position for position, arm in enumerate(counted.arms) if arm.weight > 0]
    if len(alive) < 2:
        return None
    successes = np.bincount(counted.index, counted.outcome, len(counted.arms))[alive]
    seen = np.bincount(counted.index, minlength=len(counted.arms))[alive]
    seed = int.from_bytes(blake2b(f"{comparison.id}/{version}".encode(), digest_size=8).digest(), "big")
    probability = probability_best(successes, seen - successes, np.random.default_rng(seed))
    shares = bandit_shares(probability, comparison.bandit_uniform_share)
    weights = {arm.name: 0.0 for arm in comparison.arms}
    weights |= {counted.arms[position].name: float(share) for position, share in zip(alive, shares, strict=True)}
    return weights, f"bandit: after {len(counted)} {comparison.unit}s, by the probability of each arm to be best"


def describe_bandit(counted: Counted) -> str:
    """Where it stands."""
    comparison = counted.comparison
    version = comparison.weights[-1].version
    return (
        f"bandit: split {version} is in force, the next comes after {due_after(version)} counted {comparison.unit}s; "
        f"{100 * comparison.bandit_uniform_share:g} % are split evenly"
    )
