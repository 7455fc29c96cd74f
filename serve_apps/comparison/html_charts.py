"""The page's charts; see ``cluster.page.figures``. The horizontal axis is always episodes (or robots) in the order of assignment."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from cluster.page.figures import Figure, label, metric_label
from serve_apps.comparison.report import Report
from serve_apps.comparison.timeline import Timeline

__all__ = ["ARM_COLOURS", "difference", "evidence", "guardrails", "means", "sample_ratio", "shares"]

ARM_COLOURS = ("@champion", "@first", "@second", "@third")
"""By position; each has a ``-soft`` one for bands."""
_LEAST_LOG10, _MOST_LOG10 = -3.0, 12.0
"""What e-value charts show: nothing beyond decides anything."""

Colours = Mapping[str, str]


def difference(report: Report, timeline: Timeline, colours: Colours) -> Figure | None:
    """Each challenger's difference from the champion with its confidence sequence, a line at zero, and where it was decided."""
    if not timeline.challengers or not timeline.episodes:
        return None
    traces: list[Figure] = []
    for challenger in timeline.challengers:
        colour = colours[challenger.arm]
        traces += _band(timeline.episodes, challenger.low, challenger.high, colour, challenger.arm)
        traces.append(_line(timeline.episodes, challenger.difference, colour, challenger.arm, f"{label(challenger.arm)}: %{{y:+.4g}}"))
    x = timeline.episodes
    bounds = [value for item in timeline.challengers for series in (item.low, item.high, item.difference) for value in _late(x, series)]
    title = f"difference in {metric_label(report.metric)}"
    layout = _layout(report, title, {"range": _range([*bounds, 0.0]), "zeroline": False})
    layout["shapes"] = [_horizontal(0.0, "@ink", "solid"), *_decided(report)]
    layout["annotations"] = _decided_note(report)
    return {"data": traces, "layout": layout}


def evidence(report: Report, timeline: Timeline, colours: Colours) -> Figure | None:
    """E-values of both sides on a logarithmic axis, and the line that decides."""
    if not timeline.challengers or not timeline.episodes:
        return None
    traces = []
    for challenger in timeline.challengers:
        colour = colours[challenger.arm]
        better, worse = _powers(challenger.log10_e_value), _powers(challenger.log10_e_value_champion)
        name = challenger.arm
        traces.append(_line(timeline.episodes, better, colour, f"{name} is better", f"{label(name)} is better: %{{y:.3g}}"))
        dashed = _line(timeline.episodes, worse, colour, f"{name} is worse", f"{label(name)} is worse: %{{y:.3g}}")
        traces.append(dashed | {"line": {"color": colour, "width": 1.6, "dash": "dash"}})
    layout = _layout(report, "e-value", _log_axis([trace["y"] for trace in traces], report.e_threshold))
    layout["shapes"] = [_horizontal(report.e_threshold, "@winner", "dot"), *_decided(report)]
    layout["annotations"] = [_threshold_note(report.e_threshold, f"{report.e_threshold:g} decides")]
    return {"data": traces, "layout": layout}


def means(report: Report, timeline: Timeline, colours: Colours) -> Figure | None:
    """Every arm's running mean with its confidence sequence."""
    if not timeline.episodes:
        return None
    traces: list[Figure] = []
    for arm in timeline.arms:
        colour = colours[arm.arm]
        traces += _band(timeline.episodes, arm.low, arm.high, colour, arm.arm)
        traces.append(_line(timeline.episodes, arm.mean, colour, arm.arm, f"{label(arm.arm)}: %{{y:.4g}}"))
    bounds = [value for arm in timeline.arms for series in (arm.low, arm.high) for value in _late(timeline.episodes, series)]
    return {"data": traces, "layout": _layout(report, metric_label(report.metric), {"range": _range(bounds)})}


def shares(report: Report, timeline: Timeline, colours: Colours) -> Figure | None:
    """Each arm's share of the episodes so far against what the weights have said so far; changes of the weights are marked."""
    if not timeline.episodes or len(timeline.arms) < 2:
        return None
    traces = []
    for arm in timeline.arms:
        colour = colours[arm.arm]
        traces.append(_line(timeline.episodes, arm.share, colour, arm.arm, f"{label(arm.arm)}: %{{y:.1%}}"))
        stated = _line(timeline.episodes, arm.stated_share, colour, arm.arm, f"{label(arm.arm)}, stated: %{{y:.1%}}")
        traces.append(stated | {"line": {"color": colour, "width": 1.6, "dash": "dot"}, "showlegend": False, "legendgroup": arm.arm})
    layout = _layout(report, f"share of the {report.unit}s so far", {"range": [0, 1.02], "tickformat": ".0%"})
    changes = [split for split in timeline.splits if split.version > 1]
    layout["shapes"] = [_vertical(split.episode, "@rung", "dash") for split in changes]
    layout["annotations"] = [_note(split.episode, f"weights {split.version}") for split in changes[:12]]
    return {"data": traces, "layout": layout}


def sample_ratio(report: Report, timeline: Timeline, alpha: float) -> Figure | None:
    """Evidence that episodes were not split as the weights say."""
    if not timeline.episodes or len(timeline.arms) < 2:
        return None
    values = _powers(timeline.sample_ratio_log10_e_value)
    trace = _line(timeline.episodes, values, "@running", "sample ratio", "e-value %{y:.3g}")
    layout = _layout(report, "e-value of the split", _log_axis([values], 1.0 / alpha)) | {"showlegend": False, "height": 260}
    layout["shapes"] = [_horizontal(1.0 / alpha, "@failed", "dot")]
    layout["annotations"] = [_threshold_note(1.0 / alpha, f"{1.0 / alpha:g} withholds every verdict")]
    return {"data": [trace], "layout": layout}


def guardrails(report: Report, timeline: Timeline, colours: Colours) -> dict[str, Figure]:
    """One chart a guardrail: the evidence of each arm that it is breached."""
    thresholds = {(item.arm, item.name, item.above): item.e_threshold for item in report.guardrails}
    kinds: dict[tuple[str, float | None], list[Any]] = {}
    for item in timeline.guardrails:
        if item.episodes:
            kinds.setdefault((item.name, item.above), []).append(item)
    charts = {}
    for index, ((name, above), items) in enumerate(kinds.items()):
        threshold = thresholds.get((items[0].arm, name, above), 20.0)
        traces = [
            _line(item.episodes, _powers(item.log10_e_value), colours[item.arm], item.arm, f"{label(item.arm)}: %{{y:.3g}}")
            for item in items
        ]
        title = label(name if above is None else f"{name} above {above:g}")
        layout = _layout(report, f"{title}: e-value", _log_axis([trace["y"] for trace in traces], threshold)) | {"height": 280}
        layout["shapes"] = [_horizontal(threshold, "@failed", "dot")]
        layout["annotations"] = [_threshold_note(threshold, f"{threshold:g} is a breach")]
        charts[f"guardrail-{index}"] = {"data": traces, "layout": layout}
    return charts


def _line(x: Sequence[int], y: Sequence[float | None], colour: str, name: str, hover: str) -> Figure:
    mode = "lines" if len(x) > 1 else "markers"
    look = {"line": {"color": colour, "width": 2}, "marker": {"color": colour, "size": 7}}
    text = {"name": label(name), "legendgroup": label(name), "hovertemplate": hover + "<extra></extra>"}
    return {"type": "scatter", "mode": mode, "x": list(x), "y": list(y), **look, **text}


def _band(x: Sequence[int], low: Sequence[float | None], high: Sequence[float | None], colour: str, name: str) -> list[Figure]:
    edge = {"type": "scatter", "mode": "lines", "x": list(x), "line": {"width": 0, "color": colour}, "showlegend": False}
    edge |= {"legendgroup": label(name), "hoverinfo": "skip"}
    return [edge | {"y": list(low)}, edge | {"y": list(high), "fill": "tonexty", "fillcolor": f"{colour}-soft"}]


def _layout(report: Report, title: str, yaxis: Figure) -> Figure:
    xaxis = {"title": {"text": f"{report.unit}s"}, "rangemode": "tozero", "tickformat": ",d"}
    return {"title": {"text": title}, "xaxis": xaxis, "yaxis": yaxis, "hovermode": "x"}


def _log_axis(series: Sequence[Sequence[float | None]], threshold: float) -> Figure:
    values = [value for values in series for value in values if value is not None]
    low = min([*values, 0.5])
    return {
        "type": "log",
        "range": [math.log10(low) - 0.15, math.log10(max([*values, threshold])) + 0.4],
        "exponentformat": "power",
        "dtick": 1,
    }


def _powers(log10_values: Sequence[float | None]) -> list[float | None]:
    return [None if value is None else 10.0 ** min(max(value, _LEAST_LOG10), _MOST_LOG10) for value in log10_values]


def _late(x: Sequence[int], values: Sequence[float | None]) -> list[float]:
    """All but the first tenth: at the beginning an interval is as wide as the metric, and showing that would hide the rest."""
    return [value for at, value in zip(x, values, strict=True) if value is not None and at >= 0.1 * x[-1]]


def _range(values: Sequence[float]) -> list[float]:
    low, high = min(values), max(values)
    space = 0.08 * (high - low) or 0.1
    return [low - space, high + space]


def _decided(report: Report) -> list[Figure]:
    return [] if report.decided_at_episode is None else [_vertical(report.decided_at_episode, "@winner", "dash")]


def _decided_note(report: Report) -> list[Figure]:
    return [] if report.decided_at_episode is None else [_note(report.decided_at_episode, f"decided at {report.decided_at_episode:,}")]


def _vertical(x: float, colour: str, dash: str) -> Figure:
    return {"type": "line", "x0": x, "x1": x, "y0": 0, "y1": 1, "yref": "paper", "line": {"color": colour, "width": 1.4, "dash": dash}}


def _horizontal(y: float, colour: str, dash: str) -> Figure:
    return {"type": "line", "x0": 0, "x1": 1, "xref": "paper", "y0": y, "y1": y, "line": {"color": colour, "width": 1.4, "dash": dash}}


def _note(x: float, text: str) -> Figure:
    place = {"x": x, "y": 1, "yref": "paper", "yanchor": "bottom", "xanchor": "center", "showarrow": False}
    return {**place, "text": label(text), "font": {"size": 11, "color": "@muted"}}


def _threshold_note(y: float, text: str) -> Figure:
    place = {"x": 0, "xref": "paper", "xanchor": "left", "y": math.log10(y), "yanchor": "bottom", "showarrow": False}
    return {**place, "text": label(text), "font": {"size": 11, "color": "@muted"}}
