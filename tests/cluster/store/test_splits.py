"""What two processes that look at one comparison do at the same moment, on both databases."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from threading import Barrier

from cluster.store.comparisons import (
    Arm,
    EpisodeRow,
    Guardrail,
    NewComparison,
    Outcome,
    comparison_history,
    create_comparison,
    get_comparison,
    record_episode,
    record_outcome,
    replace_weights,
    robot_assignment,
)
from cluster.store.database import Database
from cluster.store.tokens import list_audit

POLICY = "pidog-run"
TWO = (Arm(name="champion", version="1", weight=0.5), Arm(name="challenger", version="2", weight=0.5))


def new(**changes: object) -> NewComparison:
    return NewComparison.model_validate({"policy": POLICY, "arms": TWO, "metric": "m", "low": 0.0, "high": 1.0} | changes)


def at_once(db: Database, count: int, work: Callable[[Database, int], object]) -> list[object]:
    """``work`` from so many threads, each with connections of its own, beginning together."""
    ready = Barrier(count)

    def one(number: int) -> object:
        with closing(Database(db.url)) as own:
            ready.wait()
            return work(own, number)

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(one, range(count)))


def test_one_of_many_replaces_a_split(db: Database) -> None:
    comparison = create_comparison(db, new())
    done = at_once(db, 8, lambda own, k: replace_weights(own, comparison.id, 1, {"champion": 1.0, "challenger": k + 1.0}, "test", f"r{k}"))
    assert sorted(done) == [False] * 7 + [True]  # type: ignore[type-var]
    splits = get_comparison(db, comparison.id).weights
    assert [split.version for split in splits] == [1, 2]
    assert splits[-1].actor == f"r{done.index(True)}"
    assert len([entry for entry in list_audit(db) if entry["action"] == "comparison.weights"]) == 1
    assert replace_weights(db, comparison.id, 2, {"champion": 1.0, "challenger": 1.0}, "test", "me")


def test_replicas_that_meet_a_robot_at_once_agree_on_its_arm(db: Database) -> None:
    comparison = create_comparison(db, new(unit="robot"))

    def begin(own: Database, number: int) -> EpisodeRow:
        arm = TWO[number % 2]  # half of them are behind with the split and draw the other arm
        row = EpisodeRow(
            policy=POLICY,
            episode_id=f"e{number}",
            version=arm.version,
            comparison_id=comparison.id,
            arm=arm.name,
            propensity=0.5,
            weights_version=1,
            robot_id="dog",
        )
        return record_episode(own, row)

    rows = at_once(db, 8, begin)
    assert len({(row.arm, row.version) for row in rows}) == 1  # type: ignore[attr-defined]
    first = robot_assignment(db, comparison.id, "dog")
    assert first is not None
    assert {episode.arm for episode in comparison_history(db, comparison.id).assigned} == {first.arm}
    assert [episode.sequence for episode in comparison_history(db, comparison.id).assigned] == list(range(1, 9))
    assert robot_assignment(db, comparison.id, "cat") is None


def test_options_come_back_and_a_ramp_begins_with_its_first_stage(db: Database) -> None:
    ramp = ({"share": 0.1, "episodes": 50}, {"share": 0.5, "episodes": 100})
    asked = new(unit="robot", episodes_per_robot=3, ramp=ramp, guardrails=(Guardrail(name="server_error_steps", above=0.0, at_most=0.01),))
    comparison = create_comparison(db, asked, {"budget": 7})
    assert get_comparison(db, comparison.id) == comparison
    assert (comparison.unit, comparison.episodes_per_robot, comparison.ramp) == ("robot", 3, asked.ramp)
    assert comparison.plan == {"budget": 7}
    assert [round(arm.weight, 9) for arm in comparison.arms] == [0.9, 0.1]


def test_figures_are_read_where_they_are_asked_for(db: Database) -> None:
    comparison = create_comparison(db, new())
    for name, server in (("e1", {"latency_p99_ms": 12.5, "steps": 3}), ("e2", None)):
        row = EpisodeRow(policy=POLICY, episode_id=name, version="1", comparison_id=comparison.id, arm="champion", propensity=0.5)
        record_episode(db, row)
        outcome = Outcome(value=0.5, fell=True, steps=4, duration_s=2.0, metrics={"latency_p99_ms": 7.0, "a b.c": 1.0})
        record_outcome(db, name, outcome, policy=POLICY, server=server)
    asked = ["latency_p99_ms", "server_latency_p99_ms", "server_nothing", "a b.c"]
    one, two = comparison_history(db, comparison.id, figures=asked).episodes
    assert one.outcome == two.outcome == (0.5, True, 4, 2.0, {"latency_p99_ms": 7.0, "a b.c": 1.0})
    assert (one.server, two.server) == ({"latency_p99_ms": 12.5}, {})
    assert comparison_history(db, comparison.id).episodes[0].outcome == (0.5, True, 4, 2.0, {})
