"""Shadow figures of several replicas become one result an arm; the ledger keeps what a server measured beside an outcome."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from cluster.latency import LatencyHistogram
from cluster.store.comparisons import Arm, EpisodeRow, NewComparison, Outcome, create_comparison, record_episode, record_outcome
from cluster.store.shadows import ComponentSums, ShadowSums, record_shadow_figures, shadow_figures
from cluster.store.tables import outcomes


def start(db, policy, *shadows):
    arms = (Arm(name="champion", version="1", weight=0.5), Arm(name="challenger", version="2", weight=0.5))
    arms += tuple(Arm(name=name, version=version, weight=0.0, shadow=True) for name, version in shadows)
    return create_comparison(db, NewComparison(policy=policy, arms=arms, metric="m", low=0.0, high=1.0))


def sums(comparison, arm, version, steps, durations_s, distances, **changes):
    latency = LatencyHistogram()
    for duration_s in durations_s:
        latency.add(duration_s)
    components = tuple(
        ComponentSums(name=name, unit="rad", sum_abs=total, max_abs=most) for name, (total, most) in zip("ab", distances, strict=True)
    )
    values = {"errors": 0, "dropped": 0, "sat_out": 0, "latency": latency.to_json(), "components": components}
    return ShadowSums(comparison_id=comparison.id, arm=arm, version=version, steps=steps, **values | changes)


def test_replicas_are_put_together_and_a_later_report_of_one_takes_its_place(db, policy):
    comparison = start(db, policy, ("next", "3"), ("after", "4"))
    assert [(report.arm, report.steps, report.action) for report in shadow_figures(db, comparison.id)] == [
        ("next", 0, ()),
        ("after", 0, ()),
    ]
    record_shadow_figures(db, "r1", [sums(comparison, "next", "3", 1, [1.0], [(9.0, 9.0), (9.0, 9.0)])])
    record_shadow_figures(
        db,
        "r1",
        [
            sums(comparison, "next", "3", 4, [1e-3] * 3, [(3.0, 2.0), (0.0, 0.0)], errors=1),
            sums(comparison, "after", "4", 1, [1e-3], [(1.0, 1.0)] * 2),
        ],
    )
    record_shadow_figures(db, "r2", [sums(comparison, "next", "3", 3, [5e-3] * 3, [(1.5, 0.5), (6.0, 5.0)], dropped=2, sat_out=7)])
    record_shadow_figures(db, "r3", [])
    first, second = shadow_figures(db, comparison.id)
    assert (first.arm, first.version, first.steps, first.errors, first.dropped, first.sat_out) == ("next", "3", 7, 1, 2, 7)
    # By hand: 4 steps with one error and 3 steps are 6 compared; (3.0 + 1.5) / 6 and 6.0 / 6.
    assert [(part.name, part.unit, part.mean_abs, part.max_abs) for part in first.action] == [
        ("a", "rad", 0.75, 2.0),
        ("b", "rad", 1.0, 5.0),
    ]
    assert first.latency_p50_ms == pytest.approx(1.0, rel=0.046)
    assert first.latency_p99_ms == pytest.approx(5.0, rel=0.046)
    assert (second.arm, second.steps) == ("after", 1)


def test_a_comparison_without_shadows_has_no_shadow_figures(db, policy):
    assert shadow_figures(db, start(db, policy).id) == ()


def test_what_the_server_measured_is_kept_and_not_part_of_what_makes_an_outcome_the_same(db, policy):
    record_episode(db, EpisodeRow(policy=policy, episode_id="e", version="1"))
    server = {"steps": 3, "error_steps": 1, "latency_p50_ms": 0.2, "latency_p99_ms": 0.4, "latency_max_ms": 0.4}
    assert record_outcome(db, "e", Outcome(value=0.5), policy=policy, server=server)
    assert not record_outcome(db, "e", Outcome(value=0.5), policy=policy, server={**server, "steps": 99})
    assert not record_outcome(db, "e", Outcome(value=0.5), policy=policy)
    with db.read() as connection:
        assert connection.execute(select(outcomes.c.server).where(outcomes.c.policy == policy)).scalar_one() == server
