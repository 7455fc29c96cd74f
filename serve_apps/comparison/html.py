"""A comparison as one HTML page that works offline: ``page(db, ID)``, ``gaitway ab report ID --html FILE``, ``GET …/report.html``.

See ``cluster.page.page`` for what such a page is.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from cluster.config import write_text_atomic
from cluster.errors import UsageError
from cluster.page.page import render_page
from cluster.page.words import in_unit, number, unit_of
from cluster.store.comparisons import Comparison
from cluster.store.database import Database
from cluster.store.shadows import ShadowReport, shadow_figures
from cluster.store.trail import TrailEntry, comparison_trail
from serve_apps.comparison import html_charts
from serve_apps.comparison.html_words import change_text, next_commands, verdict
from serve_apps.comparison.report import SAMPLE_RATIO_ALPHA, Examination, examine
from serve_apps.comparison.timeline import Timeline, timeline_of

__all__ = ["examine", "page", "render", "shadows_of", "write_page"]


def page(db: Database, comparison_id: str) -> str:
    """The page of a comparison as it stands. Raises ``UnknownComparisonError``."""
    look = examine(db, comparison_id)
    return render(look, timeline_of(look), comparison_trail(db, comparison_id), shadows_of(db, look.comparison))


def write_page(db: Database, comparison_id: str, path: Path) -> None:
    """Write the page to a file. Raises ``UnknownComparisonError``, or ``UsageError`` when the file cannot be written."""
    html = page(db, comparison_id)
    try:
        write_text_atomic(path, html)
    except OSError as error:
        raise UsageError(f"--html {path}: cannot be written: {error.strerror}; give a file in a folder that may be written") from None


def render(look: Examination, timeline: Timeline, trail: list[TrailEntry], shadows: tuple[ShadowReport, ...] = ()) -> str:
    """The page's HTML.

    Args:
        look: the comparison and its report.
        timeline: how the report came about.
        trail: what happened to it.
        shadows: reports of its shadow arms.
    """
    comparison, found = look.comparison, look.report
    colours = {arm.name: colour for arm, colour in zip(comparison.arms, html_charts.ARM_COLOURS, strict=False)}
    drawn = {
        "difference": html_charts.difference(found, timeline, colours),
        "evidence": html_charts.evidence(found, timeline, colours),
        "means": html_charts.means(found, timeline, colours),
        "shares": html_charts.shares(found, timeline, colours),
        "ratio": html_charts.sample_ratio(found, timeline, SAMPLE_RATIO_ALPHA),
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
        "plan": found.plan,
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


def shadows_of(db: Database, comparison: Comparison) -> tuple[ShadowReport, ...]:
    """What its shadow arms did; nothing is asked where it has none."""
    return shadow_figures(db, comparison.id) if any(arm.shadow for arm in comparison.arms) else ()


def _e_value(value: float) -> str:
    return number(value, 3) if value < 1e6 else f"{value:.1e}".replace("e+", "e")
