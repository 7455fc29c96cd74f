"""Robots as the unit: one observation each, in the order in which they came, whatever the ledger holds beside."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from cluster.errors import StoreError
from cluster.store.comparisons import (
    Comparison,
    EpisodeRow,
    Guardrail,
    Outcome,
    change_weights,
    comparison_history,
    get_comparison,
    record_episode,
    record_outcome,
)
from cluster.store.database import Database
from serve_apps.comparison.assignment import assign
from serve_apps.comparison.report import report
from serve_apps.comparison.units import units_of

POLICY = "pidog-run"
Start = Callable[..., Comparison]


def begin(db: Database, comparison: Comparison, robot: str, name: str, started_at: datetime | None = None) -> EpisodeRow:
    """An episode as a replica begins it that knows nothing of this robot: drawn with the weights of now."""
    now = get_comparison(db, comparison.id)
    index, propensity = assign(now.salt, robot, [arm.weight for arm in now.arms])
    row = EpisodeRow(
        policy=POLICY,
        episode_id=name,
        version=now.arms[index].version,
        comparison_id=now.id,
        arm=now.arms[index].name,
        propensity=propensity,
        weights_version=now.weights[-1].version,
        robot_id=robot,
        started_at=started_at or datetime.now(UTC),
    )
    return record_episode(db, row)


def end(db: Database, name: str, value: float, **outcome: Any) -> None:
    record_outcome(db, name, Outcome(value=value, **outcome), policy=POLICY)


def fleet(db: Database, comparison: Comparison, robots: int, episodes: int, means: dict[str, float], spread: float, noise: float) -> None:
    """Robots that differ from each other by ``spread`` play by turns; each comes back to ``episodes`` episodes."""
    generator = np.random.default_rng(4)
    own = generator.normal(0.0, spread, robots)
    for turn in range(episodes):
        for robot in range(robots):
            name = f"r{robot}-{turn}"
            arm = begin(db, comparison, f"r{robot}", name).arm
            assert arm is not None
            end(db, name, float(means[arm] + own[robot] + generator.normal(0.0, noise)))


def test_a_robot_is_one_observation_the_mean_of_its_first_episodes(db: Database, start_comparison: Start) -> None:
    comparison = start_comparison(unit="robot", episodes_per_robot=3)
    for number, value in enumerate((0.1, 0.2, 0.45, -0.5, -0.5)):
        begin(db, comparison, "dog", f"e{number}")
        end(db, f"e{number}", value)
    found = report(db, comparison.id)
    (arm,) = [arm for arm in found.arms if arm.robots]
    assert (arm.robots, arm.episodes, found.units, found.episodes) == (1, 3, 1, 3)
    assert arm.mean == pytest.approx(0.25)
    assert "robots" in found.to_text().splitlines()[1]
    assert found.reason == "after 1 robots the evidence does not separate the arms"


def test_a_robot_that_is_not_done_holds_back_the_verdict_and_those_behind_it(db: Database, start_comparison: Start) -> None:
    comparison = start_comparison(unit="robot", episodes_per_robot=2)
    for robot in ("first", "second", "third"):
        begin(db, comparison, robot, f"{robot}-0")
        end(db, f"{robot}-0", 0.1)
    for robot in ("third", "second"):
        begin(db, comparison, robot, f"{robot}-1")
        end(db, f"{robot}-1", 0.1)
    found = report(db, comparison.id)
    assert (found.units, found.open_robots, found.waiting, found.in_flight) == (0, 1, 5, 0)
    assert "1 robots are not done; 5 outcomes wait behind them" in found.to_text()
    begin(db, comparison, "first", "first-1")
    assert report(db, comparison.id).units == 0  # under way
    end(db, "first-1", 0.1)
    assert (report(db, comparison.id).units, report(db, comparison.id).episodes) == (3, 6)


def test_a_robot_that_falls_silent_is_done_with_what_it_has_and_stays_so(db: Database, start_comparison: Start) -> None:
    comparison = start_comparison(unit="robot", episodes_per_robot=3, outcome_deadline_s=60.0)
    then = datetime.now(UTC) - timedelta(seconds=100)
    begin(db, comparison, "dog", "e0", then)
    begin(db, comparison, "dog", "e1", then + timedelta(seconds=20))  # its outcome never comes: the worst
    record_late = Outcome(value=0.5)
    for name in ("e0", "e1"):
        record_outcome(db, name, record_late, policy=POLICY)  # after the deadline
    history = comparison_history(db, comparison.id)
    assert units_of(comparison, history).done == [True]
    at = then + timedelta(seconds=20)
    for seconds, done in ((64.0, False), (66.0, True)):
        history = comparison_history(db, comparison.id, now=at + timedelta(seconds=seconds))
        assert units_of(comparison, history).done == [done]
    begin(db, comparison, "dog", "e2", at + timedelta(seconds=70))  # back, but it was done
    end(db, "e2", 0.5)
    found = report(db, comparison.id)
    assert (found.units, found.episodes) == (1, 2)
    assert [arm.mean for arm in found.arms if arm.mean is not None] == [-0.5]


def test_a_robot_keeps_its_arm_through_changes_of_the_split_whoever_asks(db: Database, start_comparison: Start) -> None:
    comparison = start_comparison(unit="robot", episodes_per_robot=4)
    before = {f"r{k}": begin(db, comparison, f"r{k}", f"r{k}-0") for k in range(30)}
    change_weights(db, comparison.id, {"challenger": 0.01}, "test", "me")
    for robot, first in before.items():
        again = begin(db, comparison, robot, f"{robot}-1")  # drawn with the new weights by a replica that never met it
        assert (again.arm, again.version) == (first.arm, first.version)
        assert (again.propensity, again.weights_version) == (first.propensity, 1)
        assert again.episode_id == f"{robot}-1"
    assert {row.arm for row in before.values()} == {"champion", "challenger"}
    with pytest.raises(StoreError, match=r"by robot; give the robot_id"):
        record_episode(db, before["r0"].model_copy(update={"episode_id": "nobody's", "robot_id": None}))
    assert report(db, comparison.id).sample_ratio_e_value < 20


def test_a_better_challenger_is_found_among_robots(db: Database, start_comparison: Start) -> None:
    comparison = start_comparison(unit="robot", episodes_per_robot=2)
    fleet(db, comparison, 60, 3, {"champion": -0.15, "challenger": 0.15}, spread=0.05, noise=0.1)
    found = report(db, comparison.id)
    assert (found.decision, found.winner) == ("promote", "challenger")
    assert found.decided_at_episode is not None
    assert f"robot {found.decided_at_episode} decided" in found.reason
    assert found.units == 60
    assert [arm.episodes for arm in found.arms] == [2 * (arm.robots or 0) for arm in found.arms]


def test_one_bad_robot_is_no_breach_and_two_are(db: Database, start_comparison: Start) -> None:
    comparison = start_comparison(unit="robot", episodes_per_robot=5, guardrails=(Guardrail(name="fell", at_most=0.1),))
    names: dict[str, list[str]] = {"champion": [], "challenger": []}
    for k in range(40):
        arm = begin(db, comparison, f"r{k}", f"r{k}-0").arm
        assert arm is not None
        names[arm].append(f"r{k}")
    bad = names["challenger"][:2]
    for turn in range(5):
        for robot in bad[:1]:
            if turn:
                begin(db, comparison, robot, f"{robot}-{turn}")
            end(db, f"{robot}-{turn}", 0.0, fell=True)
    assert report(db, comparison.id).breached == ()  # five falls in a row, of one robot: episode by episode this would be an alarm
    for turn in range(5):
        if turn:
            begin(db, comparison, bad[1], f"{bad[1]}-{turn}")
        end(db, f"{bad[1]}-{turn}", 0.0, fell=True)
    assert report(db, comparison.id).breached == ("challenger",)
