"""What is done by itself while a comparison runs: breaches take an arm away, the split moves, budgets end, verdicts take effect.

Every replica looks after the outcomes that it has stored, and now and then at comparisons whose episodes have gone silent. Whatever it
does is one conditional write, so that two replicas that see the same thing do it once.
"""

from __future__ import annotations

from dataclasses import dataclass

from cluster.errors import StoreError
from cluster.store.comparisons import change_weights, close_comparison, get_comparison, pause_comparison, replace_weights
from cluster.store.database import Database
from serve_apps.comparison.report import Report, examine, report
from serve_apps.comparison.splits import due_split

__all__ = ["REFEREE", "Ruling", "rule"]

REFEREE = "referee"
"""Who did it, in the trail of changes."""


@dataclass(frozen=True)
class Ruling:
    """What one look led to."""

    report: Report
    acted: str
    """What was done, in words; empty: nothing."""
    decided: bool = False
    """Whether a verdict took effect: the registry's alias has to follow."""


def rule(db: Database, comparison_id: str) -> Ruling | None:
    """Look at a comparison and do what has to be done; None when it is not running."""
    if get_comparison(db, comparison_id).status != "running":
        return None
    look = examine(db, comparison_id, intervals=False)
    comparison, found = look.comparison, look.report
    if comparison.status != "running":
        return None
    champion, *challengers = comparison.acting_arms
    if not challengers:
        return Ruling(found, "")  # shadows decide nothing
    weights = {arm.name: arm.weight for arm in comparison.arms}
    broken = [arm.name for arm in challengers if arm.name in found.breached and arm.weight > 0]
    if broken and (champion.weight > 0 or any(arm.weight > 0 for arm in challengers if arm.name not in broken)):
        reason = f"guardrail breached by {', '.join(broken)}"
        change_weights(db, comparison_id, dict.fromkeys(broken, 0.0), reason, REFEREE)
        weights |= dict.fromkeys(broken, 0.0)
        if comparison.auto != "promote" or any(weights[arm.name] for arm in challengers):
            return Ruling(found, reason)
    if comparison.auto == "promote":
        winner = found.winner if found.winner not in found.breached else None
        if not any(weights[arm.name] for arm in challengers):
            winner = champion.name  # nobody is left who could win
        if winner is not None:
            return _decide(db, comparison_id, winner)
    if comparison.max_episodes is not None and found.episodes >= comparison.max_episodes and found.decision == "inconclusive":
        paused = pause_comparison(db, comparison_id, found.reason)
        return Ruling(found, f"paused: {found.reason}" if paused else "")
    due = due_split(look.counted, found)
    if due is not None and replace_weights(db, comparison_id, comparison.weights[-1].version, due[0], due[1], REFEREE):
        return Ruling(found, due[1])
    return Ruling(found, "")


def _decide(db: Database, comparison_id: str, winner: str) -> Ruling:
    comparison, found = get_comparison(db, comparison_id), report(db, comparison_id)
    arm = comparison.arm(winner)
    decision = {
        "arm": arm.name,
        "version": arm.version,
        "forced": False,
        "replaces": comparison.arms[0].version,
        "actor": REFEREE,
        "report": found.to_dict(),
    }
    status = "kept" if winner == comparison.arms[0].name else "promoted"
    try:
        close_comparison(db, comparison_id, status, decision)  # type: ignore[arg-type]
    except StoreError:
        return Ruling(found, "")  # somebody was first, with another end
    return Ruling(found, f"{status}: {found.reason}", decided=True)
