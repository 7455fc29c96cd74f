"""What is done about a verdict: the alias ``@champion`` moves to the winner, or stays, and the comparison ends.

The decision is written down first, with everything that it rested on, then the alias moves, then the comparison is marked
applied. Killed in between, it is finished by calling ``promote`` again or by ``finish_decisions``; no new comparison of the policy
starts before that.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import Any

from cluster.errors import StoreError
from cluster.settings import Settings
from cluster.store.comparisons import Comparison, close_comparison, get_comparison, mark_applied, record_undo, unfinished_decisions
from cluster.store.database import Database, open_database
from cluster.store.registry import get_version, set_alias
from cluster.store.tokens import local_actor, record_audit
from serve_apps.comparison.report import Report, report

__all__ = ["CHAMPION_ALIAS", "PromotionResult", "finish_decisions", "promote", "stop", "stop_in", "undo"]

CHAMPION_ALIAS = "champion"


@dataclass(frozen=True)
class PromotionResult:
    """How a comparison ended."""

    comparison: Comparison
    """As closed; its status says promoted or kept."""
    arm: str
    """The arm that stays."""
    version: str
    """Its registered version, where ``@champion`` points from now on."""
    forced: bool
    """Whether it was decided without a verdict."""
    report: Report


def promote(
    settings: Settings, comparison_id: str, arm: str | None = None, force: bool = False, actor: str | None = None
) -> PromotionResult:
    """End a comparison for its winner: the challenger takes ``@champion``, or the champion keeps it.

    Calling it again changes nothing, and finishes what a crash interrupted. Whoever serves the policy reads the alias anew
    afterwards (``cluster.runtime.serving.refresh``).

    Args:
        settings: where the database and the registry are.
        comparison_id: the comparison.
        arm: arm that shall win; None: the one that the verdict names.
        force: decide without a verdict, or against it; ``arm`` None then means the verdict's winner, else the challenger.
        actor: who decides, for the trail; None: whoever runs this command.

    Raises:
        StoreError: there is no verdict, it names another arm, or the comparison ended otherwise.
        BundleError: the winner's stored bundle is not what was registered.
    """
    with closing(open_database(settings)) as db:
        comparison = get_comparison(db, comparison_id)
        if comparison.status in ("running", "paused"):
            comparison = _decide(settings, db, comparison, arm, force, actor or local_actor())
        elif comparison.status == "stopped":
            raise StoreError(f"comparison {comparison_id} was stopped without a winner; start a new one with `gaitway ab start`")
        result = _result(db, comparison)
        if arm is not None and arm != result.arm:
            raise StoreError(f"comparison {comparison_id} has already ended for {result.arm}; {arm} can win a new one")
        _apply(settings, db, comparison, result.version)
        return _result(db, get_comparison(db, comparison_id))


def stop(settings: Settings, comparison_id: str, actor: str | None = None) -> Comparison:
    """End a comparison without a winner; ``@champion`` stays where it is. Stopping it again changes nothing."""
    with closing(open_database(settings)) as db:
        return stop_in(db, comparison_id, actor or local_actor())


def stop_in(db: Database, comparison_id: str, actor: str) -> Comparison:
    """``stop`` in a database that is open: it needs no registry."""
    comparison = get_comparison(db, comparison_id)
    if comparison.status == "stopped":
        return comparison
    decision = {"actor": actor, "report": report(db, comparison_id).to_dict()}
    closed = close_comparison(db, comparison_id, "stopped", decision)
    _record(db, actor, "comparison.stop", closed)
    return closed


def undo(settings: Settings, comparison_id: str, actor: str | None = None) -> str:
    """Give ``@champion`` back to the version that a promotion replaced; the version. The comparison stays as it was recorded.

    Raises:
        StoreError: it promoted nothing, or ``@champion`` has moved on since.
    """
    with closing(open_database(settings)) as db:
        comparison = get_comparison(db, comparison_id)
        if comparison.status != "promoted" or comparison.decision is None or comparison.applied_at is None:
            raise StoreError(f"comparison {comparison_id} is {comparison.status}: there is no promotion to undo")
        version, before = str(comparison.decision["version"]), str(comparison.decision["replaces"])
        now = str(get_version(settings, comparison.policy, CHAMPION_ALIAS).version)
        if now == before:
            return before
        if now != version:
            raise StoreError(f"@champion of {comparison.policy} is version {now} by now, not {version}; move it with `gaitway model alias`")
        set_alias(settings, comparison.policy, CHAMPION_ALIAS, before)
        record_undo(db, comparison_id, {"policy": comparison.policy, "from": version, "to": before}, actor or local_actor())
        return before


def finish_decisions(settings: Settings) -> list[Comparison]:
    """Move the aliases of decisions that were written down and interrupted before they took effect, oldest first."""
    with closing(open_database(settings)) as db:
        ids = unfinished_decisions(db)
        for comparison in [get_comparison(db, comparison_id) for comparison_id in ids]:
            _apply(settings, db, comparison, _result(db, comparison).version)
        return [get_comparison(db, comparison_id) for comparison_id in ids]


def _decide(settings: Settings, db: Database, comparison: Comparison, arm: str | None, force: bool, actor: str) -> Comparison:
    found = report(db, comparison.id)
    if not force:
        if found.winner is None:
            raise StoreError(
                f"comparison {comparison.id} is inconclusive: {found.reason}; let it run, or name an arm and force it with "
                f"`gaitway ab promote {comparison.id} --arm ARM --force`"
            )
        if arm is not None and arm != found.winner:
            raise StoreError(f"comparison {comparison.id}: the verdict is {found.decision}, not {arm}; --force overrules it")
        if found.winner in found.breached:
            raise StoreError(f"comparison {comparison.id}: {found.winner} won but broke a guardrail; --force overrules it")
    if not (arm or found.winner or found.challenger):
        raise StoreError(f"comparison {comparison.id}: {found.reason}; end it with `gaitway ab stop {comparison.id}`")
    winner = comparison.arm(arm or found.winner or found.challenger)
    if winner.shadow:
        raise StoreError(f"comparison {comparison.id}: {winner.name} is a shadow that never acted; compare version {winner.version} first")
    # Before anything is written: the winner must be there and whole.
    get_version(settings, comparison.policy, winner.version).load()
    decision = {
        "arm": winner.name,
        "version": winner.version,
        "forced": force and winner.name != found.winner,
        "replaces": comparison.arms[0].version,
        "actor": actor,
        "report": found.to_dict(),
    }
    closed = close_comparison(db, comparison.id, "kept" if winner == comparison.arms[0] else "promoted", decision)
    _record(db, actor, "comparison.promote", closed, arm=winner.name, version=winner.version, forced=decision["forced"])
    return closed


def _record(db: Database, actor: str, action: str, comparison: Comparison, **detail: Any) -> None:
    with db.write() as connection:
        record_audit(connection, actor, action, comparison.id, {"policy": comparison.policy, **detail})


def _apply(settings: Settings, db: Database, comparison: Comparison, version: str) -> None:
    # An applied decision is never applied again: the alias may have moved on since.
    if comparison.applied_at is None:
        set_alias(settings, comparison.policy, CHAMPION_ALIAS, version)
        mark_applied(db, comparison.id)


def _result(db: Database, comparison: Comparison) -> PromotionResult:
    decision = comparison.decision
    if decision is None:
        raise StoreError(f"comparison {comparison.id} ended as {comparison.status} without a recorded decision")
    return PromotionResult(
        comparison=comparison,
        arm=str(decision["arm"]),
        version=str(decision["version"]),
        forced=bool(decision["forced"]),
        report=report(db, comparison.id),
    )
