"""What a comparison has proved so far.

The report counts episodes in the order of assignment up to the first one that may still bring an outcome; an episode given up
counts as the worst outcome, on either arm: silence is not success. The decision is that of someone who looked after every
episode: the first e-value to reach its threshold decides, and later episodes do not undo it.

**Several challengers**: each is compared with the champion on the episodes of those two, whose split is known given that it was one of
the two, at alpha divided by the number of challengers (Bonferroni), so that promoting any of them wrongly has at most the probability
alpha. The champion stays once every challenger is proven worse.

**Guardrails** have a test of their own for each arm: is the share of its episodes that count above what is allowed? They do not wait for
open episodes but take them for harmless: the evidence can only grow when these bring their outcomes, so an alarm stands.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from cluster.config import Config
from cluster.store.comparisons import Comparison, CountedEpisode, Guardrail, comparison_history, get_comparison
from cluster.store.database import Database
from serve_apps.comparison.eprocess import (
    effect_interval,
    effect_log_e_values,
    effect_scores,
    mean_interval,
    sample_ratio_log_e_values,
    share_log_e_values,
)

__all__ = ["SAMPLE_RATIO_ALPHA", "ArmReport", "ChallengerReport", "GuardrailReport", "Report", "analyse", "guardrail_reports", "report"]

Decision = Literal["promote", "keep", "inconclusive"]
Interval = tuple[float, float]

SAMPLE_RATIO_ALPHA = 0.01
"""A verdict is withheld once the split itself is refuted at this level."""
_LARGEST_E_VALUE = 1e300  # JSON has no infinity


class ArmReport(Config):
    """One arm. Means count a missing outcome as the worst, and values beyond the declared bounds as the bound."""

    name: str = Field(description="name of the arm")
    version: str = Field(description="registered version")
    weight: float = Field(description="share of the episodes, as given")
    episodes: int = Field(description="episodes counted")
    missing: int = Field(description="of these, given up without an outcome")
    clipped: int = Field(description="of these, with a value beyond the declared bounds")
    falls: int = Field(description="of these, ended in a fall")
    mean: float | None = Field(description="mean of the metric, in its units; None: no episode yet")
    interval: Interval = Field(description="confidence sequence of the mean, in the metric's units")


class ChallengerReport(Config):
    """One challenger against the champion, on the episodes of those two."""

    arm: str = Field(description="the challenger")
    episodes: int = Field(description="episodes of the two, counted")
    difference: float | None = Field(description="its mean minus the champion's, in the metric's units; None: an arm has no episode")
    interval: Interval = Field(description="confidence sequence of the difference, in the metric's units")
    e_value: float = Field(description="largest evidence so far that it is better")
    e_value_champion: float = Field(description="largest evidence so far that the champion is better")
    better_at: int | None = Field(description="episodes of the whole comparison after which it was proven better")
    worse_at: int | None = Field(description="episodes of the whole comparison after which it was proven worse")


class GuardrailReport(Config):
    """One guardrail of one arm."""

    arm: str = Field(description="which arm")
    name: str = Field(description="fell, missing, or a figure of the outcome's metrics")
    above: float | None = Field(description="an episode counts when the figure is above this")
    at_most: float = Field(description="share of episodes that may count")
    episodes: int = Field(description="episodes that have ended")
    counted: int = Field(description="of these, those that count")
    e_value: float = Field(description="largest evidence so far that the share is above")
    e_threshold: float = Field(description="e-value at which it is breached: 1/alpha")
    breached: bool = Field(description="whether it was reached")


class Report(Config):
    """A comparison's state and verdict at one moment. The figures of a challenger here are those of ``challenger``, the leading one."""

    comparison_id: str = Field(description="which comparison")
    policy: str = Field(description="whose traffic")
    metric: str = Field(description="what is compared; more is better")
    low: float = Field(description="declared lowest value")
    high: float = Field(description="declared highest value")
    alpha: float = Field(description="largest accepted probability of a wrong promotion, and of a wrong keeping")
    status: str = Field(description="running, paused, promoted, kept or stopped")
    arms: tuple[ArmReport, ...] = Field(description="the champion, then the challengers")
    challengers: tuple[ChallengerReport, ...] = Field(description="each challenger against the champion")
    guardrails: tuple[GuardrailReport, ...] = Field((), description="each guardrail of each arm")
    episodes: int = Field(description="episodes that the verdict counts")
    max_episodes: int | None = Field(None, description="episodes after which it pauses without a verdict")
    in_flight: int = Field(description="episodes that may still bring an outcome")
    waiting: int = Field(description="outcomes that stand behind one in flight")
    late: int = Field(description="outcomes after their deadline; kept, not counted")
    challenger: str = Field(description="the challenger that decided, or has the most evidence")
    difference: float | None = Field(description="challenger's mean minus champion's, in the metric's units; None: an arm has no episode")
    interval: Interval = Field(description="confidence sequence of the difference, in the metric's units")
    e_value: float = Field(description="largest evidence so far that the challenger is better")
    e_value_champion: float = Field(description="largest evidence so far that the champion is better")
    e_threshold: float = Field(description="e-value at which either decides: the number of challengers over alpha")
    sample_ratio_e_value: float = Field(description="largest evidence so far that episodes were not split as the weights say")
    decision: Decision = Field(description="promote, keep or inconclusive")
    decided_at_episode: int | None = Field(description="how many episodes it took")
    reason: str = Field(description="the decision in one sentence")

    @property
    def winner(self) -> str | None:
        """Name of the arm that won, if one did."""
        return {"promote": self.challenger, "keep": self.arms[0].name}.get(self.decision)

    @property
    def breached(self) -> tuple[str, ...]:
        """Arms that broke a guardrail, in the comparison's order."""
        broken = {guardrail.arm for guardrail in self.guardrails if guardrail.breached}
        return tuple(arm.name for arm in self.arms if arm.name in broken)

    @property
    def interval_level(self) -> float:
        """Level of the intervals: two one-sided bounds, each at alpha over the number of challengers."""
        return 1.0 - 2.0 * self.alpha / len(self.challengers)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return self.model_dump(mode="json")

    def to_text(self) -> str:
        """The report as a table for a terminal."""
        level = f"{100 * self.interval_level:.4g} % interval"
        rows = [("arm", "version", "weight", "episodes", "missing", "falls", f"mean {self.metric}", level)]
        rows += [
            (
                arm.name,
                arm.version,
                f"{arm.weight:g}",
                f"{arm.episodes}",
                f"{arm.missing}",
                f"{arm.falls}",
                "-" if arm.mean is None else f"{arm.mean:.4g}",
                _interval_text(arm.interval),
            )
            for arm in self.arms
        ]
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = [f"comparison {self.comparison_id} of {self.policy}: {self.status}"]
        lines += ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        for found in self.challengers:
            effect = "-" if found.difference is None else f"{found.difference:+.4g}"
            of = f" of {found.arm}" if len(self.challengers) > 1 else ""
            lines += [
                f"difference{of} in {self.metric}: {effect}, {level} {_interval_text(found.interval)}",
                f"e-value {found.e_value:.3g} for {found.arm}, {found.e_value_champion:.3g} for {self.arms[0].name}; "
                f"{self.e_threshold:g} decides",
            ]
        lines.append(f"decision: {self.decision} ({self.reason})")
        notes = [
            *(_guardrail_text(guardrail) for guardrail in self.guardrails if guardrail.breached),
            f"{self.in_flight} in flight" if self.in_flight else "",
            f"{self.waiting} outcomes wait behind them" if self.waiting else "",
            f"{self.late} outcomes came late" if self.late else "",
            *(
                f"{arm.clipped} of {arm.name}'s values beyond [{self.low:g}, {self.high:g}] were clipped"
                for arm in self.arms
                if arm.clipped
            ),
        ]
        if said := "; ".join(note for note in notes if note):
            lines.append(said)
        return "\n".join(lines)


def report(db: Database, comparison_id: str, intervals: bool = True) -> Report:
    """Analyse a comparison as it stands; a closed one as it stood when it was closed. Raises ``UnknownComparisonError``.

    Args:
        db: the database.
        comparison_id: the comparison.
        intervals: False leaves the intervals as wide as they can be: they take most of the time, and no decision needs them.
    """
    history = comparison_history(db, comparison_id)
    comparison = get_comparison(db, comparison_id)  # after the episodes: it knows every split that they were drawn with
    episodes = history.episodes
    if comparison.status not in ("running", "paused") and comparison.decision is not None:
        episodes = episodes[: int(comparison.decision["report"]["episodes"])]
    found = analyse(comparison, episodes, history.in_flight, history.waiting, history.late, intervals)
    return found.model_copy(update={"guardrails": guardrail_reports(comparison, history.assigned)})


def analyse(
    comparison: Comparison, episodes: list[CountedEpisode], in_flight: int = 0, waiting: int = 0, late: int = 0, intervals: bool = True
) -> Report:
    """The report on a list of episodes in the order of assignment, without guardrails; pure computation."""
    counted = _Counted.of(comparison, episodes, intervals)
    arms = [_arm_report(counted, position) for position in range(len(comparison.arms))]
    challengers = [_challenger(counted, position, arms) for position in range(1, len(comparison.arms))]
    ratio = sample_ratio_log_e_values(counted.index, counted.splits)
    decision, leader, decided_at, reason = _decide(comparison, challengers, ratio, len(episodes))
    return Report(
        comparison_id=comparison.id,
        policy=comparison.policy,
        metric=comparison.metric,
        low=comparison.low,
        high=comparison.high,
        alpha=comparison.alpha,
        status=comparison.status,
        arms=tuple(arms),
        challengers=tuple(challengers),
        episodes=len(episodes),
        max_episodes=comparison.max_episodes,
        in_flight=in_flight,
        waiting=waiting,
        late=late,
        challenger=leader.arm,
        difference=leader.difference,
        interval=leader.interval,
        e_value=leader.e_value,
        e_value_champion=leader.e_value_champion,
        e_threshold=1.0 / counted.alpha,
        sample_ratio_e_value=_largest(ratio),
        decision=decision,
        decided_at_episode=decided_at,
        reason=reason,
    )


def guardrail_reports(comparison: Comparison, assigned: list[CountedEpisode]) -> tuple[GuardrailReport, ...]:
    """Every guardrail of every arm, over all episodes in the order of assignment, open ones included."""
    found = []
    for arm in comparison.arms:
        own = [episode for episode in assigned if episode.arm == arm.name]
        for guardrail in comparison.guardrails:
            counts = np.array([_counts(guardrail, episode) for episode in own], dtype=np.float64)
            e_values = share_log_e_values(counts, guardrail.at_most)
            found.append(
                GuardrailReport(
                    arm=arm.name,
                    name=guardrail.name,
                    above=guardrail.above,
                    at_most=guardrail.at_most,
                    episodes=sum(not episode.is_open for episode in own),
                    counted=int(counts.sum()),
                    e_value=_largest(e_values),
                    e_threshold=1.0 / guardrail.alpha,
                    breached=bool(len(e_values)) and float(e_values.max()) >= -math.log(guardrail.alpha),
                )
            )
    return tuple(found)


def _counts(guardrail: Guardrail, episode: CountedEpisode) -> bool:
    if guardrail.name == "missing":
        return episode.outcome is None and not episode.is_open
    if episode.outcome is None:
        return False
    if guardrail.name == "fell":
        return episode.outcome.fell
    value = episode.outcome.metrics.get(guardrail.name)
    return value is not None and guardrail.above is not None and value > guardrail.above


@dataclass(frozen=True)
class _Counted:
    """The episodes that a verdict counts, as arrays. All of shape (episodes,) but ``splits``."""

    comparison: Comparison
    episodes: list[CountedEpisode]
    raw: NDArray[np.float64]
    """In the metric's units."""
    outcome: NDArray[np.float64]
    """In [0, 1]."""
    index: NDArray[np.int64]
    """Position of the arm."""
    splits: NDArray[np.float64]
    """Probability of every arm. Shape (episodes, arms)."""
    intervals: bool

    @classmethod
    def of(cls, comparison: Comparison, episodes: list[CountedEpisode], intervals: bool) -> _Counted:
        low, high = comparison.low, comparison.high
        names = [arm.name for arm in comparison.arms]
        raw = np.array([low if episode.outcome is None else episode.outcome.value for episode in episodes], dtype=np.float64)
        index = np.array([names.index(episode.arm) for episode in episodes], dtype=np.int64)
        total = sum(arm.weight for arm in comparison.arms)
        by_version = {1: [arm.weight / total for arm in comparison.arms]}
        by_version |= {split.version: [split.share(name) for name in names] for split in comparison.weights}
        splits = np.array([by_version[episode.weights_version] for episode in episodes], dtype=np.float64)
        outcome = (np.clip(raw, low, high) - low) / (high - low)
        return cls(comparison, episodes, raw, outcome, index, splits.reshape(len(episodes), len(names)), intervals)

    @property
    def alpha(self) -> float:
        """Of one challenger's test."""
        return self.comparison.alpha / (len(self.comparison.arms) - 1)

    @property
    def width(self) -> float:
        """Of the metric's bounds."""
        return self.comparison.high - self.comparison.low


def _challenger(counted: _Counted, position: int, arms: list[ArmReport]) -> ChallengerReport:
    index, mine, other = counted.index, counted.splits[:, position], counted.splits[:, 0]
    # Where one of the two could not be drawn, an episode says nothing about their difference.
    pair = np.flatnonzero(((index == 0) | (index == position)) & (other > 0) & (mine > 0))
    scores = effect_scores(counted.outcome[pair], index[pair] == position, mine[pair] / (mine[pair] + other[pair]))
    better, worse = effect_log_e_values(scores)
    low, high = sorted(effect_interval(scores, counted.alpha)) if counted.intervals else (-1.0, 1.0)
    means = arms[position].mean, arms[0].mean

    def reached(e_values: NDArray[np.float64]) -> int | None:
        over = e_values >= -math.log(counted.alpha)
        return int(pair[over.argmax()]) + 1 if over.any() else None

    return ChallengerReport(
        arm=arms[position].name,
        episodes=len(pair),
        difference=None if means[0] is None or means[1] is None else means[0] - means[1],
        interval=(low * counted.width, high * counted.width),
        e_value=_largest(better),
        e_value_champion=_largest(worse),
        better_at=reached(better),
        worse_at=reached(worse),
    )


def _decide(
    comparison: Comparison, challengers: list[ChallengerReport], ratio: NDArray[np.float64], episodes: int
) -> tuple[Decision, ChallengerReport, int | None, str]:
    """Decision, the challenger that it is about, after how many episodes, and why."""
    leader = max(challengers, key=lambda found: (found.e_value, -found.e_value_champion))
    if len(ratio) and ratio.max() >= -math.log(SAMPLE_RATIO_ALPHA):
        return "inconclusive", leader, None, "episodes were not split as the weights say; find out why before believing any difference"
    level = f"at alpha {comparison.alpha:g}"
    first = min((found for found in challengers if found.better_at is not None), key=lambda found: found.better_at or 0, default=None)
    worse = [found.worse_at for found in challengers]
    all_worse_at = max(at for at in worse if at is not None) if None not in worse else None
    if first is not None and first.better_at is not None and (all_worse_at is None or first.better_at < all_worse_at):
        version = comparison.arm(first.arm).version
        return "promote", first, first.better_at, f"{first.arm} (version {version}) is better {level}; episode {first.better_at} decided"
    if all_worse_at is not None:
        champion = comparison.arms[0]
        return (
            "keep",
            leader,
            all_worse_at,
            f"{champion.name} (version {champion.version}) is better {level}; episode {all_worse_at} decided",
        )
    if comparison.max_episodes is not None and episodes >= comparison.max_episodes:
        return (
            "inconclusive",
            leader,
            None,
            f"its budget of {comparison.max_episodes} episodes is spent and the evidence does not separate the arms",
        )
    return "inconclusive", leader, None, f"after {episodes} episodes the evidence does not separate the arms"


def _arm_report(counted: _Counted, position: int) -> ArmReport:
    comparison, arm = counted.comparison, counted.comparison.arms[position]
    own = np.flatnonzero(counted.index == position)
    outcome, raw, episodes = counted.outcome[own], counted.raw[own], [counted.episodes[k] for k in own]
    low, high = sorted(mean_interval(outcome, comparison.alpha)) if counted.intervals else (0.0, 1.0)
    return ArmReport(
        name=arm.name,
        version=arm.version,
        weight=arm.weight,
        episodes=len(episodes),
        missing=sum(episode.outcome is None for episode in episodes),
        clipped=int(np.count_nonzero((raw < comparison.low) | (raw > comparison.high))),
        falls=sum(episode.outcome is not None and episode.outcome.fell for episode in episodes),
        mean=float(comparison.low + counted.width * outcome.mean()) if len(outcome) else None,
        interval=(comparison.low + counted.width * low, comparison.low + counted.width * high),
    )


def _largest(log_e_values: NDArray[np.float64]) -> float:
    # Before the first episode every wealth is 1.
    top = max(0.0, float(log_e_values.max())) if len(log_e_values) else 0.0
    return min(math.exp(min(top, 700.0)), _LARGEST_E_VALUE)


def _interval_text(interval: Interval) -> str:
    return f"[{interval[0]:.4g}, {interval[1]:.4g}]"


def _guardrail_text(found: GuardrailReport) -> str:
    what = found.name if found.above is None else f"{found.name} above {found.above:g}"
    return f"guardrail breached by {found.arm}: {what} in {found.counted} of {found.episodes} episodes, {100 * found.at_most:g} % allowed"
