"""Several challengers, splits that change, guardrails, budgets, and what is done by itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cluster.config import parse_config
from cluster.errors import ConfigError, StoreError, UsageError
from cluster.settings import Settings
from cluster.store.comparisons import (
    Arm,
    Comparison,
    EpisodeRow,
    Guardrail,
    NewComparison,
    Outcome,
    change_weights,
    current_splits,
    get_comparison,
    record_episode,
    record_outcome,
)
from cluster.store.database import Database
from cluster.store.registry import get_version, set_alias
from cluster.store.tokens import list_audit
from serve_apps.comparison.assignment import assign
from serve_apps.comparison.eprocess import effect_log_e_values, effect_scores, sample_ratio_log_e_values
from serve_apps.comparison.promotion import finish_decisions, promote, stop, undo
from serve_apps.comparison.referee import rule
from serve_apps.comparison.report import Report, report

POLICY = "pidog-run"
FOUR = tuple(Arm(name=name, version=str(k + 1), weight=1.0) for k, name in enumerate(("champion", "b", "c", "d")))
TWO = (Arm(name="champion", version="1", weight=0.5), Arm(name="challenger", version="2", weight=0.5))


def robots(
    db: Database,
    comparison: Comparison,
    names: list[str],
    means: dict[str, float],
    falls: dict[str, float] | None = None,
    ended: bool = True,
) -> None:
    """Episodes that are assigned as replicas do, with the weights that hold now; seeded by their names."""
    comparison = get_comparison(db, comparison.id)
    for name in names:
        index, propensity = assign(comparison.salt, name, [arm.weight for arm in comparison.arms])
        arm, random = comparison.arms[index], np.random.default_rng(list(name.encode()))
        if propensity == 1.0:
            continue
        row = EpisodeRow(
            policy=POLICY,
            episode_id=name,
            version=arm.version,
            comparison_id=comparison.id,
            arm=arm.name,
            propensity=propensity,
            weights_version=comparison.weights[-1].version,
        )
        record_episode(db, row)
        if ended:
            fell = bool(random.random() < (falls or {}).get(arm.name, 0.0))
            value = float(random.normal(means[arm.name], 0.05))
            record_outcome(db, name, Outcome(value=value, fell=fell, metrics={"latency_p99_ms": 5.0 + 30.0 * fell}), policy=POLICY)


def numbered(prefix: str, count: int) -> list[str]:
    return [f"{prefix}{number}" for number in range(count)]


def test_the_best_of_three_challengers_is_promoted(db: Database, start_comparison: Callable[..., Comparison]) -> None:
    comparison = start_comparison(arms=FOUR)
    robots(db, comparison, numbered("e", 200), {"champion": 0.0, "b": 0.02, "c": 0.2, "d": -0.1})
    found = report(db, comparison.id)
    assert (found.decision, found.winner, found.challenger) == ("promote", "c", "c")
    assert found.e_threshold == pytest.approx(60.0)
    assert f"{100 * found.interval_level:.4g}" == "96.67"
    by_arm = {item.arm: item for item in found.challengers}
    assert by_arm["c"].better_at == found.decided_at_episode
    assert by_arm["d"].worse_at is not None
    assert by_arm["b"].better_at is None
    for item in found.challengers:
        counts = {arm.name: arm.episodes for arm in found.arms}
        assert item.episodes == counts["champion"] + counts[item.arm]
        assert item.interval[0] < (item.difference or 0.0) < item.interval[1]
    text = found.to_text()
    assert "difference of c in forward_velocity_m_s: +0." in text
    assert Report.model_validate(found.to_dict()) == found


def test_the_champion_stays_once_all_challengers_are_worse(db: Database, start_comparison: Callable[..., Comparison]) -> None:
    comparison = start_comparison(arms=FOUR[:3])
    robots(db, comparison, numbered("e", 60), {"champion": 0.2, "b": -0.2, "c": 0.2})
    assert report(db, comparison.id).decision == "inconclusive"
    robots(db, comparison, numbered("f", 240), {"champion": 0.2, "b": -0.2, "c": 0.0})
    found = report(db, comparison.id)
    assert (found.decision, found.winner) == ("keep", "champion")
    assert found.decided_at_episode == max(item.worse_at or 0 for item in found.challengers)


def test_with_three_equal_challengers_any_wrong_promotion_stays_rare() -> None:
    generator, alpha, repetitions = np.random.default_rng(5), 0.05, 600
    wrong = 0
    for _ in range(repetitions):
        index = generator.integers(4, size=300)
        outcome = (generator.random(300) < 0.6).astype(float)
        for challenger in (1, 2, 3):
            pair = (index == 0) | (index == challenger)
            better, _ = effect_log_e_values(effect_scores(outcome[pair], index[pair] == challenger, 0.5))
            if better.max() >= math.log(3 / alpha):
                wrong += 1
                break
    assert wrong / repetitions <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / repetitions)


def test_a_split_may_change_and_each_episode_is_counted_with_its_own(db: Database, start_comparison: Callable[..., Comparison]) -> None:
    comparison = start_comparison(arms=TWO)
    robots(db, comparison, numbered("e", 60), {"champion": 0.0, "challenger": 0.0})
    changed = change_weights(db, comparison.id, {"challenger": 4.5}, "ramp", "me")
    assert {arm.name: arm.weight for arm in changed.arms} == {"champion": 0.5, "challenger": 4.5}
    robots(db, comparison, numbered("f", 200), {"champion": 0.0, "challenger": 0.0})
    found = report(db, comparison.id)
    counts = [arm.episodes for arm in found.arms]
    assert 0.7 < counts[1] / sum(counts) < 0.9
    assert found.decision == "inconclusive"
    assert found.sample_ratio_e_value < 20
    unaware = sample_ratio_log_e_values([k % 2 for k in range(1)] + [1] * 180 + [0] * 40, [0.5, 0.5])
    assert unaware.max() > math.log(100)  # with one split for all, the check would cry wolf
    history = get_comparison(db, comparison.id).weights
    assert [(split.version, split.reason, split.actor) for split in history] == [(1, "as it began", ""), (2, "ramp", "me")]
    assert list_audit(db)[0]["action"] == "comparison.weights"
    assert current_splits(db, [comparison.id, "nobody"]) == {comparison.id: (2, {"champion": 0.5, "challenger": 4.5}, "running", None)}
    for weights, says in (
        ({"nobody": 1.0}, "no arm 'nobody'"),
        ({"champion": -1.0}, "numbers from 0"),
        ({"champion": 0, "challenger": 0}, "above it"),
    ):
        with pytest.raises(UsageError, match=says):
            change_weights(db, comparison.id, weights, "", "me")


def test_a_breach_takes_the_arm_away_before_open_episodes_are_in(db: Database, start_comparison: Callable[..., Comparison]) -> None:
    guardrails = (
        Guardrail(name="fell", at_most=0.1),
        Guardrail(name="latency_p99_ms", above=20.0, at_most=0.2),
        Guardrail(name="missing", at_most=0.3),
    )
    comparison = start_comparison(arms=TWO, guardrails=guardrails)
    robots(db, comparison, ["open"], {}, ended=False)  # a verdict waits for it; a guardrail does not
    robots(db, comparison, numbered("e", 40), {"champion": 0.1, "challenger": 0.1}, {"champion": 0.0, "challenger": 0.05})
    ruling = rule(db, comparison.id)
    assert ruling is not None
    assert ruling.acted == ""
    robots(db, comparison, numbered("f", 40), {"champion": 0.1, "challenger": 0.1}, {"champion": 0.0, "challenger": 0.9})
    ruling = rule(db, comparison.id)
    assert ruling is not None
    assert ruling.acted == "guardrail breached by challenger"
    assert ruling.report.episodes == 0  # the verdict still waits
    assert ruling.report.breached == ("challenger",)
    by_name = {(item.arm, item.name): item for item in ruling.report.guardrails}
    assert by_name["challenger", "fell"].breached
    assert by_name["challenger", "latency_p99_ms"].breached
    assert not by_name["champion", "fell"].breached
    assert not by_name["challenger", "missing"].breached
    assert "guardrail breached by challenger: fell in " in ruling.report.to_text()
    stored = get_comparison(db, comparison.id)
    assert [arm.weight for arm in stored.arms] == [0.5, 0.0]
    assert (stored.status, stored.weights[-1].actor) == ("running", "referee")
    again = rule(db, comparison.id)
    assert again is not None
    assert again.acted == ""
    assert len(get_comparison(db, comparison.id).weights) == 2


def test_a_winner_that_broke_a_guardrail_is_not_promoted(
    registered: Settings, db: Database, start_comparison: Callable[..., Comparison]
) -> None:
    comparison = start_comparison(arms=TWO, guardrails=(Guardrail(name="fell", at_most=0.05),), auto="promote")
    robots(db, comparison, numbered("e", 80), {"champion": -0.1, "challenger": 0.2}, {"challenger": 0.5})
    with pytest.raises(StoreError, match="won but broke a guardrail"):
        promote(registered, comparison.id)
    ruling = rule(db, comparison.id)
    assert ruling is not None
    assert ruling.decided
    assert get_comparison(db, comparison.id).status == "kept"  # nobody is left who could win
    finish_decisions(registered)
    assert get_version(registered, POLICY, "@champion").version == 1


def test_a_verdict_takes_effect_by_itself_and_can_be_undone(
    registered: Settings, db: Database, start_comparison: Callable[..., Comparison]
) -> None:
    comparison = start_comparison(arms=TWO, auto="promote")
    robots(db, comparison, numbered("e", 10), {"champion": 0.0, "challenger": 0.2})
    first = rule(db, comparison.id)
    assert first is not None
    assert not first.decided
    robots(db, comparison, numbered("f", 60), {"champion": 0.0, "challenger": 0.2})
    ruling = rule(db, comparison.id)
    assert ruling is not None
    assert ruling.decided
    stored = get_comparison(db, comparison.id)
    assert (stored.status, stored.applied_at) == ("promoted", None)
    assert stored.decision is not None
    assert (stored.decision["arm"], stored.decision["actor"], stored.decision["report"]["decision"]) == ("challenger", "referee", "promote")
    assert rule(db, comparison.id) is None
    assert current_splits(db, [comparison.id])[comparison.id][2:] == ("promoted", "2")
    with pytest.raises(StoreError, match="no promotion to undo"):
        undo(registered, comparison.id)  # not in effect yet
    finish_decisions(registered)
    assert get_version(registered, POLICY, "@champion").version == 2
    assert undo(registered, comparison.id) == "1"
    assert get_version(registered, POLICY, "@champion").version == 1
    assert undo(registered, comparison.id) == "1"  # again: nothing changes
    assert finish_decisions(registered) == []
    assert list_audit(db)[0]["action"] == "comparison.undo"
    set_alias(registered, POLICY, "champion", 2)
    assert undo(registered, comparison.id) == "1"


def test_a_verdict_waits_for_somebody_unless_it_may_act(db: Database, start_comparison: Callable[..., Comparison]) -> None:
    comparison = start_comparison(arms=TWO, auto="recommend")
    robots(db, comparison, numbered("e", 70), {"champion": 0.0, "challenger": 0.2})
    ruling = rule(db, comparison.id)
    assert ruling is not None
    assert (ruling.report.decision, ruling.acted, get_comparison(db, comparison.id).status) == ("promote", "", "running")


def test_at_its_budget_a_comparison_pauses_and_says_so(
    registered: Settings, db: Database, start_comparison: Callable[..., Comparison]
) -> None:
    comparison = start_comparison(arms=TWO, max_episodes=40, auto="promote")
    robots(db, comparison, numbered("e", 39), {"champion": 0.1, "challenger": 0.1})
    assert rule(db, comparison.id) is not None
    assert get_comparison(db, comparison.id).status == "running"
    robots(db, comparison, numbered("f", 1), {"champion": 0.1, "challenger": 0.1})
    ruling = rule(db, comparison.id)
    assert ruling is not None
    assert ruling.acted.startswith("paused: its budget of 40 episodes is spent")
    assert get_comparison(db, comparison.id).status == "paused"
    assert rule(db, comparison.id) is None
    with pytest.raises(StoreError, match=f"comparison {comparison.id} of pidog-run is paused without a verdict"):
        start_comparison(arms=TWO)
    result = promote(registered, comparison.id, arm="challenger", force=True)
    assert (result.comparison.status, result.forced) == ("promoted", True)
    other = start_comparison(arms=TWO, max_episodes=2)
    robots(db, other, numbered("g", 2), {"champion": 0.1, "challenger": 0.1})
    rule(db, other.id)
    assert stop(registered, other.id).status == "stopped"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"guardrails": [{"name": "latency_p99_ms", "at_most": 0.1}]}, "a figure needs above"),
        ({"guardrails": [{"name": "fell", "above": 1.0, "at_most": 0.1}]}, "fell and missing have none"),
        ({"guardrails": [{"name": "fell", "at_most": 1.0}]}, "less than 1"),
        ({"max_episodes": 1}, "greater than or equal to 2"),
        ({"auto": "always"}, "auto"),
        ({"arms": [arm.model_dump() for arm in (*FOUR, Arm(name="e", version="5", weight=1.0))]}, "at most 4"),
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, Any], says: str) -> None:
    values = {"policy": POLICY, "arms": [arm.model_dump() for arm in TWO], "metric": "x", "low": 0.0, "high": 1.0}
    with pytest.raises(ConfigError, match=says):
        parse_config(values | changes, NewComparison)
