"""What can be expected, at the start: figures that the test then keeps, from the ledger's outcomes where it has some."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cluster.store.comparisons import (
    Arm,
    Comparison,
    EpisodeRow,
    NewComparison,
    Outcome,
    close_comparison,
    get_comparison,
    record_episode,
    record_outcome,
)
from cluster.store.database import Database
from serve_apps.comparison.eprocess import effect_log_e_values, effect_scores
from serve_apps.comparison.plan import make_plan, start_comparison
from serve_apps.comparison.report import report

POLICY = "pidog-run"
TWO = (Arm(name="champion", version="1", weight=0.5), Arm(name="challenger", version="2", weight=0.5))


def asked(**changes: Any) -> NewComparison:
    return NewComparison(**{"policy": POLICY, "arms": TWO, "metric": "success", "low": 0.0, "high": 1.0} | changes)


def test_without_a_past_two_assumptions_bracket_what_to_expect(db: Database) -> None:
    started_s = time.process_time()
    plan = make_plan(db, asked())
    assert time.process_time() - started_s < 6.0  # about 2.5 on an idle core
    assert plan is not None
    assert plan == make_plan(db, asked())  # the same each time
    assert [scenario.champion_mean for scenario in plan.scenarios] == [0.75, 0.5]
    easy, hard = plan.scenarios
    assert [item.effect for item in easy.effects] == pytest.approx([0.2, 0.1, 0.05])
    needed = easy.effects[0].episodes
    assert needed is not None
    assert 100 <= needed <= 170  # fixed-sample: 98
    assert sum(easy.effects[0].episodes_per_arm.values()) == pytest.approx(needed, abs=1)
    assert hard.effects[0].episodes > needed  # type: ignore[operator]
    assert 0.05 < easy.smallest_effect < hard.smallest_effect < 0.2  # type: ignore[operator]
    assert plan.budget == 1000


def test_the_test_keeps_what_the_plan_says(db: Database) -> None:
    plan = make_plan(db, asked(arms=(TWO[0].model_copy(update={"weight": 0.8}), TWO[1].model_copy(update={"weight": 0.2}))))
    assert plan is not None
    effect = plan.scenarios[0].effects[0]
    assert effect.episodes is not None
    generator = np.random.default_rng(3)
    shape = 400, effect.episodes
    challenger = generator.random(shape) < 0.2
    outcome = (generator.random(shape) < np.where(challenger, 0.95, 0.75)).astype(float)
    better, _ = effect_log_e_values(effect_scores(outcome, challenger, 0.2))
    assert (better.max(axis=1) >= np.log(20)).mean() == pytest.approx(0.8, abs=0.08)
    assert effect.episodes_per_arm["challenger"] == pytest.approx(0.2 * effect.episodes, rel=0.1)


def test_the_champions_own_past_is_used_once_there_is_enough(db: Database, start_comparison: Callable[..., Comparison]) -> None:
    before = start_comparison()
    for number, velocity in enumerate(np.random.default_rng(5).normal(0.1, 0.02, 40)):
        row = EpisodeRow(policy=POLICY, episode_id=f"e{number}", version="1", comparison_id=before.id, arm="champion", propensity=0.5)
        record_episode(db, row)
        record_outcome(db, f"e{number}", Outcome(value=float(velocity)), policy=POLICY)
    close_comparison(db, before.id, "stopped")
    velocity = {"metric": before.metric, "low": before.low, "high": before.high}
    plan = make_plan(db, asked(**velocity))
    assert plan is not None
    (scenario,) = plan.scenarios
    assert scenario.outcomes == "with 40 past outcomes of version 1"
    assert scenario.champion_mean == pytest.approx(0.1, abs=0.02)
    assert scenario.effects[0].episodes < 40  # type: ignore[operator]  # steady outcomes are told apart soon
    assert len(make_plan(db, asked(metric="another")).scenarios) == 2  # type: ignore[union-attr]


def test_the_plan_is_kept_with_the_comparison_and_told_in_its_report(db: Database) -> None:
    comparison = start_comparison(db, asked(max_episodes=200))
    stored = get_comparison(db, comparison.id)
    assert stored.plan is not None
    assert stored.plan["budget"] == 200
    found = report(db, comparison.id)
    text = found.to_text()
    assert "expected with 80 % power if outcomes are either 0 or 1, mean 0.75:" in text
    assert "  +0.2 in success: about " in text
    assert "within 200 episodes: +" in text
    assert type(found).model_validate(json.loads(json.dumps(found.to_dict()))) == found


@pytest.mark.parametrize(
    "changes",
    [
        {"unit": "robot", "episodes_per_robot": 4},
        {"bandit": True},
        {"arms": (*TWO, Arm(name="c", version="3", weight=0.1)), "ramp": ({"share": 0.1, "episodes": 50}, {"share": 0.5, "episodes": 100})},
    ],
    ids=["robots", "bandit", "ramp of two"],
)
def test_every_kind_of_comparison_has_a_plan(db: Database, changes: dict[str, Any]) -> None:
    plan = make_plan(db, asked(**changes))
    assert plan is not None
    effects = plan.scenarios[0].effects
    assert effects[0].episodes is not None
    assert effects[0].episodes > 100
    if "unit" in changes:
        assert effects[0].episodes % 4 == 0
        assert "4 episodes a robot" in "\n".join(plan.lines("success"))


@pytest.mark.parametrize("changes", [{"max_episodes": 1_000_000}, {"unit": "robot", "episodes_per_robot": 5_000}, {"max_episodes": 2}])
def test_a_plan_takes_seconds_whatever_is_asked_for(db: Database, changes: dict[str, Any]) -> None:
    started_s = time.process_time()
    plan = make_plan(db, asked(**changes))
    assert time.process_time() - started_s < 8.0  # about 3 on an idle core
    assert plan is not None
    assert plan.budget <= 2_000
    if changes.get("max_episodes") != 1_000_000:
        assert plan.scenarios[0].smallest_effect is None
        assert plan.lines("success")[-1 if "unit" not in changes else -2].endswith("episodes: nothing")


def test_shadows_alone_have_no_plan(db: Database) -> None:
    arms = (TWO[0], Arm(name="shadow", version="3", weight=0.0, shadow=True))
    comparison = start_comparison(db, asked(arms=arms))
    assert comparison.plan is None
