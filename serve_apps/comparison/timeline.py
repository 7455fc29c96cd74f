"""How a comparison's report came about: its figures after 1, 2, 5, ... and all of its episodes (or robots), for charts.

Everything is a function of the prefix, so nothing is computed again for each time: means and e-values are cumulative, and intervals come
from ``crossings``. 20,000 episodes take about a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from cluster.config import Config
from serve_apps.comparison.counted import Counted
from serve_apps.comparison.crossings import effect_bounds, mean_bounds
from serve_apps.comparison.eprocess import effect_log_e_values, effect_scores, sample_ratio_log_e_values
from serve_apps.comparison.guardrails import GuardrailShares, guardrail_shares
from serve_apps.comparison.report import Examination

__all__ = ["ArmTimeline", "ChallengerTimeline", "GuardrailTimeline", "SplitTimeline", "Timeline", "timeline_of"]

Array = NDArray[np.float64]
Figures = tuple[float | None, ...]

_POINTS = 30
"""Evenly spaced, and as many again on a logarithmic scale."""


class ArmTimeline(Config):
    """One arm. All have one value a time."""

    arm: str = Field(description="which arm")
    episodes: tuple[int, ...] = Field(description="its counted episodes so far")
    mean: Figures = Field(description="their mean, in the metric's units; null: none yet")
    low: Figures = Field(description="lower end of the mean's confidence sequence")
    high: Figures = Field(description="upper end")
    share: Figures = Field(description="its share of all episodes so far")
    stated_share: Figures = Field(description="what the weights have made of it so far: the mean of its probabilities")


class ChallengerTimeline(Config):
    """One challenger against the champion. All have one value a time."""

    arm: str = Field(description="the challenger")
    difference: Figures = Field(description="challenger minus champion, in the metric's units; null: not known yet")
    low: Figures = Field(description="lower end of its confidence sequence")
    high: Figures = Field(description="upper end")
    log10_e_value: Figures = Field(description="evidence that it is better, log10")
    log10_e_value_champion: Figures = Field(description="evidence that the champion is better, log10")


class GuardrailTimeline(Config):
    """One guardrail of one arm, over all of the comparison's episodes, open ones included."""

    arm: str = Field(description="which arm")
    name: str = Field(description="which figure")
    above: float | None = Field(description="an episode counts when the figure is above this")
    episodes: tuple[int, ...] = Field(description="episodes of the comparison so far")
    share: Figures = Field(description="share of the arm's episodes that count")
    log10_e_value: Figures = Field(description="evidence that the share is above what is allowed, log10")


class SplitTimeline(Config):
    """One split of the traffic."""

    version: int = Field(description="counts the changes")
    at: datetime = Field(description="UTC")
    episode: int = Field(description="counted episodes before the first that was drawn with it")
    weights: dict[str, float] = Field(description="arm -> weight")
    reason: str = Field(description="why")
    actor: str = Field(description="who; empty: whoever started it")


class Timeline(Config):
    """A comparison over its episodes."""

    episodes: tuple[int, ...] = Field(description="the times: numbers of counted episodes, ascending")
    at: tuple[datetime, ...] = Field(description="when the last of them began, UTC")
    arms: tuple[ArmTimeline, ...] = Field(description="the champion, then the challengers")
    challengers: tuple[ChallengerTimeline, ...] = Field(description="each against the champion")
    sample_ratio_log10_e_value: Figures = Field(description="evidence that episodes were not split as the weights say, log10")
    guardrails: tuple[GuardrailTimeline, ...] = Field(description="each guardrail of each arm")
    splits: tuple[SplitTimeline, ...] = Field(description="every split so far")


def timeline_of(look: Examination) -> Timeline:
    """The timeline behind a report; on robots where these are assigned."""
    comparison, found = look.comparison, look.counted
    decisive = [at for challenger in look.report.challengers for at in (challenger.better_at, challenger.worse_at) if at is not None]
    changes = [int(np.count_nonzero(found.versions < split.version)) for split in comparison.weights[1:]]
    times = _times(len(found), [*decisive, *changes])
    first = np.searchsorted(found.owner, times - 1)
    ratio = sample_ratio_log_e_values(found.index, found.splits) if len(found.arms) > 1 else np.zeros(len(found))
    return Timeline(
        episodes=tuple(times.tolist()),
        at=tuple(found.episodes[place].started_at for place in first),
        arms=tuple(_arm(found, position, times) for position in range(len(found.arms))),
        challengers=tuple(_challenger(found, position, times) for position in range(1, len(found.arms))),
        sample_ratio_log10_e_value=_log10(ratio, times),
        guardrails=tuple(_guardrail(seen) for seen in guardrail_shares(comparison, look.units)),
        splits=tuple(
            SplitTimeline(
                version=split.version,
                at=split.at,
                episode=int(np.count_nonzero(found.versions < split.version)),
                weights=split.weights,
                reason=split.reason,
                actor=split.actor,
            )
            for split in comparison.weights
        ),
    )


def _times(total: int, marks: Sequence[int] = ()) -> NDArray[np.int64]:
    """Where to look: both evenly and on a logarithmic scale, and at the marks; the last is all episodes."""
    if not total:
        return np.zeros(0, dtype=np.int64)
    even, logarithmic = np.linspace(1, total, _POINTS), np.geomspace(1, total, _POINTS)
    marked = [mark for mark in marks if 0 < mark <= total]
    found: NDArray[np.int64] = np.unique(np.concatenate([even, logarithmic, marked]).round().astype(np.int64))
    return found


def _arm(found: Counted, position: int, times: NDArray[np.int64]) -> ArmTimeline:
    comparison, width = found.comparison, found.width
    is_own = found.index == position
    own = np.cumsum(is_own)[times - 1] if len(times) else times
    outcome = found.outcome[is_own]
    sums = np.concatenate([[0.0], np.cumsum(outcome)])
    means = np.divide(sums[own], own, out=np.full(len(own), np.nan), where=own > 0)
    low, high = np.sort(mean_bounds(outcome, own, comparison.alpha), axis=0)  # a mean that drifts may refute every value
    stated = np.cumsum(found.splits[:, position])
    return ArmTimeline(
        arm=found.arms[position].name,
        episodes=tuple(own.tolist()),
        mean=_figures(comparison.low + width * means),
        low=_figures(comparison.low + width * low),
        high=_figures(comparison.low + width * high),
        share=_figures(own / np.maximum(1, times)),
        stated_share=_figures(stated[times - 1] / times if len(times) else times),
    )


def _challenger(found: Counted, position: int, times: NDArray[np.int64]) -> ChallengerTimeline:
    width, index = found.width, found.index
    mine, other = found.splits[:, position], found.splits[:, 0]
    # Where one of the two could not be drawn, an episode says nothing about their difference.
    is_pair = ((index == 0) | (index == position)) & (other > 0) & (mine > 0)
    pair = np.flatnonzero(is_pair)
    propensity = mine[pair] / (mine[pair] + other[pair])
    scores = effect_scores(found.outcome[pair], index[pair] == position, propensity)
    own = np.cumsum(is_pair)[times - 1] if len(times) else times
    low, high = np.sort(effect_bounds(scores, own, found.alpha), axis=0)
    better, worse = effect_log_e_values(scores)
    if len(pair) and np.ptp(propensity) > 1e-9:
        sums = np.concatenate([[0.0], np.cumsum(scores.z)])
        differences = np.divide(sums[own], own, out=np.full(len(own), np.nan), where=own > 0)
    else:
        differences = _running_means(found, position, times) - _running_means(found, 0, times)
    return ChallengerTimeline(
        arm=found.arms[position].name,
        difference=_figures(width * differences),
        low=_figures(width * low),
        high=_figures(width * high),
        log10_e_value=_log10(better, own),
        log10_e_value_champion=_log10(worse, own),
    )


def _running_means(found: Counted, position: int, times: NDArray[np.int64]) -> Array:
    if not len(times):
        return np.zeros(0)
    is_own = found.index == position
    own, sums = np.cumsum(is_own)[times - 1], np.cumsum(np.where(is_own, found.outcome, 0.0))[times - 1]
    means: Array = np.divide(sums, own, out=np.full(len(own), np.nan), where=own > 0)
    return means


def _guardrail(seen: GuardrailShares) -> GuardrailTimeline:
    times = _times(len(seen.is_own))
    own = np.cumsum(seen.is_own)[times - 1] if len(times) else times
    sums = np.concatenate([[0.0], np.cumsum(seen.shares)])
    return GuardrailTimeline(
        arm=seen.arm,
        name=seen.guardrail.name,
        above=seen.guardrail.above,
        episodes=tuple(times.tolist()),
        share=_figures(np.divide(sums[own], own, out=np.full(len(own), np.nan), where=own > 0)),
        log10_e_value=_log10(seen.log_e_values, own),
    )


def _log10(log_e_values: Array, times: NDArray[np.int64]) -> Figures:
    """At each time; before the first observation every e-value is 1."""
    values = np.concatenate([[0.0], log_e_values]) / np.log(10.0)
    return _figures(values[times])


def _figures(values: Array) -> Figures:
    """Six digits, as JSON: not known is null."""
    return tuple(None if not np.isfinite(value) else float(f"{value:.6g}") for value in np.asarray(values, dtype=np.float64))
