"""Numbers and outcomes in words: what the report says first, and how it writes figures."""

from __future__ import annotations

from typing import Any

from cluster.page.words import duration, in_unit, number, percent, plural, unit_of

__all__ = ["count", "duration", "in_unit", "number", "percent", "plural", "summary", "unit_of"]

_PROGRESS = {"env_steps": "env steps", "epochs": "epochs"}


def count(value: float | None, unit: str) -> str:
    """Progress or work: 150,000 env steps."""
    return "–" if value is None else f"{value:,.0f} {_PROGRESS.get(unit, unit.replace('_', ' '))}"


def summary(analysis: dict[str, Any]) -> list[str]:
    """The sweep in a few sentences, the most important first."""
    sentences = [*_who_won(analysis), *_seeds(analysis), *_stopped(analysis), *_what_mattered(analysis), *_lineage(analysis)]
    return [*sentences, *_failed(analysis), *_still_open(analysis)]


def _who_won(analysis: dict[str, Any]) -> list[str]:
    best, sweep = analysis["best"], analysis["sweep"]
    if best is None:
        return ["No trial has reported a value yet." if sweep["status"] == "running" else "No trial reported a value."]
    verb = "leads" if sweep["status"] == "running" else "won"
    at_best, at_last, unit = best["at_best"], best["at_last"], sweep["unit"]
    best_text = f"{in_unit(at_best['value'], sweep['metric'])} at best, after {count(at_best['progress'], unit)}"
    if at_last["progress"] == at_best["progress"]:
        text = f"Trial {best['number']} {verb}: {sweep['metric']} reached {best_text}, at its last report."
    else:
        last_text = f"{in_unit(at_last['value'], sweep['metric'])} at its last report, after {count(at_last['progress'], unit)}"
        text = f"Trial {best['number']} {verb}: {sweep['metric']} reached {best_text}, and {last_text}."
    broken = ["No trial kept the constraints: the best is the one that broke them least."] if best["keeps_constraints"] is False else []
    return [text, *broken]


def _seeds(analysis: dict[str, Any]) -> list[str]:
    configurations, sweep = analysis["configurations"], analysis["sweep"]
    row = next((row for row in configurations["rows"] if row["configuration"] == configurations["best_by_mean"]), None)
    if not configurations["several_seeds"] or row is None:
        return []
    text = f"Over seeds, configuration {row['configuration']} is the best: {in_unit(row['mean_best'], sweep['metric'])} on average"
    if row["interval_best"]:
        low, high = row["interval_best"]
        text += f" (95 % interval {number(low)} to {number(high)}, {plural(row['n'], 'seed')})"
    same = analysis["best"] is not None and analysis["best"]["configuration"] == row["configuration"]
    return [text + ("; the winning trial is one of its seeds." if same else "; the winning trial belongs to another one.")]


def _stopped(analysis: dict[str, Any]) -> list[str]:
    stopped, total = analysis["sweep"]["counts"].get("stopped early", 0), analysis["sweep"]["trials"]
    if not stopped:
        return []
    budget, stopping = analysis["budget"], analysis["stopping"]
    text = f"{stopped} of {plural(total, 'trial')} {'was' if stopped == 1 else 'were'} stopped early, which saved "
    text += f"{percent(budget['saved_share'])} of the full budget ({count(budget['saved'], budget['unit'])})"
    if stopping["probability_any"] is not None:
        chance = percent(stopping["probability_any"])
        text += f"; the chance that one of them would have won is about {chance}"
    return [text + "."]


def _what_mattered(analysis: dict[str, Any]) -> list[str]:
    values = analysis["importance"]["values"]
    if not values:
        return []
    return [f"{values[0]['parameter']} mattered most ({percent(values[0]['importance'])} of the importance)."]


def _lineage(analysis: dict[str, Any]) -> list[str]:
    lineage = analysis["lineage"]
    if not lineage:
        return []
    steps = len(lineage["ancestors"]) - 1
    made = f"The population made {plural(len(lineage['clones']), 'clone')}"
    if not steps:
        return [f"{made}; the winner's policy was never copied from another trial."]
    return [f"{made}; the winner's policy began in trial {lineage['ancestors'][0]['number']} and was copied {plural(steps, 'time')}."]


def _failed(analysis: dict[str, Any]) -> list[str]:
    failures = analysis["failures"]
    if not failures:
        return []
    reason = failures[0]["error"] or failures[0]["reason"] or "no reason was recorded"
    verb = "failed" if len(failures) < analysis["sweep"]["trials"] or len(failures) == 1 else "failed, which is all"
    return [f"{plural(len(failures), 'trial')} {verb}; the first: {' '.join(reason.split())[:200]}"]


def _still_open(analysis: dict[str, Any]) -> list[str]:
    sweep = analysis["sweep"]
    if sweep["status"] != "running":
        return []
    going = sum(sweep["counts"].get(status, 0) for status in ("pending", "running", "paused"))
    return [f"The sweep was still running at {sweep['updated_at']}, with {plural(going, 'trial')} to go; figures will change."]
