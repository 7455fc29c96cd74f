"""A grade as one HTML page that works offline: ``gaitway dataset grade DATASET --html FILE``. See ``cluster.page.page``."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from cluster.config import write_text_atomic
from cluster.errors import UsageError
from cluster.page.page import render_page
from trainables.datasets.quality.charts import coverage_chart, histograms, letters_chart, trace_chart
from trainables.datasets.quality.config import QualityConfig
from trainables.datasets.quality.grading import Graded
from trainables.datasets.quality.model import LETTERS, EpisodeGrade
from trainables.datasets.quality.text import CHECKS
from trainables.datasets.quality.traces import read_traces
from trainables.datasets.sources.base import Source

__all__ = ["render", "write_page"]

SHOWN = 10
"""Episodes with a drawing."""
LISTED = 300


def write_page(graded: Graded, source: Source, path: Path) -> None:
    """Write the page; the worst episodes are read again for their traces. Raises ``UsageError`` when the file cannot be written."""
    html = render(graded, source)
    try:
        write_text_atomic(path, html)
    except OSError as error:
        raise UsageError(f"--html {path}: cannot be written: {error.strerror}; give a file in a folder that may be written") from None


def render(graded: Graded, source: Source) -> str:
    """The page's HTML."""
    grade = graded.grade
    worst = grade.worst(SHOWN)
    traces = read_traces(source, [episode.key for episode in worst])
    figures = {"letters": letters_chart(grade), **histograms(grade)}
    if chart := coverage_chart(graded.coverage, grade.episodes):
        figures["coverage"] = chart
    figures |= {f"episode-{item.key}": trace_chart(traces[item.key], item) for item in worst if item.key in traces}
    listed = sorted(grade.episodes, key=lambda item: (-LETTERS.index(item.letter), -len(item.defects), -len(item.risks), item.key))
    out = len(grade.episodes) - len(grade.kept("C"))
    context = {
        "grade": grade,
        "name": Path(grade.dataset).name or grade.dataset,
        "worst": worst,
        "listed": listed[:LISTED],
        "figures": figures,
        "histograms": [name for name in figures if name.startswith("histogram-")],
        "affected": _affected(grade.episodes),
        "checks": CHECKS,
        "letters": grade.letters(),
        "out": out,
        "thresholds": [(name, getattr(graded.config, name), field.description) for name, field in QualityConfig.model_fields.items()],
        "now": datetime.now(UTC),
    }
    filters = {"where": _where, "number_of": lambda item: str(item.index) if item.key.isdigit() else item.key}
    return render_page("trainables.datasets.quality", "quality", context, {"figures": figures}, filters)


def _affected(episodes: tuple[EpisodeGrade, ...]) -> list[tuple[str, str, int]]:
    """(severity, check, episodes), defects first, the most frequent first."""
    counts: dict[tuple[str, str], int] = {}
    for episode in episodes:
        for severity, findings in (("defect", episode.defects), ("risk", episode.risks)):
            for check in {finding.check for finding in findings}:
                counts[severity, check] = counts.get((severity, check), 0) + 1
    return sorted(((*key, count) for key, count in counts.items()), key=lambda item: (item[0], -item[2], item[1]))


def _where(finding: object) -> str:
    start, end = getattr(finding, "start_s", None), getattr(finding, "end_s", None)
    if start is None:
        return ""
    return f"{start:.2f} s" if end is None or end - start < 0.05 else f"{start:.2f} to {end:.2f} s"
