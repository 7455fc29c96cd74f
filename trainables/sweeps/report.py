"""A sweep as one HTML file that works offline: ``report(folder)``, also ``gaitway sweep report SWEEP``.

See ``cluster.page.page`` for what such a page is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cluster.config import write_text_atomic
from cluster.page.page import render_page
from trainables.sweeps import report_charts, report_space
from trainables.sweeps.analysis import analyse
from trainables.sweeps.analysis.commands import write_files
from trainables.sweeps.analysis.words import count, in_unit, number, unit_of
from trainables.sweeps.records import SweepRecord, load_sweep

__all__ = ["report", "write_report"]

REPORT_FILE = "report.html"
_SEARCH_ONLY = ("reason", "error", "node", "mlflow_run_id")


def report(folder: Path, output: Path | None = None) -> tuple[Path, dict[str, Any]]:
    """Analyse a sweep and write its page, and beside it in ``winner/`` the files that the page's commands name.

    Args:
        folder: the sweep's folder, or a run folder with a sweep in it.
        output: the page; None: ``report.html`` in the sweep's folder.

    Returns:
        (the page, the analysis as JSON-able data).

    Raises:
        UsageError: no sweep is there, or its record cannot be read.
    """
    record = load_sweep(folder)
    analysis = analyse(record)
    return _write(analysis, output or record.folder / REPORT_FILE), analysis


def write_report(record: SweepRecord, path: Path) -> Path:
    """Write the page of a sweep that is already loaded; see ``report``."""
    return _write(analyse(record), path)


def _write(analysis: dict[str, Any], path: Path) -> Path:
    write_files(analysis["commands"])
    write_text_atomic(path, render(analysis))
    return path


def render(analysis: dict[str, Any]) -> str:
    """The page's HTML."""
    metric, unit = analysis["sweep"]["metric"], analysis["sweep"]["unit"]
    slices = report_space.slices(analysis)
    figures = {
        "curves": report_charts.curves(analysis),
        "parallel": report_space.parallel_coordinates(analysis),
        "importance": report_charts.importance(analysis),
        "seeds": report_charts.seeds(analysis),
        "stopped": report_charts.stopped(analysis),
        **{f"slice-{index}": figure for index, figure in enumerate(slices)},
    }
    data = {
        "figures": {name: figure for name, figure in figures.items() if figure},
        "pairs": report_space.pairs(analysis),
        "lineage": report_charts.lineage(analysis),
        "table": _table(analysis),
        "unit": unit.replace("_", " "),
    }
    context = {
        **analysis,
        "drawn": data["figures"],
        "num_slices": len(slices),
        "has_pairs": data["pairs"] is not None,
        "budget_parts": _budget_parts(analysis),
        "failure_groups": _failure_groups(analysis["failures"]),
        "counts_text": ", ".join(f"{amount} {status}" for status, amount in analysis["sweep"]["counts"].items()) or "none yet",
    }
    filters = {"metric": lambda value: in_unit(value, metric), "work": lambda value: count(value, unit)}
    return render_page("trainables.sweeps", "report", context, data, filters)


def _table(analysis: dict[str, Any]) -> dict[str, Any]:
    """Columns and rows of the table of trials, the best first; a cell is [what sorts, what is shown]."""
    trials = sorted(analysis["trials"], key=lambda trial: (trial["rank"] or len(analysis["trials"]) + 1, trial["number"]))
    metric, unit = analysis["sweep"]["metric"], analysis["sweep"]["unit"].replace("_", " ")
    shown = {"number": "trial", "status": "status", "best_value": f"best {metric}", "best_progress": f"at {unit}"}
    shown |= {"last_value": "last", "progress": f"{unit} reached"}
    several = analysis["configurations"]["several_seeds"]
    extra = {"cut_at_rung": "cut at", "restarts": "restarts"} | ({"configuration": "configuration", "seed": "seed"} if several else {})
    extra = {name: text for name, text in extra.items() if any(trial[name] for trial in trials)} | {"trial": "id"}
    parameters = [name for name in analysis["sweep"]["search_space"] if any(name in trial["sample"] for trial in trials)]
    columns = [*shown.values(), *parameters, *extra.values()]
    rows = [
        [
            *(_cell(trial[name]) for name in shown),
            *(_cell(trial["sample"].get(name)) for name in parameters),
            *(_cell(trial[name]) for name in extra),
        ]
        for trial in trials
    ]
    return {
        "columns": columns,
        "rows": rows,
        "hidden": [" ".join(str(trial[name]) for name in _SEARCH_ONLY if trial[name]) for trial in trials],
        "unit": unit_of(metric),
    }


def _cell(value: Any) -> list[Any]:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return [value, number(value)]
    return [None if value is None else number(value), number(value)]


def _budget_parts(analysis: dict[str, Any]) -> list[dict[str, Any]]:
    """The budget bar: work by the status of the trial it was spent on, then what was saved and what was not done."""
    budget = analysis["budget"]
    spent = [
        {"label": f"spent on trials that {verb}", "work": budget["spent_by_status"].get(status, 0), "colour": colour}
        for status, verb, colour in (
            ("finished", "finished", "finished"),
            ("stopped early", "were stopped early", "stopped"),
            ("failed", "failed", "failed"),
            ("unfinished", "were left unfinished", "unfinished"),
        )
    ]
    going = sum(budget["spent_by_status"].get(status, 0) for status in ("running", "paused", "pending"))
    spent.append({"label": "spent on trials that go on", "work": going, "colour": "running"})
    saved = {"label": "saved by stopping early", "work": budget["saved"], "colour": "saved"}
    rest = {"label": "not done", "work": max(0, budget["full"] - budget["spent"] - budget["saved"]), "colour": "rest"}
    parts = [part for part in (*spent, saved, rest) if part["work"]]
    total = sum(part["work"] for part in parts)
    return [part | {"share": part["work"] / total} for part in parts]


def _failure_groups(failures: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Failures with the same last line together, the most frequent first; one traceback stands for all."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for failure in failures:
        groups.setdefault(failure["error"] or failure["reason"] or "no reason was recorded", []).append(failure)
    ordered = sorted(groups.items(), key=lambda item: -len(item[1]))
    return [
        {"error": error, "failures": members, "traceback": next((item["traceback"] for item in members if item["traceback"]), None)}
        for error, members in ordered
    ]
