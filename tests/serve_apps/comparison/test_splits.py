"""Splits that move by themselves, through the ledger and the referee: stages, a bandit, and what holds them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cluster.config import parse_config
from cluster.errors import ConfigError, UsageError
from cluster.store.comparisons import (
    Arm,
    Comparison,
    EpisodeRow,
    Guardrail,
    NewComparison,
    Outcome,
    change_weights,
    get_comparison,
    record_episode,
    record_outcome,
)
from cluster.store.database import Database
from serve_apps.comparison.assignment import assign
from serve_apps.comparison.bandit import due_after
from serve_apps.comparison.eprocess import effect_scores
from serve_apps.comparison.referee import rule
from serve_apps.comparison.report import report

POLICY = "pidog-run"
RAMP = ({"share": 0.1, "episodes": 20}, {"share": 0.25, "episodes": 30}, {"share": 0.5, "episodes": 40})
THREE = tuple(Arm(name=name, version=str(k + 1), weight=w) for k, (name, w) in enumerate((("champion", 1.0), ("b", 3.0), ("c", 1.0))))
Start = Callable[..., Comparison]


def drive(db: Database, comparison: Comparison, prefix: str, count: int, means: dict[str, float], **outcome: Any) -> None:
    """Episodes as replicas assign them, with the weights that hold at each one's beginning."""
    for number in range(count):
        now, name = get_comparison(db, comparison.id), f"{prefix}{number}"
        index, propensity = assign(now.salt, name, [arm.weight for arm in now.arms])
        arm = now.arms[index]
        row = EpisodeRow(
            policy=POLICY,
            episode_id=name,
            version=arm.version,
            comparison_id=now.id,
            arm=arm.name,
            propensity=propensity,
            weights_version=now.weights[-1].version,
        )
        record_episode(db, row)
        value = float(np.random.default_rng(list(name.encode())).normal(means[arm.name], 0.05))
        record_outcome(db, name, Outcome(value=value, **outcome), policy=POLICY)


def shares(db: Database, comparison: Comparison) -> list[float]:
    now = get_comparison(db, comparison.id)
    return [round(now.weights[-1].share(arm.name), 6) for arm in now.arms]


def acted(db: Database, comparison: Comparison) -> str:
    ruling = rule(db, comparison.id)
    assert ruling is not None
    return ruling.acted


def test_a_ramp_goes_on_when_its_stage_is_counted_and_ends_at_the_last(db: Database, start_comparison: Start) -> None:
    comparison = start_comparison(arms=THREE, ramp=RAMP)
    equal = {"champion": 0.1, "b": 0.1, "c": 0.1}
    assert shares(db, comparison) == [0.9, 0.075, 0.025]  # as their weights at the start, three to one
    drive(db, comparison, "a", 19, equal)
    assert acted(db, comparison) == ""
    assert "ramp: stage 1 of 3, challengers get 10 %: 19 of 20 episodes counted" in report(db, comparison.id).to_text()
    drive(db, comparison, "b", 1, equal)
    assert acted(db, comparison) == "ramp: stage 2 of 3, challengers get 25 %, after 20 episodes"
    assert shares(db, comparison) == [0.75, 0.1875, 0.0625]
    assert acted(db, comparison) == ""  # of the new stage nothing is counted yet
    drive(db, comparison, "c", 30, equal)
    assert acted(db, comparison).startswith("ramp: stage 3 of 3, challengers get 50 %")
    drive(db, comparison, "d", 60, equal)
    assert acted(db, comparison) == ""
    assert shares(db, comparison) == [0.5, 0.375, 0.125]
    history = get_comparison(db, comparison.id).weights
    assert [(split.version, split.actor) for split in history] == [(1, ""), (2, "referee"), (3, "referee")]
    found = report(db, comparison.id)
    assert found.decision == "inconclusive"
    assert all(item.unbiased for item in found.challengers)
    assert "unbiased, by doubly robust scores: the split varied" in found.to_text()


def test_a_ramp_is_held_by_a_breach_and_stands_where_somebody_set_another_share(db: Database, start_comparison: Start) -> None:
    comparison = start_comparison(
        ramp=({"share": 0.4, "episodes": 30}, {"share": 0.5, "episodes": 40}), guardrails=(Guardrail(name="fell", at_most=0.05),)
    )
    drive(db, comparison, "a", 30, {"champion": 0.1, "challenger": 0.1}, fell=True)
    assert acted(db, comparison) == "guardrail breached by challenger"
    assert shares(db, comparison) == [1.0, 0.0]
    change_weights(db, comparison.id, {"champion": 0.6, "challenger": 0.4}, "once more", "me")
    assert "held: guardrail breached by challenger" in report(db, comparison.id).to_text()
    other = start_by_hand(db, comparison, start_comparison)
    assert acted(db, other) == ""
    assert "ramp: stands still, the challengers' share is no stage's" in report(db, other.id).to_text()
    change_weights(db, other.id, {"champion": 0.9, "challenger": 0.1}, "again", "me")
    drive(db, other, "c", 20, {"champion": 0.1, "challenger": 0.1})
    assert acted(db, other).startswith("ramp: stage 2 of 3")


def start_by_hand(db: Database, before: Comparison, start_comparison: Start) -> Comparison:
    from cluster.store.comparisons import close_comparison

    close_comparison(db, before.id, "stopped")
    comparison = start_comparison(ramp=RAMP)
    change_weights(db, comparison.id, {"champion": 0.8, "challenger": 0.2}, "slowly", "me")
    drive(db, comparison, "b", 40, {"champion": 0.1, "challenger": 0.1})
    return comparison


def test_a_verdict_ends_the_ramp(db: Database, start_comparison: Start) -> None:
    comparison = start_comparison(ramp=({"share": 0.4, "episodes": 100}, {"share": 0.5, "episodes": 40}))
    drive(db, comparison, "a", 120, {"champion": 0.2, "challenger": -0.2})
    assert acted(db, comparison) == ""  # worse: it gets no more
    assert shares(db, comparison) == [0.6, 0.4]


def test_a_bandit_gives_the_better_arm_more_and_never_less_than_its_even_share(db: Database, start_comparison: Start) -> None:
    comparison = start_comparison(bandit=True, bandit_uniform_share=0.2, alpha=1e-6, low=-1.0, high=1.0)
    moved = 0
    for k in range(30):
        drive(db, comparison, f"{k}-", 5, {"champion": -0.2, "challenger": 0.3})
        moved += acted(db, comparison).startswith("bandit: after ")
    assert moved >= 4
    splits = get_comparison(db, comparison.id).weights
    assert [split.version for split in splits] == list(range(1, moved + 2))
    assert all(0.1 <= split.share(arm) <= 0.9 for split in splits for arm in ("champion", "challenger"))
    assert splits[-1].share("challenger") > 0.8
    found = report(db, comparison.id)
    (item,) = found.challengers
    assert item.unbiased
    assert item.difference == pytest.approx(0.5, abs=0.2)
    assert item.interval[0] < item.difference < item.interval[1]
    assert found.split.startswith(f"bandit: split {moved + 1} is in force")


def test_two_replicas_compute_the_same_split_and_one_writes_it(db: Database, start_comparison: Start) -> None:
    from serve_apps.comparison.bandit import next_split
    from serve_apps.comparison.report import examine

    comparison = start_comparison(bandit=True, salt="salt")
    drive(db, comparison, "a", 20, {"champion": 0.0, "challenger": 0.05})
    one, two = (next_split(examine(db, comparison.id, intervals=False).counted) for _ in range(2))
    assert one == two is not None
    assert due_after(1) == 20
    assert due_after(2) == 42


def test_the_told_difference_is_unbiased_where_a_plain_one_is_not() -> None:
    """Outcomes fall while the challenger's share rises: it looks worse for having come late."""
    generator = np.random.default_rng(2)
    share = np.repeat([0.1, 0.9], 200)
    plain, scored = [], []
    for _ in range(300):
        challenger = generator.random(400) < share
        outcome = (generator.random(400) < np.linspace(0.9, 0.1, 400)).astype(float)
        plain.append(outcome[challenger].mean() - outcome[~challenger].mean())
        scored.append(effect_scores(outcome, challenger, share).z.mean())
    assert np.mean(plain) < -0.25
    assert abs(np.mean(scored)) < 4 * np.std(scored) / np.sqrt(300)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"ramp": RAMP, "bandit": True}, "ramp and bandit: both set the split"),
        ({"ramp": RAMP[::-1]}, "each stage's share must be above the one before"),
        ({"ramp": [{"share": 1.0, "episodes": 5}]}, "less than 1"),
        ({"ramp": [{"share": 0.5, "episodes": 0}]}, "greater than or equal to 1"),
        ({"bandit": True, "bandit_uniform_share": 0.0}, "greater than 0"),
        ({"unit": "fleet"}, "unit"),
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, Any], says: str) -> None:
    arms = [{"name": "champion", "version": "1", "weight": 0.5}, {"name": "challenger", "version": "2", "weight": 0.5}]
    with pytest.raises(ConfigError, match=says):
        parse_config({"policy": POLICY, "arms": arms, "metric": "x", "low": 0.0, "high": 1.0} | changes, NewComparison)


def test_shadows_are_not_compared(db: Database, start_comparison: Start) -> None:
    shadow = Arm(name="shadow", version="3", weight=0.0, shadow=True)
    two = (Arm(name="champion", version="1", weight=0.5), Arm(name="challenger", version="2", weight=0.5))
    comparison = start_comparison(arms=(*two, shadow))
    drive(db, comparison, "a", 64, {"champion": -0.1, "challenger": 0.15})
    found = report(db, comparison.id)
    assert (found.decision, found.winner, found.e_threshold) == ("promote", "challenger", 20.0)
    assert [arm.name for arm in found.arms] == ["champion", "challenger"]
    assert [item.arm for item in found.challengers] == ["challenger"]
    with pytest.raises(UsageError, match="shadow: it gets no episodes"):
        change_weights(db, comparison.id, {"shadow": 0.1}, "", "me")


def test_a_champion_with_shadows_alone_decides_nothing(db: Database, start_comparison: Start) -> None:
    shadow = Arm(name="shadow", version="3", weight=0.0, shadow=True)
    comparison = start_comparison(arms=(Arm(name="champion", version="1", weight=1.0), shadow), auto="promote", max_episodes=2)
    assert acted(db, comparison) == ""
    found = report(db, comparison.id)
    assert (found.decision, found.winner, found.challenger, found.challengers) == ("inconclusive", None, "", ())
    assert "nothing is compared" in found.to_text()
    assert get_comparison(db, comparison.id).status == "running"


def test_the_servers_own_figures_guard(db: Database, start_comparison: Start) -> None:
    guardrails = (
        Guardrail(name="server_latency_p99_ms", above=20.0, at_most=0.05),
        Guardrail(name="server_error_steps", above=0.0, at_most=0.01),
        Guardrail(name="latency_p99_ms", above=20.0, at_most=0.05),
    )
    comparison = start_comparison(guardrails=guardrails)
    for number in range(60):
        name = f"e{number}"
        index, propensity = assign(comparison.salt, name, [0.5, 0.5])
        arm = comparison.arms[index]
        row = EpisodeRow(
            policy=POLICY, episode_id=name, version=arm.version, comparison_id=comparison.id, arm=arm.name, propensity=propensity
        )
        record_episode(db, row)
        server = {"latency_p99_ms": 25.0 if index else 5.0, "error_steps": 0} if number % 7 else None
        outcome = Outcome(value=0.1, metrics={"latency_p99_ms": 5.0})
        assert record_outcome(db, name, outcome, policy=POLICY, server=server) is True
        assert record_outcome(db, name, outcome, policy=POLICY, server={"latency_p99_ms": 1.0}) is False  # no part of what is equal
    by_name = {(item.arm, item.name): item for item in report(db, comparison.id).guardrails}
    assert by_name["challenger", "server_latency_p99_ms"].breached
    assert 0 < by_name["challenger", "server_latency_p99_ms"].counted < by_name["challenger", "server_latency_p99_ms"].episodes
    others = [item for key, item in by_name.items() if key != ("challenger", "server_latency_p99_ms")]
    assert not any(item.breached or item.counted for item in others)


@pytest.mark.parametrize("auto", ["off", "recommend", "promote"])
def test_a_verdict_that_waits_for_somebody_says_what_to_type(db: Database, start_comparison: Start, auto: str) -> None:
    comparison = start_comparison(auto=auto)
    drive(db, comparison, "a", 64, {"champion": -0.1, "challenger": 0.15})
    text = report(db, comparison.id).to_text()
    assert (f"`gaitway ab promote {comparison.id}` does it" in text) == (auto != "promote")
    assert ("recommends promote; " in text) == (auto == "recommend")
