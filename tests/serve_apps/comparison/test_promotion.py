from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.errors import BundleError, StoreError
from cluster.runtime.desired import desired_state
from cluster.runtime.serve_config import ServedPolicyConfig
from cluster.settings import Settings
from cluster.store.comparisons import Comparison, active_comparison, close_comparison, get_comparison
from cluster.store.database import Database
from cluster.store.registry import get_version, set_alias
from serve_apps.comparison.promotion import finish_decisions, promote, stop
from serve_apps.comparison.report import report
from serve_apps.gateway.episodes import Ledger
from serve_apps.gateway.looks import Looks

Play = Callable[..., list[str]]
POLICY = "pidog-run"


def champion(settings: Settings) -> int:
    return get_version(settings, POLICY, "@champion").version


@pytest.fixture
def won(registered: Settings, db: Database, comparison: Comparison, play: Play) -> Comparison:
    """A comparison that the challenger has won."""
    play(comparison, 64, champion=-0.1, challenger=0.15)
    return comparison


def test_the_winner_becomes_champion_and_the_comparison_ends(registered: Settings, db: Database, won: Comparison) -> None:
    result = promote(registered, won.id)
    assert (result.arm, result.version, result.forced, result.report.decision) == ("challenger", "2", False, "promote")
    assert champion(registered) == 2
    stored = get_comparison(db, won.id)
    assert (stored.status, stored == result.comparison) == ("promoted", True)
    assert stored.applied_at is not None
    assert stored.decision is not None
    assert (stored.decision["replaces"], stored.decision["report"]["e_value"]) == ("1", result.report.e_value)
    assert active_comparison(db, POLICY) is None


def test_promoting_again_changes_nothing_even_after_the_alias_moved_on(registered: Settings, won: Comparison) -> None:
    first = promote(registered, won.id)
    set_alias(registered, POLICY, "champion", 1)
    assert promote(registered, won.id) == first
    assert promote(registered, won.id, arm="challenger") == first
    assert champion(registered) == 1
    with pytest.raises(StoreError, match="already ended for challenger"):
        promote(registered, won.id, arm="champion", force=True)
    with pytest.raises(StoreError, match="already ended as promoted"):
        stop(registered, won.id)


def test_a_champion_that_wins_keeps_its_place(registered: Settings, comparison: Comparison, play: Play) -> None:
    play(comparison, 64, champion=0.15, challenger=-0.1)
    result = promote(registered, comparison.id)
    assert (result.arm, result.version, result.comparison.status) == ("champion", "1", "kept")
    assert champion(registered) == 1


def test_without_a_verdict_nothing_moves_unless_forced(registered: Settings, db: Database, comparison: Comparison, play: Play) -> None:
    play(comparison, 20, champion=0.1, challenger=0.1)
    with pytest.raises(StoreError, match=r"inconclusive.*--force"):
        promote(registered, comparison.id)
    with pytest.raises(StoreError, match="inconclusive"):
        promote(registered, comparison.id, arm="challenger")
    assert (champion(registered), get_comparison(db, comparison.id).status) == (1, "running")
    result = promote(registered, comparison.id, force=True)
    assert (result.arm, result.forced, champion(registered)) == ("challenger", True, 2)


def test_a_verdict_is_overruled_only_by_force(registered: Settings, won: Comparison) -> None:
    with pytest.raises(StoreError, match="the verdict is promote, not champion"):
        promote(registered, won.id, arm="champion")
    result = promote(registered, won.id, arm="champion", force=True)
    assert (result.arm, result.forced, result.comparison.status, champion(registered)) == ("champion", True, "kept", 1)


def test_force_does_not_invent_arms_or_comparisons(registered: Settings, won: Comparison) -> None:
    with pytest.raises(StoreError, match="no arm 'third'; it has champion, challenger"):
        promote(registered, won.id, arm="third", force=True)
    with pytest.raises(StoreError, match="no comparison 'nope'"):
        promote(registered, "nope", force=True)


def test_a_tampered_winner_is_refused_before_anything_is_written(registered: Settings, db: Database, won: Comparison) -> None:
    (get_version(registered, POLICY, 2).path / "policy.onnx").write_bytes(b"evil")
    with pytest.raises(BundleError):
        promote(registered, won.id)
    assert (get_comparison(db, won.id).status, champion(registered)) == ("running", 1)


def test_stopping_moves_nothing(registered: Settings, db: Database, won: Comparison) -> None:
    stopped = stop(registered, won.id)
    assert stop(registered, won.id) == stopped
    assert (stopped.status, champion(registered)) == ("stopped", 1)
    assert stopped.decision is not None
    assert stopped.decision["report"]["decision"] == "promote"
    with pytest.raises(StoreError, match="was stopped without a winner"):
        promote(registered, won.id)


@pytest.mark.parametrize("at", ["set_alias", "mark_applied"])
def test_killed_between_the_steps_it_is_finished_by_asking_again(
    registered: Settings, db: Database, won: Comparison, at: str, start_comparison: Callable[..., Comparison], tmp_path: Path
) -> None:
    """The process dies, for real, just before the alias moves or just after."""
    code = f"""
import os, signal, sys
from cluster.settings import Settings
from serve_apps.comparison import promotion
def die(*arguments):
    os.kill(os.getpid(), signal.SIGKILL)
promotion.{at} = die
promotion.promote(Settings.from_environment(), sys.argv[1])
"""
    environment = {**os.environ, **registered.as_environment()}
    done = subprocess.run([sys.executable, "-c", code, won.id], env=environment, cwd=tmp_path, timeout=60, capture_output=True)
    assert done.returncode == -9
    assert get_comparison(db, won.id).status == "promoted"
    with pytest.raises(StoreError, match="interrupted before its winner took over"):
        start_comparison()
    if at == "set_alias":
        assert champion(registered) == 1
        assert [found.id for found in finish_decisions(registered)] == [won.id]
        assert finish_decisions(registered) == []
    result = promote(registered, won.id)
    assert (result.arm, champion(registered)) == ("challenger", 2)
    assert get_comparison(db, won.id).applied_at is not None
    start_comparison()


def interrupted(db: Database, won: Comparison) -> None:
    """As a referee leaves it that was killed right after its decision."""
    decision = {"arm": "challenger", "version": "2", "forced": False, "replaces": "1", "report": report(db, won.id).to_dict()}
    close_comparison(db, won.id, "promoted", decision)


def test_whoever_serves_next_finishes_a_decision(registered: Settings, db: Database, won: Comparison) -> None:
    interrupted(db, won)
    assert champion(registered) == 1
    state = desired_state(registered, (ServedPolicyConfig(policy=POLICY),))
    assert state.policies[POLICY].default_version == "2"
    assert champion(registered) == 2
    assert get_comparison(db, won.id).applied_at is not None


@pytest.mark.anyio
async def test_a_replica_that_lives_finishes_what_another_decided(
    registered: Settings, db: Database, won: Comparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in registered.as_environment().items():
        monkeypatch.setenv(name, value)
    interrupted(db, won)
    ledger = Ledger(db.url)
    looks = Looks()
    await looks.look(ledger, set())
    await looks.close()
    ledger.close()
    assert get_comparison(db, won.id).applied_at is not None
    assert champion(registered) == 2


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
