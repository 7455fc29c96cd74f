"""From counted observations to arms, challengers and the decision; pure computation.

**The difference that is told** is that of the arms' means while the split stays what it was. Where it varied (a ramp, a bandit,
somebody's hand), arms have seen different times in different shares, and a bandit gives an arm fewer episodes after an unlucky start:
both bias a difference of means. It is then the mean of the doubly robust scores, each of which weighs its episode with the split that
it was drawn with and so has the effect as its expectation, whatever the split followed (``eprocess``). The test and the interval use
these scores always.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from serve_apps.comparison.counted import Counted
from serve_apps.comparison.eprocess import effect_interval, effect_log_e_values, effect_scores, mean_interval
from serve_apps.comparison.report_models import ArmReport, ChallengerReport, Decision

__all__ = ["SAMPLE_RATIO_ALPHA", "arm_reports", "challenger_reports", "decide", "largest_e_value", "leading"]

SAMPLE_RATIO_ALPHA = 0.01
"""A verdict is withheld once the split itself is refuted at this level."""
_LARGEST_E_VALUE = 1e300  # JSON has no infinity


def arm_reports(counted: Counted, intervals: bool) -> list[ArmReport]:
    """Every arm that acts."""
    return [_arm(counted, position, intervals) for position in range(len(counted.arms))]


def challenger_reports(counted: Counted, arms: Sequence[ArmReport], intervals: bool) -> list[ChallengerReport]:
    """Every challenger against the champion."""
    return [_challenger(counted, position, arms, intervals) for position in range(1, len(arms))]


def leading(challengers: Sequence[ChallengerReport]) -> ChallengerReport | None:
    """The challenger with the most evidence for it; None: there is none."""
    return max(challengers, key=lambda found: (found.e_value, -found.e_value_champion), default=None)


def decide(
    counted: Counted, challengers: Sequence[ChallengerReport], ratio: NDArray[np.float64]
) -> tuple[Decision, ChallengerReport | None, int | None, str]:
    """The decision, the challenger that it is about, after how many observations, and why."""
    comparison, leader = counted.comparison, leading(challengers)
    unit = "robot" if counted.by_robot else "episode"
    if leader is None:
        return "inconclusive", None, None, "nothing is compared: all arms but the champion are shadows, and a shadow never acts"
    if len(ratio) and ratio.max() >= -math.log(SAMPLE_RATIO_ALPHA):
        return "inconclusive", leader, None, f"{unit}s were not split as the weights say; find out why before believing any difference"
    level = f"at alpha {comparison.alpha:g}"
    first = min((found for found in challengers if found.better_at is not None), key=lambda found: found.better_at or 0, default=None)
    worse = [found.worse_at for found in challengers]
    all_worse_at = max(at for at in worse if at is not None) if None not in worse else None
    if first is not None and first.better_at is not None and (all_worse_at is None or first.better_at < all_worse_at):
        version = comparison.arm(first.arm).version
        return "promote", first, first.better_at, f"{first.arm} (version {version}) is better {level}; {unit} {first.better_at} decided"
    if all_worse_at is not None:
        champion = counted.arms[0]
        reason = f"{champion.name} (version {champion.version}) is better {level}; {unit} {all_worse_at} decided"
        return "keep", leader, all_worse_at, reason
    if comparison.max_episodes is not None and len(counted.episodes) >= comparison.max_episodes:
        spent = f"its budget of {comparison.max_episodes} episodes is spent and the evidence does not separate the arms"
        return "inconclusive", leader, None, spent
    return "inconclusive", leader, None, f"after {len(counted)} {unit}s the evidence does not separate the arms"


def largest_e_value(log_e_values: NDArray[np.float64]) -> float:
    """Largest e-value so far; before the first observation every wealth is 1."""
    top = max(0.0, float(log_e_values.max())) if len(log_e_values) else 0.0
    return min(math.exp(min(top, 700.0)), _LARGEST_E_VALUE)


def _challenger(counted: Counted, position: int, arms: Sequence[ArmReport], intervals: bool) -> ChallengerReport:
    index, mine, other = counted.index, counted.splits[:, position], counted.splits[:, 0]
    # Where one of the two could not be drawn, an observation says nothing about their difference.
    pair = np.flatnonzero(((index == 0) | (index == position)) & (other > 0) & (mine > 0))
    propensity = mine[pair] / (mine[pair] + other[pair])
    scores = effect_scores(counted.outcome[pair], index[pair] == position, propensity)
    better, worse = effect_log_e_values(scores)
    low, high = sorted(effect_interval(scores, counted.alpha)) if intervals else (-1.0, 1.0)
    means = arms[position].mean, arms[0].mean
    difference = None if means[0] is None or means[1] is None else means[0] - means[1]
    varied = len(pair) > 0 and bool(np.ptp(propensity) > 1e-9)
    if varied and difference is not None:
        difference = float(scores.z.mean()) * counted.width

    def reached(e_values: NDArray[np.float64]) -> int | None:
        over = e_values >= -math.log(counted.alpha)
        return int(pair[over.argmax()]) + 1 if over.any() else None

    return ChallengerReport(
        arm=arms[position].name,
        episodes=len(pair),
        difference=difference,
        unbiased=varied and difference is not None,
        interval=(low * counted.width, high * counted.width),
        e_value=largest_e_value(better),
        e_value_champion=largest_e_value(worse),
        better_at=reached(better),
        worse_at=reached(worse),
    )


def _arm(counted: Counted, position: int, intervals: bool) -> ArmReport:
    comparison, arm = counted.comparison, counted.arms[position]
    outcome = counted.outcome[counted.index == position]
    own = np.flatnonzero(counted.index[counted.owner] == position)
    raw, outcomes = counted.raw[own], [counted.episodes[k].outcome for k in own]
    low, high = sorted(mean_interval(outcome, comparison.alpha)) if intervals else (0.0, 1.0)
    return ArmReport(
        name=arm.name,
        version=arm.version,
        weight=arm.weight,
        episodes=len(own),
        robots=len(outcome) if counted.by_robot else None,
        missing=outcomes.count(None),
        clipped=int(np.count_nonzero((raw < comparison.low) | (raw > comparison.high))),
        falls=sum(outcome is not None and outcome.fell for outcome in outcomes),
        mean=float(comparison.low + counted.width * outcome.mean()) if len(outcome) else None,
        interval=(comparison.low + counted.width * low, comparison.low + counted.width * high),
    )
