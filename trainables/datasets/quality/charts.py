"""The page's charts; see ``cluster.page.figures``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cluster.page.figures import Figure, label, packed
from trainables.datasets.quality.coverage import Coverage
from trainables.datasets.quality.model import LETTERS, DatasetGrade, EpisodeGrade, Finding
from trainables.datasets.quality.signals import joint_name
from trainables.datasets.quality.traces import Trace

__all__ = ["HISTOGRAMS", "coverage_chart", "histograms", "letters_chart", "trace_chart"]

MOST_LANES = 12
HISTOGRAMS = {
    "duration_s": "duration, s",
    "smoothness_ldlj": "smoothness, log dimensionless jerk",
    "path_efficiency": "path efficiency",
    "idle_share": "idle share",
    "lag_ms": "state behind action, ms",
    "high_frequency_share": "high-frequency share of the action",
}


def letters_chart(grade: DatasetGrade) -> Figure:
    """Episodes by letter."""
    counts = grade.letters()
    bar = {
        "type": "bar",
        "orientation": "h",
        "y": list(counts),
        "x": list(counts.values()),
        "marker": {"color": [f"@grade-{letter.lower()}" for letter in counts]},
        "text": [f"{count:,}" if count else "" for count in counts.values()],
        "textposition": "auto",
        "hovertemplate": "%{y}: %{x} episodes<extra></extra>",
    }
    layout = {
        "yaxis": {"autorange": "reversed"},
        "xaxis": {"title": {"text": "episodes"}, "dtick": _dtick(max(counts.values()))},
        "showlegend": False,
        "height": 240,
    }
    return {"data": [bar], "layout": layout}


def histograms(grade: DatasetGrade) -> dict[str, Figure]:
    """One chart for each measure that the episodes have, flawed ones apart."""
    charts = {}
    for name, title in HISTOGRAMS.items():
        values = [(episode.letter in "DF", episode.measures.get(name)) for episode in grade.episodes]
        known = np.array([value for _, value in values if value is not None])
        if len(known) < 2 or np.ptp(known) == 0:
            continue
        # Outliers go into the outermost bins: a single one would squeeze all others into one.
        low, high = np.quantile(known, [0.01, 0.99])
        low, high = (low, high) if high > low else (known.min(), known.max())
        edges = np.linspace(low, high, min(40, 6 + int(np.sqrt(len(known)))) + 1)
        traces = []
        for flawed, colour, legend in ((False, "@finished", "A to C"), (True, "@failed", "D and F")):
            own = np.array([value for bad, value in values if value is not None and bad == flawed])
            if not len(own):
                continue
            count, _ = np.histogram(np.clip(own, low, high), edges)
            middle = (edges[1:] + edges[:-1]) / 2
            bar = {"type": "bar", "x": packed(middle, "f4"), "y": packed(count, "i4"), "name": legend, "marker": {"color": colour}}
            traces.append(bar | {"hovertemplate": "%{x:.3g}: %{y}<extra></extra>", "width": float(edges[1] - edges[0])})
        layout = {"title": {"text": title}, "barmode": "stack", "bargap": 0.02, "height": 250, "showlegend": False}
        layout["yaxis"] = {"dtick": _dtick(int(np.histogram(np.clip(known, low, high), edges)[0].max()))}
        charts[f"histogram-{name}"] = {"data": traces, "layout": layout}
    return charts


def coverage_chart(coverage: Coverage, episodes: Sequence[EpisodeGrade]) -> Figure | None:
    """States on their two main axes, by the letter of their episode."""
    if not len(coverage.points):
        return None
    letters = np.array([episodes[index].letter for index in coverage.episodes])
    traces = []
    for letter in LETTERS:
        own = letters == letter
        if not own.any():
            continue
        points = coverage.points[own]
        colour = f"@grade-{letter.lower()}"
        look = {"mode": "markers", "marker": {"color": colour, "size": 4 if letter in "ABC" else 6, "opacity": 0.55}}
        text = [f"episode {episodes[index].index}" for index in coverage.episodes[own]]
        place = {"x": packed(points[:, 0], "f4"), "y": packed(points[:, 1], "f4")}
        traces.append({"type": "scattergl", **place, **look, "name": letter, "text": text, "hovertemplate": "%{text}<extra></extra>"})
    axes = {"xaxis": {"title": {"text": "first main axis, in ranges"}}, "yaxis": {"title": {"text": "second main axis, in ranges"}}}
    return {"data": traces, "layout": axes | {"height": 420}}


def trace_chart(trace: Trace, episode: EpisodeGrade) -> Figure:
    """Each joint in a lane of its own: measured (solid) and commanded (dotted), what was found shaded."""
    findings = [*episode.defects, *episode.risks]
    named = [joint_name(finding.component) for finding in findings if finding.component]
    order = dict.fromkeys([joint for joint in trace.joints if joint in named] + list(trace.joints))
    lanes = list(order)[:MOST_LANES]
    traces: list[Figure] = []
    for lane, joint in enumerate(lanes):
        sides = [side[joint] for side in (trace.state, trace.action) if joint in side]
        low, high = min(side.min() for side in sides), max(side.max() for side in sides)
        span = (high - low) or 1.0
        for values, name, look in (
            (trace.state.get(joint), "measured", {"color": "@finished", "width": 1.5}),
            (trace.action.get(joint), "commanded", {"color": "@winner", "width": 1.2, "dash": "dot"}),
        ):
            if values is None:
                continue
            # From the top down, 0.85 of a lane high.
            height = 0.85 * (values - low) / span - lane
            line = {"type": "scatter", "mode": "lines", "x": packed(trace.seconds, "f4"), "y": packed(height, "f4"), "line": look}
            line |= {"name": name, "legendgroup": name, "showlegend": lane == 0, "customdata": packed(values, "f4")}
            traces.append(line | {"hovertemplate": f"{label(joint)} {name} %{{customdata:.4g}} at %{{x:.2f}} s<extra></extra>"})
    ticks = {"tickmode": "array", "tickvals": [0.42 - lane for lane in range(len(lanes))], "ticktext": [label(joint) for joint in lanes]}
    layout = {
        "xaxis": {"title": {"text": "s"}},
        "yaxis": {**ticks, "showgrid": False, "zeroline": False, "range": [-len(lanes) + 0.9, 1.05]},
        "shapes": [shape for finding in findings for shape in _marked(finding, lanes, float(trace.seconds[-1]))],
        "height": 120 + 44 * len(lanes),
        "margin": {"l": 150, "r": 14, "t": 14, "b": 84},
    }
    return {"data": traces, "layout": layout}


def _dtick(most: int) -> int:
    """Distance of the ticks of an axis that counts: whole, about five of them."""
    power = 10 ** max(0, len(str(max(1, most // 5))) - 1)
    return next(step for step in (power, 2 * power, 5 * power, 10 * power) if step * 5 >= most)


def _marked(finding: Finding, lanes: list[str], end_s: float) -> list[Figure]:
    """Where it was found: a lane, or all; a moment, or the whole time."""
    joint = joint_name(finding.component)
    if finding.start_s is None and joint not in lanes:
        return []
    start, end = (0.0, end_s) if finding.start_s is None else (finding.start_s, finding.end_s or finding.start_s)
    least = 0.004 * end_s
    middle = (start + end) / 2
    start, end = min(start, middle - least), max(end, middle + least)
    colour = "@failed-soft" if finding.severity == "defect" else "@unfinished-soft"
    if joint in lanes:
        bottom = -lanes.index(joint) - 0.05
        place = {"y0": bottom, "y1": bottom + 0.95}
    else:
        place = {"y0": 0, "y1": 1, "yref": "paper"}
    return [{"type": "rect", "x0": start, "x1": end, **place, "fillcolor": colour, "line": {"width": 0}, "layer": "below"}]
