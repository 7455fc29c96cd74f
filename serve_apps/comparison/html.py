"""A comparison as one HTML page that works offline: ``page(db, ID)``, ``gaitway ab report ID --html FILE``, ``GET …/report.html``.

See ``cluster.page.page`` for what such a page is.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from cluster.page.page import render_page
from cluster.page.words import in_unit, number, unit_of
from cluster.store.comparisons import Comparison, comparison_history, get_comparison
from cluster.store.database import Database
from cluster.store.trail import TrailEntry, comparison_trail
from serve_apps.comparison import html_charts
from serve_apps.comparison.html_words import change_text, next_commands, verdict
from serve_apps.comparison.report import SAMPLE_RATIO_ALPHA, Report, report
from serve_apps.comparison.timeline import Timeline, timeline_of

__all__ = ["page", "render"]


def page(db: Database, comparison_id: str) -> str:
    """The page of a comparison as it stands. Raises ``UnknownComparisonError``."""
    found = report(db, comparison_id)
    history = comparison_history(db, comparison_id)
    comparison = get_comparison(db, comparison_id)
    shadows: tuple[Any, ...] = ()
    if any(arm.shadow for arm in comparison.arms):
        from cluster.store.shadows import shadow_figures

        shadows = shadow_figures(db, comparison_id)
    return render(comparison, found, timeline_of(comparison, history, found), comparison_trail(db, comparison_id), shadows)


def render(comparison: Comparison, found: Report, timeline: Timeline, trail: list[TrailEntry], shadows: tuple[Any, ...] = ()) -> str:
    """The page's HTML.

    Args:
        comparison: what was asked for, and how it ended.
        found: its report.
        timeline: how the report came about.
        trail: what happened to it.
        shadows: reports of its shadow arms (``cluster.store.shadows``).
    """
    colours = {arm.name: colour for arm, colour in zip(comparison.arms, html_charts.ARM_COLOURS, strict=False)}
    drawn = {
        "difference": html_charts.difference(found, timeline, colours),
        "evidence": html_charts.evidence(found, timeline, colours),
        "means": html_charts.means(found, timeline, colours),
        "shares": html_charts.shares(timeline, colours),
        "ratio": html_charts.sample_ratio(timeline, SAMPLE_RATIO_ALPHA),
        **html_charts.guardrails(found, timeline, colours),
    }
    figures = {name: figure for name, figure in drawn.items() if figure}
    total = sum(arm.weight for arm in comparison.arms)
    metric = comparison.metric
    context = {
        "comparison": comparison,
        "report": found,
        "timeline": timeline,
        "verdict": verdict(comparison, found),
        "commands": next_commands(comparison, found),
        "figures": figures,
        "guardrail_charts": [name for name in figures if name.startswith("guardrail-")],
        "colours": {name: colour.removeprefix("@") for name, colour in colours.items()},
        "shares": {arm.name: arm.weight / total if total else 0.0 for arm in comparison.arms},
        "sample_ratio_threshold": 1.0 / SAMPLE_RATIO_ALPHA,
        "level": found.interval_level,
        "unit": unit_of(metric),
        "trail": [entry for entry in trail if entry.kind != "weights"],
        "splits": timeline.splits,
        "shadows": shadows,
        "plan": comparison.plan,
        "now": datetime.now(UTC),
    }
    filters = {
        "metric": lambda value: in_unit(value, metric),
        "signed": lambda value: "–" if value is None else f"{value:+.3g}{' ' + unit_of(metric) if unit_of(metric) else ''}",
        "what": change_text,
        "evalue": _e_value,
        "time": lambda at: f"{at:%Y-%m-%d %H:%M:%S}",
    }
    return render_page("serve_apps.comparison", "comparison", context, {"figures": figures}, filters)


def _e_value(value: float) -> str:
    return number(value, 3) if value < 1e6 else f"{value:.1e}".replace("e+", "e")
