"""The report's charts as Plotly figures in plain dictionaries: curves, importance, seeds, stopped trials, lineage.

See ``cluster.page.figures``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from cluster.page.figures import Figure, label, metric_label, packed
from trainables.sweeps.analysis.words import number, percent

__all__ = ["STATUS_COLOURS", "Figure", "curves", "importance", "label", "lineage", "metric_label", "packed", "seeds", "stopped"]

STATUS_COLOURS = {
    "stopped early": "@stopped",
    "unfinished": "@unfinished",
    "pending": "@running",
    "failed": "@failed",
    "paused": "@running",
    "running": "@running",
    "finished": "@finished",
}
"""Status -> colour, in the order in which they are drawn: the last lies on top."""
_SYMBOLS = {"stopped early": "x-thin-open", "failed": "x", "finished": "circle"}
_GL_POINTS = 5_000
"""More points than this are drawn by the graphics card."""
_MOST_ROWS = 40
"""Rows of a chart with one row a trial or configuration; the tables have all."""


def curves(analysis: dict[str, Any]) -> Figure | None:
    """Learning curves of all trials: one trace a status, with gaps between trials, the winner on top; rungs; how each trial ended."""
    sweep, trials = analysis["sweep"], {trial["number"]: trial for trial in analysis["trials"]}
    drawn = [curve for curve in analysis["curves"] if any(value is not None for value in curve["value"])]
    if not drawn:
        return None
    winner = analysis["best"]["number"] if analysis["best"] else None
    kind = "scattergl" if sum(len(curve["value"]) for curve in drawn) > _GL_POINTS else "scatter"
    hover = f"trial %{{customdata}}<br>%{{x:,}} {label(sweep['unit'].replace('_', ' '))}<br>%{{y:.4g}}<extra></extra>"
    traces: list[Figure] = []
    for status, colour in STATUS_COLOURS.items():
        group = [curve for curve in drawn if trials[curve["number"]]["status"] == status]
        if not group:
            continue
        mark = {"type": kind, "legendgroup": status, "hovertemplate": hover}
        faint = min(0.9, 3 / len(group) ** 0.5)  # so that many curves together show where most of them run
        style = {"mode": "lines", "showlegend": False, "opacity": faint, "line": {"color": colour, "width": 1.4}}
        traces.append(mark | style | _joined(group))
        legend = {"type": "scatter", "mode": "lines", "x": [None], "y": [None], "line": {"color": colour, "width": 2}}
        traces.append(legend | {"legendgroup": status, "name": f"{status} ({len(group)})"})
        symbol = {"color": colour, "size": 6, "symbol": _SYMBOLS.get(status, "circle-open"), "line": {"color": colour, "width": 1.5}}
        traces.append(mark | {"mode": "markers", "marker": symbol, "showlegend": False, "opacity": min(1.0, 2 * faint)} | _ends(group))
    best = [curve for curve in drawn if curve["number"] == winner]
    if best:
        style = {"mode": "lines", "name": f"winner: trial {winner}", "line": {"color": "@winner", "width": 3}}
        traces.append({"type": kind, "hovertemplate": hover, **style, **_joined(best)})
        at_best = analysis["best"]["at_best"]
        star = {"color": "@winner", "size": 14, "symbol": "star", "line": {"color": "@panel", "width": 1}}
        point = {"x": [at_best["progress"]], "y": [at_best["value"]], "customdata": [winner]}
        traces.append({"type": kind, "hovertemplate": hover, "mode": "markers", "marker": star, "name": "its best report", **point})
    layout = {
        "title": {"text": metric_label(sweep["metric"])},
        "xaxis": {"title": {"text": label(sweep["unit"].replace("_", " "))}, "rangemode": "tozero", "exponentformat": "SI"},
        "yaxis": {"range": _sensible_range(drawn)},
        "shapes": [_vertical(rung["progress"], "@rung", "dot") for rung in analysis["rungs"]],
        "annotations": [_rung_note(rung) for rung in analysis["rungs"]],
    }
    return {"data": traces, "layout": layout}


def importance(analysis: dict[str, Any]) -> Figure | None:
    """Bars, the most important parameter on top."""
    values = analysis["importance"]["values"][::-1]
    if not values:
        return None
    bars = {
        "type": "bar",
        "orientation": "h",
        "y": [label(entry["parameter"]) for entry in values],
        "x": [entry["importance"] for entry in values],
        "text": [percent(entry["importance"]) for entry in values],
        "textposition": "outside",
        "cliponaxis": False,
        "marker": {"color": "@finished"},
        "hovertemplate": "%{y}: %{text}<extra></extra>",
    }
    highest = max(entry["importance"] for entry in values)
    axes = {"xaxis": {"tickformat": ".0%", "range": [0, 1.15 * highest]}, "yaxis": {"automargin": True, "type": "category"}}
    return {"data": [bars], "layout": {**axes, "showlegend": False, "height": 60 + 30 * len(values)}}


def seeds(analysis: dict[str, Any]) -> Figure | None:
    """Configurations with every seed's best value, their mean and its 95 % interval; the best on top."""
    rows = [row for row in analysis["configurations"]["rows"] if row["n"]][:_MOST_ROWS][::-1]
    if not analysis["configurations"]["several_seeds"] or not rows:
        return None
    names = [label(row["configuration"]) for row in rows]
    half = [0 if row["interval_best"] is None else row["interval_best"][1] - row["mean_best"] for row in rows]
    means = {
        "type": "scatter",
        "mode": "markers",
        "name": "mean ± 95 % interval",
        "x": [row["mean_best"] for row in rows],
        "y": names,
        "error_x": {"type": "data", "array": half, "color": "@finished", "thickness": 2, "width": 5},
        "marker": {"color": "@finished", "size": 9},
        "hovertemplate": "%{y}: mean %{x:.4g}<extra></extra>",
    }
    points = {
        "type": "scatter",
        "mode": "markers",
        "name": "one seed",
        "x": [value for row in rows for value in row["best_values"]],
        "y": [name for row, name in zip(rows, names, strict=True) for _ in row["best_values"]],
        "marker": {"color": "@winner", "size": 6, "symbol": "circle-open"},
        "hovertemplate": "%{y}: %{x:.4g}<extra></extra>",
    }
    layout = {
        "title": {"text": f"best {metric_label(analysis['sweep']['metric'])}"},
        "yaxis": {"type": "category", "automargin": True},
        "height": 110 + 26 * len(rows),
    }
    return {"data": [means, points], "layout": layout}


def stopped(analysis: dict[str, Any]) -> Figure | None:
    """What trials that were stopped early would probably have reached, beside the winner's value; the likeliest on top."""
    stopping = analysis["stopping"]
    entries = [entry for entry in stopping["trials"] if entry["predicted"] is not None][:_MOST_ROWS][::-1]
    if not entries:
        return None
    names = [f"trial {entry['number']}" for entry in entries]
    predicted = {
        "type": "scatter",
        "mode": "markers",
        "name": "predicted final best, 95 % prediction interval",
        "x": [entry["predicted"] for entry in entries],
        "y": names,
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [entry["interval"][1] - entry["predicted"] for entry in entries],
            "arrayminus": [entry["predicted"] - entry["interval"][0] for entry in entries],
            "color": "@stopped",
        },
        "marker": {"color": "@finished", "size": 8},
        "text": [percent(entry["probability"]) for entry in entries],
        "hovertemplate": "%{y}: %{x:.4g}, would have won with %{text}<extra></extra>",
    }
    reached = {
        "type": "scatter",
        "mode": "markers",
        "name": "when stopped",
        "x": [entry["value"] for entry in entries],
        "y": names,
        "marker": {"color": "@stopped", "size": 8, "symbol": "x-thin-open", "line": {"width": 2}},
        "hovertemplate": "%{y}: %{x:.4g} when stopped<extra></extra>",
    }
    note = {"x": stopping["winner_value"], "y": 1, "yref": "paper", "yanchor": "bottom", "text": "winner", "showarrow": False}
    layout = {
        "title": {"text": metric_label(analysis["sweep"]["metric"])},
        "yaxis": {"type": "category", "automargin": True},
        "shapes": [_vertical(stopping["winner_value"], "@winner", "solid")],
        "annotations": [note | {"font": {"color": "@winner", "size": 12}}],
        "height": 120 + 22 * len(entries),
    }
    return {"data": [predicted, reached], "layout": layout}


def lineage(analysis: dict[str, Any]) -> dict[str, Any] | None:
    """What the page draws the lineage from: one row a trial, segments, clones, and the parameters to colour by."""
    recorded = analysis["lineage"]
    if recorded is None:
        return None
    changed = {name for clone in recorded["clones"] for name in clone["changes"]}
    names = sorted(changed) or sorted(analysis["sweep"]["search_space"])
    segments = recorded["segments"]
    return {
        "unit": label(analysis["sweep"]["unit"].replace("_", " ")),
        "parameters": [
            {"name": name, "label": label(name), "values": [(segment["sample"] or {}).get(name) for segment in segments]} for name in names
        ],
        "segments": [[segment["number"], segment["start"], segment["end"]] for segment in segments],
        "descent": [[step["number"], step["from_progress"], step["to_progress"]] for step in recorded["ancestors"]],
        "clones": [
            [clone["number"], clone["donor_number"], clone["progress"], clone["donor_progress"], _changes(clone)]
            for clone in recorded["clones"]
        ],
        "winner": analysis["best"] and [analysis["best"]["number"], analysis["best"]["at_best"]["progress"]],
    }


def _joined(group: Iterable[dict[str, Any]]) -> Figure:
    """Curves one after another, each followed by a gap. A clone that falls back in progress starts a new line."""
    x, y, numbers = [], [], []
    for curve in group:
        progress = np.array(curve["progress"], dtype=float)
        value = np.array(curve["value"], dtype=float)
        falls = np.flatnonzero(np.diff(progress) < 0) + 1
        x.append(np.append(np.insert(progress, falls, progress[falls]), progress[-1]))
        y.append(np.append(np.insert(value, falls, np.nan), np.nan))
        numbers.append(np.full(len(x[-1]), curve["number"]))
    progress = np.concatenate(x)
    dtype = "i4" if progress.max() < 2**31 else "f8"
    return {"x": packed(progress, dtype), "y": packed(np.concatenate(y), "f4"), "customdata": packed(np.concatenate(numbers), "i4")}


def _ends(group: Iterable[dict[str, Any]]) -> Figure:
    """The last reported value of each curve."""
    ends = []
    for curve in group:
        last = next(index for index in reversed(range(len(curve["value"]))) if curve["value"][index] is not None)
        ends.append((curve["progress"][last], curve["value"][last], curve["number"]))
    x, y, numbers = zip(*ends, strict=True)
    return {"x": list(x), "y": list(y), "customdata": list(numbers)}


def _sensible_range(drawn: list[dict[str, Any]]) -> list[float] | None:
    """An axis that a few diverged reports do not flatten: None (all of it) unless they would."""
    values = np.array([value for curve in drawn for value in curve["value"] if value is not None])
    low, high = np.percentile(values, [2, 98])
    spread = float(high - low)
    if spread == 0 or float(np.ptp(values)) < 6 * spread:
        return None
    return [max(float(values.min()), float(low) - 0.5 * spread), min(float(values.max()), float(high) + 0.5 * spread)]


def _vertical(x: float | None, colour: str, dash: str) -> Figure:
    return {"type": "line", "x0": x, "x1": x, "y0": 0, "y1": 1, "yref": "paper", "line": {"color": colour, "width": 1, "dash": dash}}


def _rung_note(rung: dict[str, Any]) -> Figure:
    cut = len(rung["cut"])
    place = {"x": rung["progress"], "y": 1, "yref": "paper", "yanchor": "bottom", "showarrow": False}
    return {**place, "text": f"−{cut}" if cut else "", "font": {"color": "@muted", "size": 11}}


def _changes(clone: dict[str, Any]) -> str:
    """What a clone changed, one parameter a line."""
    return "<br>".join(f"{label(name)}: {label(number(old))} → {label(number(new))}" for name, (old, new) in clone["changes"].items())
