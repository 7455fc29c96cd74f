"""What a comparison has proved so far.

The report counts episodes in the order of assignment up to the first one that may still bring an outcome; an episode given up
counts as the worst outcome, on either arm: silence is not success. The decision is that of someone who looked after every
episode: the first e-value to reach 2/alpha decides, and later episodes do not undo it.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from cluster.config import Config
from cluster.store.comparisons import Arm, Comparison, CountedEpisode, comparison_history, get_comparison
from cluster.store.database import Database
from serve_apps.comparison.eprocess import effect_interval, effect_log_e_values, effect_scores, mean_interval, sample_ratio_log_e_values

__all__ = ["SAMPLE_RATIO_ALPHA", "ArmReport", "Report", "analyse", "report"]

Decision = Literal["promote", "keep", "inconclusive"]
Interval = tuple[float, float]

SAMPLE_RATIO_ALPHA = 0.01
"""A verdict is withheld once the split itself is refuted at this level."""
_LARGEST_E_VALUE = 1e300  # JSON has no infinity


class ArmReport(Config):
    """One arm. Means count a missing outcome as the worst, and values beyond the declared bounds as the bound."""

    name: str = Field(description="champion or challenger")
    version: str = Field(description="registered version")
    weight: float = Field(description="share of the episodes, as given")
    episodes: int = Field(description="episodes counted")
    missing: int = Field(description="of these, given up without an outcome")
    clipped: int = Field(description="of these, with a value beyond the declared bounds")
    falls: int = Field(description="of these, ended in a fall")
    mean: float | None = Field(description="mean of the metric, in its units; None: no episode yet")
    interval: Interval = Field(description="confidence sequence of the mean, in the metric's units")


class Report(Config):
    """A comparison's state and verdict at one moment."""

    comparison_id: str = Field(description="which comparison")
    policy: str = Field(description="whose traffic")
    metric: str = Field(description="what is compared; more is better")
    low: float = Field(description="declared lowest value")
    high: float = Field(description="declared highest value")
    alpha: float = Field(description="largest accepted probability of a wrong decision")
    status: str = Field(description="running, promoted, kept or stopped")
    arms: tuple[ArmReport, ...] = Field(description="the champion, then the challenger")
    episodes: int = Field(description="episodes that the verdict counts")
    in_flight: int = Field(description="episodes that may still bring an outcome")
    waiting: int = Field(description="outcomes that stand behind one in flight")
    late: int = Field(description="outcomes after their deadline; kept, not counted")
    difference: float | None = Field(description="challenger's mean minus champion's, in the metric's units; None: an arm has no episode")
    interval: Interval = Field(description="confidence sequence of the difference, in the metric's units")
    e_value: float = Field(description="largest evidence so far that the challenger is better")
    e_value_champion: float = Field(description="largest evidence so far that the champion is better")
    e_threshold: float = Field(description="e-value at which either decides: 2/alpha")
    sample_ratio_e_value: float = Field(description="largest evidence so far that episodes were not split as the weights say")
    decision: Decision = Field(description="promote, keep or inconclusive")
    decided_at_episode: int | None = Field(description="how many episodes it took")
    reason: str = Field(description="the decision in one sentence")

    @property
    def winner(self) -> str | None:
        """Name of the arm that won, if one did."""
        return {"promote": self.arms[1].name, "keep": self.arms[0].name}.get(self.decision)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return self.model_dump(mode="json")

    def to_text(self) -> str:
        """The report as a table for a terminal."""
        level = f"{100 * (1 - self.alpha):g} % interval"
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
        table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        effect = "-" if self.difference is None else f"{self.difference:+.4g}"
        lines = [
            f"comparison {self.comparison_id} of {self.policy}: {self.status}",
            *table,
            f"difference in {self.metric}: {effect}, {level} {_interval_text(self.interval)}",
            f"e-value {self.e_value:.3g} for the challenger, {self.e_value_champion:.3g} for the champion; {self.e_threshold:g} decides",
            f"decision: {self.decision} ({self.reason})",
        ]
        notes = [
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


def report(db: Database, comparison_id: str) -> Report:
    """Analyse a comparison as it stands; a closed one as it stood when it was closed. Raises ``UnknownComparisonError``."""
    comparison = get_comparison(db, comparison_id)
    history = comparison_history(db, comparison_id)
    episodes = history.episodes
    if comparison.status != "running" and comparison.decision is not None:
        episodes = episodes[: int(comparison.decision["report"]["episodes"])]
    return analyse(comparison, episodes, in_flight=history.in_flight, waiting=history.waiting, late=history.late)


def analyse(comparison: Comparison, episodes: list[CountedEpisode], in_flight: int = 0, waiting: int = 0, late: int = 0) -> Report:
    """The report on a list of episodes in the order of assignment; pure computation."""
    champion, challenger = comparison.arms
    width = comparison.high - comparison.low
    raw = np.array([comparison.low if episode.outcome is None else episode.outcome.value for episode in episodes], dtype=np.float64)
    outcome = (np.clip(raw, comparison.low, comparison.high) - comparison.low) / width
    is_challenger = np.array([episode.arm == challenger.name for episode in episodes], dtype=bool)
    own = np.array([episode.propensity for episode in episodes], dtype=np.float64)
    propensity = np.where(is_challenger, own, 1.0 - own)

    scores = effect_scores(outcome, is_challenger, propensity)
    better, worse = effect_log_e_values(scores)
    ratio = sample_ratio_log_e_values(is_challenger, propensity)
    low, high = sorted(effect_interval(scores, comparison.alpha))
    decision, decided_at, reason = _decide(comparison, better, worse, ratio)
    arms = [
        _arm_report(comparison, arm, [episodes[k] for k in np.flatnonzero(mask)], outcome[mask], raw[mask])
        for arm, mask in ((champion, ~is_challenger), (challenger, is_challenger))
    ]
    means = [arm.mean for arm in arms]
    return Report(
        comparison_id=comparison.id,
        policy=comparison.policy,
        metric=comparison.metric,
        low=comparison.low,
        high=comparison.high,
        alpha=comparison.alpha,
        status=comparison.status,
        arms=tuple(arms),
        episodes=len(episodes),
        in_flight=in_flight,
        waiting=waiting,
        late=late,
        difference=None if means[0] is None or means[1] is None else means[1] - means[0],
        interval=(low * width, high * width),
        e_value=_largest(better),
        e_value_champion=_largest(worse),
        e_threshold=2.0 / comparison.alpha,
        sample_ratio_e_value=_largest(ratio),
        decision=decision,
        decided_at_episode=decided_at,
        reason=reason,
    )


def _decide(
    comparison: Comparison, better: NDArray[np.float64], worse: NDArray[np.float64], ratio: NDArray[np.float64]
) -> tuple[Decision, int | None, str]:
    champion, challenger = comparison.arms
    threshold = math.log(2.0 / comparison.alpha)
    if len(ratio) and ratio.max() >= -math.log(SAMPLE_RATIO_ALPHA):
        return "inconclusive", None, "episodes were not split as the weights say; find out why before believing any difference"
    first_better, first_worse = _first(better >= threshold), _first(worse >= threshold)
    if first_better is None and first_worse is None:
        return "inconclusive", None, f"after {len(better)} episodes the evidence does not separate the arms"
    level = f"at alpha {comparison.alpha:g}"
    if first_worse is None or (first_better is not None and first_better < first_worse):
        return (
            "promote",
            first_better,
            f"{challenger.name} (version {challenger.version}) is better {level}; episode {first_better} decided",
        )
    return "keep", first_worse, f"{champion.name} (version {champion.version}) is better {level}; episode {first_worse} decided"


def _arm_report(
    comparison: Comparison, arm: Arm, episodes: list[CountedEpisode], outcome: NDArray[np.float64], raw: NDArray[np.float64]
) -> ArmReport:
    width = comparison.high - comparison.low
    low, high = sorted(mean_interval(outcome, comparison.alpha))
    return ArmReport(
        name=arm.name,
        version=arm.version,
        weight=arm.weight,
        episodes=len(episodes),
        missing=sum(episode.outcome is None for episode in episodes),
        clipped=int(np.count_nonzero((raw < comparison.low) | (raw > comparison.high))),
        falls=sum(episode.outcome is not None and episode.outcome.fell for episode in episodes),
        mean=float(comparison.low + width * outcome.mean()) if len(outcome) else None,
        interval=(comparison.low + width * low, comparison.low + width * high),
    )


def _first(reached: NDArray[np.bool_]) -> int | None:
    """Number of episodes after which a condition first held."""
    return int(reached.argmax()) + 1 if reached.any() else None


def _largest(log_e_values: NDArray[np.float64]) -> float:
    # Before the first episode every wealth is 1.
    top = max(0.0, float(log_e_values.max())) if len(log_e_values) else 0.0
    return min(math.exp(min(top, 700.0)), _LARGEST_E_VALUE)


def _interval_text(interval: Interval) -> str:
    return f"[{interval[0]:.4g}, {interval[1]:.4g}]"
