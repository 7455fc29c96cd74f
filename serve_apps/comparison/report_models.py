"""What a report says, and how it reads in a terminal."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from cluster.config import Config
from cluster.store.models import Auto, Unit
from serve_apps.comparison.plan_models import Plan

__all__ = ["ArmReport", "ChallengerReport", "Decision", "GuardrailReport", "Interval", "Report"]

Decision = Literal["promote", "keep", "inconclusive"]
Interval = tuple[float, float]


class ArmReport(Config):
    """One arm. Means count a missing outcome as the worst, and values beyond the declared bounds as the bound."""

    name: str = Field(description="name of the arm")
    version: str = Field(description="registered version")
    weight: float = Field(description="share of the episodes, as given")
    episodes: int = Field(description="episodes counted")
    robots: int | None = Field(None, description="robots counted; None: episodes are assigned, not robots")
    missing: int = Field(description="of these episodes, given up without an outcome")
    clipped: int = Field(description="of these episodes, with a value beyond the declared bounds")
    falls: int = Field(description="of these episodes, ended in a fall")
    mean: float | None = Field(description="mean of the metric over episodes, or over robots, in its units; None: nothing counted yet")
    interval: Interval = Field(description="confidence sequence of the mean, in the metric's units")


class ChallengerReport(Config):
    """One challenger against the champion, on the episodes, or robots, of those two."""

    arm: str = Field(description="the challenger")
    episodes: int = Field(description="episodes of the two, counted; robots where these are assigned")
    difference: float | None = Field(
        description="its mean minus the champion's, in the metric's units, or what unbiased says; None: an arm has nothing counted"
    )
    unbiased: bool = Field(
        False,
        description="the split varied: the difference is the mean of the doubly robust scores, each weighed with its own split; "
        "a plain difference of means would be biased where outcomes drift or the split follows them",
    )
    interval: Interval = Field(description="confidence sequence of the difference, in the metric's units")
    e_value: float = Field(description="largest evidence so far that it is better")
    e_value_champion: float = Field(description="largest evidence so far that the champion is better")
    better_at: int | None = Field(description="episodes, or robots, of the whole comparison after which it was proven better")
    worse_at: int | None = Field(description="episodes, or robots, of the whole comparison after which it was proven worse")


class GuardrailReport(Config):
    """One guardrail of one arm."""

    arm: str = Field(description="which arm")
    name: str = Field(description="fell, missing, a figure of the outcome's metrics, or server_ and one that the server measured")
    above: float | None = Field(description="an episode counts when the figure is above this")
    at_most: float = Field(description="share of episodes that may count")
    episodes: int = Field(description="episodes that have ended")
    counted: int = Field(description="of these, those that count")
    e_value: float = Field(description="largest evidence so far that the share is above")
    e_threshold: float = Field(description="e-value at which it is breached: 1/alpha")
    breached: bool = Field(description="whether it was reached")


class Report(Config):
    """A comparison's state and verdict at one moment. The figures of a challenger here are those of ``challenger``, the leading one.

    Shadow arms are not in it: they never act, so that nothing can be said about their success.
    """

    comparison_id: str = Field(description="which comparison")
    policy: str = Field(description="whose traffic")
    metric: str = Field(description="what is compared; more is better")
    low: float = Field(description="declared lowest value")
    high: float = Field(description="declared highest value")
    alpha: float = Field(description="largest accepted probability of a wrong promotion, and of a wrong keeping")
    status: str = Field(description="running, paused, promoted, kept or stopped")
    auto: Auto = Field("off", description="what is done about a verdict")
    unit: Unit = Field("episode", description="what is assigned and counted as one observation")
    arms: tuple[ArmReport, ...] = Field(description="the champion, then the challengers")
    challengers: tuple[ChallengerReport, ...] = Field(description="each challenger against the champion; none: all others are shadows")
    guardrails: tuple[GuardrailReport, ...] = Field((), description="each guardrail of each arm")
    episodes: int = Field(description="episodes that the verdict counts")
    units: int | None = Field(None, description="episodes, or robots, that the verdict counts")
    max_episodes: int | None = Field(None, description="episodes after which it pauses without a verdict")
    in_flight: int = Field(description="episodes that may still bring an outcome")
    waiting: int = Field(description="outcomes that stand behind one in flight, or behind a robot that is not done")
    late: int = Field(description="outcomes after their deadline; kept, not counted")
    open_robots: int = Field(0, description="robots whose episodes are not all in")
    challenger: str = Field(description="the challenger that decided, or has the most evidence; empty: there is none")
    difference: float | None = Field(description="see the challenger's; None: an arm has nothing counted")
    interval: Interval = Field(description="confidence sequence of the difference, in the metric's units")
    e_value: float = Field(description="largest evidence so far that the challenger is better")
    e_value_champion: float = Field(description="largest evidence so far that the champion is better")
    e_threshold: float = Field(description="e-value at which either decides: the number of challengers over alpha")
    sample_ratio_e_value: float = Field(description="largest evidence so far that episodes, or robots, were not split as the weights say")
    decision: Decision = Field(description="promote, keep or inconclusive")
    decided_at_episode: int | None = Field(description="how many episodes, or robots, it took")
    reason: str = Field(description="the decision in one sentence")
    recommendation: str = Field("", description="what somebody should do about a verdict that does not take effect by itself")
    split: str = Field("", description="how the split moves by itself, and where it stands; empty: it does not")
    plan: Plan | None = Field(None, description="what could be expected when it began")

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
        return 1.0 - 2.0 * self.alpha / max(1, len(self.challengers))

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return self.model_dump(mode="json")

    def to_text(self) -> str:
        """The report as a table for a terminal."""
        lines = [f"comparison {self.comparison_id} of {self.policy}: {self.status}", *self._arm_lines()]
        for found in self.challengers:
            lines += self._challenger_lines(found)
        lines.append(f"decision: {self.decision} ({self.reason})")
        lines += [line for line in (self.recommendation, self.split, "; ".join(self._notes())) if line]
        return "\n".join([*lines, *(self.plan.lines(self.metric) if self.plan is not None else ())])

    def _arm_lines(self) -> list[str]:
        by_robot = self.unit == "robot"
        level = f"{100 * self.interval_level:.4g} % interval"
        robots = ("robots",) if by_robot else ()
        rows = [("arm", "version", "weight", *robots, "episodes", "missing", "falls", f"mean {self.metric}", level)]
        rows += [
            (
                arm.name,
                arm.version,
                f"{arm.weight:g}",
                *((f"{arm.robots}",) if by_robot else ()),
                f"{arm.episodes}",
                f"{arm.missing}",
                f"{arm.falls}",
                "-" if arm.mean is None else f"{arm.mean:.4g}",
                _interval_text(arm.interval),
            )
            for arm in self.arms
        ]
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]

    def _challenger_lines(self, found: ChallengerReport) -> list[str]:
        effect = "-" if found.difference is None else f"{found.difference:+.4g}"
        of = f" of {found.arm}" if len(self.challengers) > 1 else ""
        unbiased = " (unbiased, by doubly robust scores: the split varied)" if found.unbiased else ""
        return [
            f"difference{of} in {self.metric}: {effect}{unbiased}, "
            f"{100 * self.interval_level:.4g} % interval {_interval_text(found.interval)}",
            f"e-value {found.e_value:.3g} for {found.arm}, {found.e_value_champion:.3g} for {self.arms[0].name}; "
            f"{self.e_threshold:g} decides",
        ]

    def _notes(self) -> list[str]:
        notes = [
            *(_guardrail_text(guardrail) for guardrail in self.guardrails if guardrail.breached),
            f"{self.in_flight} in flight" if self.in_flight else "",
            f"{self.open_robots} robots are not done" if self.open_robots else "",
            f"{self.waiting} outcomes wait behind them" if self.waiting else "",
            f"{self.late} outcomes came late" if self.late else "",
            *(
                f"{arm.clipped} of {arm.name}'s values beyond [{self.low:g}, {self.high:g}] were clipped"
                for arm in self.arms
                if arm.clipped
            ),
        ]
        return [note for note in notes if note]


def _interval_text(interval: Interval) -> str:
    return f"[{interval[0]:.4g}, {interval[1]:.4g}]"


def _guardrail_text(found: GuardrailReport) -> str:
    what = found.name if found.above is None else f"{found.name} above {found.above:g}"
    return f"guardrail breached by {found.arm}: {what} in {found.counted} of {found.episodes} episodes, {100 * found.at_most:g} % allowed"
