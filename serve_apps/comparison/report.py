"""What a comparison has proved so far.

The report counts episodes in the order of assignment up to the first one that may still bring an outcome; an episode given up
counts as the worst outcome, on either arm: silence is not success. Where robots are assigned, it counts robots (``units``). The decision
is that of someone who looked after every observation: the first e-value to reach its threshold decides, and later ones do not undo it.

**Several challengers**: each is compared with the champion on the episodes of those two, whose split is known given that it was one of
the two, at alpha divided by the number of challengers (Bonferroni), so that promoting any of them wrongly has at most the probability
alpha. The champion stays once every challenger is proven worse.

**Shadows** never act: they are neither counted nor compared, and a comparison of a champion with shadows alone decides nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.store.comparisons import Comparison, CountedEpisode, comparison_history, get_comparison
from cluster.store.database import Database
from serve_apps.comparison.analysis import (
    SAMPLE_RATIO_ALPHA,
    arm_reports,
    challenger_reports,
    decide,
    largest_e_value,
)
from serve_apps.comparison.counted import Counted
from serve_apps.comparison.eprocess import sample_ratio_log_e_values
from serve_apps.comparison.guardrails import figures_of, guardrail_reports
from serve_apps.comparison.plan_models import Plan
from serve_apps.comparison.report_models import ArmReport, ChallengerReport, GuardrailReport, Report
from serve_apps.comparison.splits import describe_split
from serve_apps.comparison.units import Unit, Units, units_of

__all__ = [
    "SAMPLE_RATIO_ALPHA",
    "ArmReport",
    "ChallengerReport",
    "Examination",
    "GuardrailReport",
    "Report",
    "analyse",
    "examine",
    "guardrail_reports",
    "report",
]


@dataclass(frozen=True)
class Examination:
    """One look: the report, and what it was made of."""

    comparison: Comparison
    units: Units
    counted: Counted
    report: Report


def report(db: Database, comparison_id: str, intervals: bool = True) -> Report:
    """Analyse a comparison as it stands; a closed one as it stood when it was closed. Raises ``UnknownComparisonError``.

    Args:
        db: the database.
        comparison_id: the comparison.
        intervals: False leaves the intervals as wide as they can be: they take most of the time, and no decision needs them.
    """
    return examine(db, comparison_id, intervals).report


def examine(db: Database, comparison_id: str, intervals: bool = True) -> Examination:
    """The report with what it was made of; see ``report``."""
    history = comparison_history(db, comparison_id, figures=figures_of(get_comparison(db, comparison_id)))
    comparison = get_comparison(db, comparison_id)  # after the episodes: it knows every split that they were drawn with
    units = units_of(comparison, history)
    counted_units = units.counted
    if comparison.status not in ("running", "paused") and comparison.decision is not None:
        stood = comparison.decision["report"]
        counted_units = counted_units[: int(stood.get("units") or stood["episodes"])]
    counted = Counted.of(comparison, counted_units)
    found = _analyse(counted, intervals).model_copy(
        update={
            "in_flight": history.in_flight,
            "waiting": units.waiting,
            "late": history.late,
            "open_robots": units.open if comparison.unit == "robot" else 0,
            "guardrails": guardrail_reports(comparison, units),
        }
    )
    advice = {"recommendation": _recommendation(found), "split": describe_split(counted, found)}
    return Examination(comparison, units, counted, found.model_copy(update=advice))


def analyse(
    comparison: Comparison,
    episodes: Sequence[CountedEpisode],
    in_flight: int = 0,
    waiting: int = 0,
    late: int = 0,
    intervals: bool = True,
) -> Report:
    """The report on episodes in the order of assignment, each an observation of its own, without guardrails; pure computation."""
    units: list[Unit] = [(episode,) for episode in episodes]
    found = _analyse(Counted.of(comparison, units), intervals)
    return found.model_copy(update={"in_flight": in_flight, "waiting": waiting, "late": late})


def _analyse(counted: Counted, intervals: bool) -> Report:
    comparison = counted.comparison
    arms = arm_reports(counted, intervals)
    challengers = challenger_reports(counted, arms, intervals)
    ratio = sample_ratio_log_e_values(counted.index, counted.splits)
    decision, leader, decided_at, reason = decide(counted, challengers, ratio)
    return Report(
        comparison_id=comparison.id,
        policy=comparison.policy,
        metric=comparison.metric,
        low=comparison.low,
        high=comparison.high,
        alpha=comparison.alpha,
        status=comparison.status,
        auto=comparison.auto,
        unit=comparison.unit,
        arms=tuple(arms),
        challengers=tuple(challengers),
        episodes=len(counted.episodes),
        units=len(counted),
        max_episodes=comparison.max_episodes,
        in_flight=0,
        waiting=0,
        late=0,
        challenger="" if leader is None else leader.arm,
        difference=None if leader is None else leader.difference,
        interval=(-counted.width, counted.width) if leader is None else leader.interval,
        e_value=1.0 if leader is None else leader.e_value,
        e_value_champion=1.0 if leader is None else leader.e_value_champion,
        e_threshold=1.0 / counted.alpha,
        sample_ratio_e_value=largest_e_value(ratio),
        decision=decision,
        decided_at_episode=decided_at,
        reason=reason,
        plan=None if comparison.plan is None else Plan.model_validate(comparison.plan),
    )


def _recommendation(found: Report) -> str:
    if found.winner is None or found.winner in found.breached or found.auto == "promote" or found.status not in ("running", "paused"):
        return ""
    does = f"`gaitway ab promote {found.comparison_id}` does it"
    return f"recommends {found.decision}; {does}" if found.auto == "recommend" else f"nothing is done about it by itself; {does}"
