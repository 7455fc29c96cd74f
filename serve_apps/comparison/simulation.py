"""Comparisons that never were: many at once, with the split, the scores and the bets of a real one.

For plans, for the tests of the promise, and for the figures that are told of it. What an episode would bring on each arm is drawn first
(potential outcomes); then arms are assigned, by a fixed split, a ramp or a bandit, every episode being counted before the next is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from serve_apps.comparison.bandit import bandit_shares, due_after, probability_best
from serve_apps.comparison.eprocess import ALL_WEIGHTS, EffectScores, bet_returns, effect_scores

__all__ = ["Design", "Histories", "decided_at", "first_reach", "play", "scores_of"]

Array = NDArray[np.float64]

_BLOCK = 4
"""Comparisons that are scored and bet on at once: what fits the processor's cache."""
_BANDIT_DRAWS = 64
"""Fewer than in service: the split is a little noisier, its propensities are as exact."""


@dataclass(frozen=True)
class Design:
    """How a comparison splits its episodes."""

    shares: tuple[float, ...]
    """Of the arms at the start, the champion first; they sum to 1."""
    ramp: tuple[tuple[float, int], ...] = ()
    """Share of the challengers together, and for how many episodes; the last stage stays."""
    bandit_uniform_share: float | None = None
    """Of the episodes that a bandit splits evenly; None: no bandit."""


@dataclass(frozen=True)
class Histories:
    """Simulated comparisons."""

    index: NDArray[np.int64]
    """Arm of each episode. Shape (comparisons, episodes)."""
    outcome: Array
    """In [0, 1]. Shape (comparisons, episodes)."""
    splits: Array
    """Probability of each arm. Shape (comparisons, episodes, arms)."""


def play(design: Design, potential: Array, generator: np.random.Generator) -> Histories:
    """Assign arms to episodes.

    Args:
        design: how.
        potential: what each episode brings on each arm, in [0, 1]. Shape (comparisons, episodes, arms).
        generator: where the draws come from.
    """
    comparisons, episodes, arms = potential.shape
    splits = np.empty(potential.shape)
    index = np.empty((comparisons, episodes), dtype=np.int64)
    uniform = generator.random((comparisons, episodes, 1))
    seen, successes = np.zeros((comparisons, arms)), np.zeros((comparisons, arms))
    for start, stop, share in _stretches(design, episodes):
        if share is None:
            probability = probability_best(successes, seen - successes, generator, _BANDIT_DRAWS)
            splits[:, start:stop] = bandit_shares(probability, design.bandit_uniform_share or 0.0)[:, None, :]
        else:
            splits[:, start:stop] = np.asarray(share)
        drawn = (uniform[:, start:stop] >= np.cumsum(splits[:, start:stop], axis=-1)[..., :-1]).sum(axis=-1)
        index[:, start:stop] = drawn
        if design.bandit_uniform_share is not None:
            for arm in range(arms):
                seen[:, arm] += (drawn == arm).sum(axis=1)
                successes[:, arm] += np.where(drawn == arm, potential[:, start:stop, arm], 0.0).sum(axis=1)
    return Histories(index, np.take_along_axis(potential, index[..., None], axis=-1)[..., 0], splits)


def scores_of(histories: Histories, position: int) -> tuple[EffectScores, NDArray[np.int64]]:
    """Scores of one challenger against the champion, and which episode each belongs to.

    Episodes of other arms are left out; rows are filled up at their end with scores of 0, which change no wealth against "at most 0".
    Shapes (comparisons, episodes).
    """
    mine, other = histories.splits[..., position], histories.splits[..., 0]
    outcome, challenger, propensity = histories.outcome, histories.index == position, mine / (mine + other)
    is_pair = challenger | (histories.index == 0)
    order = np.argsort(~is_pair, axis=-1, kind="stable")
    if not is_pair.all():
        outcome, challenger, propensity, is_pair = (
            np.take_along_axis(values, order, axis=-1) for values in (outcome, challenger, propensity, is_pair)
        )
    scores = effect_scores(outcome, challenger, propensity)
    return replace(scores, z=np.where(is_pair, scores.z, 0.0)), order


def first_reach(z: Array, lowest: Array, variance: Array, alpha: float) -> NDArray[np.int64]:
    """Position at which the wealth against "the mean is at most 0" first reaches 1/alpha; -1: never. Shapes (n, m) to (n,).

    The wealth itself in place of its logarithm, which takes a fifth of the time: what grows beyond the largest number has been decided
    long before.
    """
    with np.errstate(over="ignore", under="ignore"):
        wealth = bet_returns(z / lowest, lowest, variance)
        wealth += 1.0
        reached = np.einsum("g,...gn->...n", ALL_WEIGHTS, np.cumprod(wealth, axis=-1, out=wealth)) >= 1.0 / alpha
    return np.where(reached.any(axis=-1), reached.argmax(axis=-1), -1)


def decided_at(histories: Histories, position: int, alpha: float, better: bool = True, most_misses: int | None = None) -> NDArray[np.int64]:
    """Number of episodes after which one challenger is proven better, or worse; 0: never. Shape (comparisons,).

    ``most_misses``: once more than so many have never been decided, the rest are not looked at and are 0 too.
    """
    decided = np.zeros(len(histories.index), dtype=np.int64)
    for start in range(0, len(decided), _BLOCK):
        block = slice(start, start + _BLOCK)
        scores, order = scores_of(Histories(histories.index[block], histories.outcome[block], histories.splits[block]), position)
        z, lowest = (scores.z, scores.lowest) if better else (-scores.z, scores.highest)
        found = first_reach(z, lowest, scores.variance, alpha)
        episode = np.take_along_axis(order, np.maximum(found, 0)[:, None], axis=-1)[:, 0]
        decided[block] = np.where(found >= 0, episode + 1, 0)
        if most_misses is not None and np.count_nonzero(decided[: block.stop] == 0) > most_misses:
            break
    return decided


def _stretches(design: Design, episodes: int) -> list[tuple[int, int, Sequence[float] | None]]:
    """Where one split holds: from, to, and the shares; None: a bandit has to say."""
    if design.bandit_uniform_share is not None:
        version, starts = 1, [0]
        while due_after(version) < episodes:
            starts.append(due_after(version))
            version += 1
        return [(at, to, design.shares if at == 0 else None) for at, to in zip(starts, [*starts[1:], episodes], strict=True)]
    if not design.ramp:
        return [(0, episodes, design.shares)]
    stretches: list[tuple[int, int, Sequence[float] | None]] = []
    challengers, start = sum(design.shares[1:]), 0
    for stage, (share, length) in enumerate(design.ramp):
        stop = episodes if stage + 1 == len(design.ramp) else min(episodes, start + length)
        stretches.append((start, stop, [1.0 - share, *(share * each / challengers for each in design.shares[1:])]))
        start = stop
    return stretches
