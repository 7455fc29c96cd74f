"""A comparison in words: the verdict in a sentence or two, what happened, what to type next."""

from __future__ import annotations

from typing import Any

from cluster.page.words import number, plural, unit_of
from cluster.store.comparisons import Comparison
from cluster.store.trail import TrailEntry
from serve_apps.comparison.report import ChallengerReport, Report

__all__ = ["change_text", "next_commands", "verdict"]


def verdict(comparison: Comparison, found: Report) -> list[str]:
    """The verdict first, then what stands beside it."""
    return [_headline(comparison, found), *_difference(found), *_warnings(comparison, found)]


def next_commands(comparison: Comparison, found: Report) -> list[dict[str, str]]:
    """What to type next: ``purpose`` and ``command``."""
    identity = comparison.id
    if comparison.status == "running":
        entries = [("Look at it again.", f"gaitway ab report {identity}")]
        if found.winner is not None:
            entries.insert(
                0, (f"Let {found.winner} win: @champion moves there, and the endpoint follows.", f"gaitway ab promote {identity}")
            )
        elif found.challengers and not (comparison.ramp or comparison.bandit):
            even = " ".join(f"{arm.name}=1" for arm in found.arms if arm.name not in found.breached)
            entries.append(("Split new episodes evenly, which finds a difference soonest.", f"gaitway ab weights {identity} {even}"))
        entries.append(("End it without a winner.", f"gaitway ab stop {identity}"))
    elif comparison.status == "paused":
        entries = [
            ("Decide without a verdict.", f"gaitway ab promote {identity} --arm {found.arms[-1].name} --force"),
            ("End it without a winner.", f"gaitway ab stop {identity}"),
        ]
    elif comparison.status in ("promoted", "kept") and comparison.applied_at is None:
        entries = [("It was interrupted before @champion moved: finish it.", f"gaitway ab promote {identity}")]
    elif comparison.status == "promoted":
        entries = [("Give @champion back to the version that was replaced.", f"gaitway ab undo {identity}")]
    else:
        entries = [("Compare the next version.", f"gaitway ab start --policy {comparison.policy} --challenger VERSION")]
    return [{"purpose": purpose, "command": command} for purpose, command in entries]


def change_text(entry: TrailEntry) -> str:
    """What an event was, in words."""
    detail = entry.detail
    if entry.kind == "created":
        return "began with " + ", ".join(f"{arm['name']} (version {arm['version']})" for arm in detail.get("arms", ()))
    if entry.kind in ("promoted", "kept"):
        forced = ", decided by hand without or against the verdict" if detail.get("forced") else ""
        verb = "won and takes @champion" if entry.kind == "promoted" else "stays @champion"
        return f"{detail.get('arm', 'the winner')} (version {detail.get('version', '?')}) {verb}{forced}"
    if entry.kind == "undone":
        return f"@champion went back from version {detail.get('from', '?')} to version {detail.get('to', '?')}"
    return {
        "paused": f"paused: {detail.get('reason', 'no reason was recorded')}",
        "stopped": "ended without a winner",
        "applied": "the registry's @champion follows the decision",
        "weights": f"new weights: {detail.get('reason', '')}",
    }.get(entry.kind, entry.kind)


def _headline(comparison: Comparison, found: Report) -> str:
    decision: dict[str, Any] = comparison.decision or {}
    if comparison.status in ("promoted", "kept"):
        arm = decision.get("arm", found.winner)
        verb = "won and is @champion" if comparison.status == "promoted" else "stays @champion"
        forced = ", decided by hand" if decision.get("forced") else ""
        return f"{_capital(str(arm))} (version {decision.get('version')}) {verb}{forced}, after {plural(found.episodes, 'episode')}."
    if comparison.status == "stopped":
        return f"Stopped without a winner after {plural(found.episodes, 'episode')}."
    if not found.challengers:
        return "Nothing is compared: every arm but the champion is a shadow."
    if not found.episodes:
        return "No episode has been counted yet."
    if comparison.status == "paused":
        return f"Paused without a verdict: {found.reason}."
    if found.decision == "inconclusive":
        return f"{_capital(found.reason)}."
    arm = str(found.winner)
    version = comparison.arm(arm).version
    waits = "it takes effect by itself" if comparison.auto == "promote" else "it takes effect once somebody promotes it"
    return f"{_capital(arm)} (version {version}) has won after {plural(found.decided_at_episode or 0, found.unit)}; {waits}."


def _difference(found: Report) -> list[str]:
    return [text for challenger in found.challengers if (text := _one_difference(found, challenger))]


def _one_difference(found: Report, challenger: ChallengerReport) -> str:
    if challenger.difference is None:
        return ""
    unit = f" {unit_of(found.metric)}" if unit_of(found.metric) else ""
    low, high = challenger.interval
    level = f"{100 * found.interval_level:.4g} %"
    text = f"{_capital(challenger.arm)} minus {found.arms[0].name}: {challenger.difference:+.3g}{unit}"
    how = ", each episode weighed with its own split" if challenger.unbiased else ""
    return f"{text} ({level} confidence sequence {low:+.3g} to {high:+.3g}{how})."


def _warnings(comparison: Comparison, found: Report) -> list[str]:
    said = [f"{_capital(found.split)}."] if found.split and comparison.status == "running" else []
    if found.open_robots and comparison.status in ("running", "paused"):
        said.append(f"{plural(found.open_robots, 'robot')} not done yet; the verdict waits for the first of them.")
    for guardrail in found.guardrails:
        if guardrail.breached:
            what = guardrail.name if guardrail.above is None else f"{guardrail.name} above {number(guardrail.above)}"
            share = f"{guardrail.counted} of its {plural(guardrail.episodes, 'episode')}, {100 * guardrail.at_most:g} % allowed"
            said.append(f"{_capital(guardrail.arm)} broke a guardrail: {what} in {share}.")
    if found.in_flight and comparison.status in ("running", "paused"):
        waiting = f"; {plural(found.waiting, 'outcome')} wait behind them" if found.waiting else ""
        said.append(f"{plural(found.in_flight, 'episode')} in flight{waiting}.")
    return said


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
