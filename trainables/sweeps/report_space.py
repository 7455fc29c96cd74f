"""Charts over the search space: parallel coordinates, slices, and the map of a parameter pair."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainables.sweeps.analysis.numbers import finite
from trainables.sweeps.analysis.words import number
from trainables.sweeps.report_charts import STATUS_COLOURS, Figure, label, metric_label, packed

__all__ = ["Parameter", "pairs", "parallel_coordinates", "parameters", "slices", "smooth_surface"]

_MOST_MAPPED = 8
"""Parameters, the most important first, whose pairs get a smoothed background."""
_GRID = 24
_FEWEST_FOR_A_MAP = 10


@dataclass(frozen=True)
class Parameter:
    """One parameter over the trials that scored.

    Attributes:
        kind: log | linear | category.
        values: floats; of a category the labels.
    """

    name: str
    kind: str
    values: list[Any]

    @property
    def axis(self) -> Figure:
        """Plotly's axis."""
        return {"type": self.kind, "title": {"text": label(self.name)}}

    @property
    def positions(self) -> np.ndarray:
        """Where the values lie on the axis: log10 of a logarithmic one, 0, 1, .. of categories in their order. Shape (num_trials,)."""
        if self.kind == "category":
            order = {value: index for index, value in enumerate(self.categories)}
            return np.array([order[value] for value in self.values], dtype=float)
        values = np.array(self.values, dtype=float)
        return np.log10(values) if self.kind == "log" else values

    @property
    def categories(self) -> list[str]:
        """Distinct labels, sorted: numbers by size, then text."""
        return sorted(set(self.values), key=_order)


def scored(analysis: dict[str, Any]) -> list[dict[str, Any]]:
    """Trials that have a best value."""
    return [trial for trial in analysis["trials"] if trial["best_value"] is not None]


def parameters(analysis: dict[str, Any]) -> list[Parameter]:
    """Parameters that every scored trial has, the most important first."""
    trials = scored(analysis)
    shares = {entry["parameter"]: entry["importance"] for entry in analysis["importance"]["values"]}
    space = analysis["sweep"]["search_space"]
    names = [name for name in space if trials and all(name in trial["sample"] for trial in trials)]
    names.sort(key=lambda name: -shares.get(name, 0))
    return [_parameter(name, space[name], [trial["sample"][name] for trial in trials]) for name in names]


def parallel_coordinates(analysis: dict[str, Any]) -> Figure | None:
    """One line a trial over all parameters to the best value; better ones in the stronger colour."""
    trials, columns = scored(analysis), parameters(analysis)
    if len(trials) < 2 or not columns:
        return None
    values = [trial["best_value"] for trial in trials]
    dimensions = [_dimension(column) for column in columns]
    dimensions.append({"label": metric_label(analysis["sweep"]["metric"]), "values": values})
    trace = {
        "type": "parcoords",
        "dimensions": dimensions,
        "line": {"color": values, "colorscale": "@scale", "reversescale": analysis["sweep"]["mode"] == "min", **_colour_limits(analysis)},
        "labelangle": -18,
        "labelside": "top",
    }
    layout = {"height": 430, "margin": {"l": 80, "r": 150, "t": 100, "b": 24}}
    return {"data": [trace], "layout": layout}


def slices(analysis: dict[str, Any]) -> list[Figure]:
    """For each parameter the best value of every trial over it."""
    trials, figures = scored(analysis), []
    winner = analysis["best"]["number"] if analysis["best"] else None
    for column in parameters(analysis):
        traces = []
        for status, colour in STATUS_COLOURS.items():
            rows = [index for index, trial in enumerate(trials) if trial["status"] == status]
            if rows:
                traces.append(_points(column, trials, rows) | {"name": status, "marker": {"color": colour, "size": 6, "opacity": 0.7}})
        rows = [index for index, trial in enumerate(trials) if trial["number"] == winner]
        star = {"color": "@winner", "size": 13, "symbol": "star", "line": {"color": "@panel", "width": 1}}
        traces.append(_points(column, trials, rows) | {"name": "winner", "marker": star})
        axis = column.axis | ({"categoryorder": "array", "categoryarray": column.categories} if column.kind == "category" else {})
        figures.append({"data": traces, "layout": {"xaxis": axis | {"nticks": 5}, "showlegend": False, "height": 260}})
    return figures


def pairs(analysis: dict[str, Any]) -> dict[str, Any] | None:
    """What the page draws the map of any parameter pair from: columns, and smoothed backgrounds of numeric pairs."""
    trials, columns = scored(analysis), parameters(analysis)
    if len(columns) < 2:
        return None
    values = np.array([trial["best_value"] for trial in trials])
    numeric = [column for column in columns[:_MOST_MAPPED] if column.kind != "category" and np.ptp(column.positions) > 0]
    surfaces = {}
    if len(trials) >= _FEWEST_FOR_A_MAP:
        for first, second in itertools.combinations(numeric, 2):
            x, y, z = smooth_surface(first.positions, second.positions, values, _GRID)
            place = f"{columns.index(first)},{columns.index(second)}"
            surfaces[place] = {"x": packed(_unlog(first, x), "f8"), "y": packed(_unlog(second, y), "f8"), "z": packed(z, "f4")}
    return {
        "parameters": [{"name": column.name, "axis": column.axis, "values": column.values} for column in columns],
        "values": values.tolist(),
        "numbers": [trial["number"] for trial in trials],
        "stopped": [trial["status"] == "stopped early" for trial in trials],
        "winner": analysis["best"]["number"] if analysis["best"] else None,
        "label": metric_label(analysis["sweep"]["metric"]),
        "better_is_less": analysis["sweep"]["mode"] == "min",
        "limits": _colour_limits(analysis),
        "surfaces": surfaces,
    }


def smooth_surface(x: np.ndarray, y: np.ndarray, values: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Kernel regression of scattered values (Nadaraya 1964, Watson 1964) on a grid, with Scott's bandwidth n^(-1/6) * std per axis.

    Args:
        x: positions along the first axis. Shape (n,).
        y: positions along the second axis. Shape (n,).
        values: finite. Shape (n,).
        size: points of the grid along each axis.

    Returns:
        (grid x of shape (size,), grid y of shape (size,), z of shape (size, size), rows along y); NaN where less than half a
        trial's weight lies within reach: nobody was there.
    """
    grid_x, grid_y = (np.linspace(axis.min(), axis.max(), size) for axis in (x, y))
    weights_x, weights_y = (
        np.exp(-0.5 * ((grid[:, None] - axis[None, :]) / (len(axis) ** (-1 / 6) * axis.std(ddof=1))) ** 2)
        for grid, axis in ((grid_x, x), (grid_y, y))
    )
    total = weights_y @ weights_x.T
    with np.errstate(invalid="ignore", divide="ignore"):
        z = (weights_y * values) @ weights_x.T / total
    return grid_x, grid_y, np.where(total < 0.5, np.nan, z)


def _parameter(name: str, domain: Any, values: list[Any]) -> Parameter:
    form = next(iter(domain), "") if isinstance(domain, dict) else ""
    numbers = [finite(value) for value in values]
    if form in ("choice", "grid") or any(value is None for value in numbers):
        return Parameter(name, "category", [label(number(value)) for value in values])
    logarithmic = "log" in form and all(value is not None and value > 0 for value in numbers)
    return Parameter(name, "log" if logarithmic else "linear", numbers)


def _dimension(column: Parameter) -> Figure:
    dimension: Figure = {"label": label(column.name), "values": column.positions.tolist()}
    if column.kind == "category":
        return dimension | {"tickvals": list(range(len(column.categories))), "ticktext": column.categories}
    if column.kind == "log":
        ticks = np.linspace(column.positions.min(), column.positions.max(), 5)
        return dimension | {"tickvals": ticks.tolist(), "ticktext": [number(float(10**tick), 2) for tick in ticks]}
    return dimension


def _points(column: Parameter, trials: list[dict[str, Any]], rows: list[int]) -> Figure:
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [column.values[row] for row in rows],
        "y": [trials[row]["best_value"] for row in rows],
        "customdata": [trials[row]["number"] for row in rows],
        "hovertemplate": "trial %{customdata}<br>%{x}<br>%{y:.4g}<extra></extra>",
    }


def _colour_limits(analysis: dict[str, Any]) -> dict[str, float]:
    """Colours from the worst tenth to the best: a few diverged trials must not make all others look alike."""
    values = [trial["best_value"] for trial in scored(analysis)]
    low, high = np.percentile(values, [10, 100] if analysis["sweep"]["mode"] == "max" else [0, 90])
    return {"cmin": float(low), "cmax": float(high if high > low else low + 1)}


def _unlog(column: Parameter, grid: np.ndarray) -> np.ndarray:
    return 10**grid if column.kind == "log" else grid


def _order(text: str) -> tuple[int, float, str]:
    try:
        return 0, float(text.replace(",", "")), text
    except ValueError:
        return 1, 0.0, text
