"""The figures over time against the report on each prefix, computed by itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from cluster.store.comparisons import Comparison, Guardrail, abandon_episodes, change_weights, close_comparison, get_comparison
from cluster.store.database import Database
from serve_apps.comparison.crossings import effect_bounds, mean_bounds
from serve_apps.comparison.eprocess import effect_interval, effect_scores, mean_interval
from serve_apps.comparison.report import analyse, examine
from serve_apps.comparison.timeline import timeline_of

Play = Callable[..., list[str]]


def scores_of(episodes: int, effect: float, seed: int = 0, share: float = 0.5):
    generator = np.random.default_rng(seed)
    challenger = generator.random(episodes) < share
    return effect_scores(np.clip(generator.normal(0.5 + effect * challenger, 0.15), 0, 1), challenger, share), challenger


@pytest.mark.parametrize(("effect", "share"), [(0.0, 0.5), (0.2, 0.5), (-0.1, 0.1), (0.02, 0.9)])
def test_bounds_at_many_times_are_those_of_each_time(effect: float, share: float) -> None:
    scores, _ = scores_of(900, effect, share=share)
    times = np.array([0, 1, 2, 5, 20, 60, 61, 200, 450, 900])
    low, high = effect_bounds(scores, times, 0.05)
    for k, time_ in enumerate(times):
        part = replace(scores, **{name: getattr(scores, name)[:time_] for name in ("z", "lowest", "highest", "variance")})
        exact_low, exact_high = effect_interval(part, 0.05)
        width = exact_high - exact_low
        assert exact_low - 0.015 * width <= low[k] <= exact_low + 1e-9  # never narrower than what is proven
        assert exact_high - 1e-9 <= high[k] <= exact_high + 0.015 * width


@pytest.mark.parametrize("values", [np.zeros(300), np.ones(300), np.tile([0.0, 1.0], 150), np.linspace(0, 1, 300)])
def test_means_of_extreme_outcomes_are_bounded_too(values: np.ndarray) -> None:
    times = np.array([1, 30, 300])
    low, high = mean_bounds(values, times, 0.05)
    for k, time_ in enumerate(times):
        exact_low, exact_high = mean_interval(values[:time_], 0.05)
        assert low[k] == pytest.approx(exact_low, abs=0.015 * abs(exact_high - exact_low) + 1e-5)
        assert high[k] == pytest.approx(exact_high, abs=0.015 * abs(exact_high - exact_low) + 1e-5)


def test_every_point_is_the_report_on_that_prefix(db: Database, comparison: Comparison, play: Play) -> None:
    play(comparison, 90, champion=-0.05, challenger=0.1)
    look = examine(db, comparison.id)
    found = timeline_of(look)
    assert found.episodes[0] == 1
    assert found.episodes[-1] == 90
    assert look.report.decided_at_episode in found.episodes
    for k, count in enumerate(found.episodes):
        then = analyse(look.comparison, look.counted.episodes[:count])
        assert [arm.episodes[k] for arm in found.arms] == [arm.episodes for arm in then.arms]
        for arm, expected in zip(found.arms, then.arms, strict=True):
            assert arm.mean[k] == (None if expected.mean is None else pytest.approx(expected.mean, rel=1e-5, abs=1e-6))
            assert arm.low[k] == pytest.approx(expected.interval[0], abs=0.015)
        (challenger,) = found.challengers
        assert challenger.difference[k] == (None if then.difference is None else pytest.approx(then.difference, rel=1e-4, abs=1e-6))
        assert challenger.low[k] == pytest.approx(then.interval[0], abs=0.03)
        assert challenger.high[k] == pytest.approx(then.interval[1], abs=0.03)
    decisive = found.episodes.index(look.report.decided_at_episode)
    assert 10 ** (found.challengers[0].log10_e_value[decisive] or 0) >= 20
    assert found.arms[0].share[-1] == pytest.approx(look.report.arms[0].episodes / 90)


def test_changes_of_the_split_are_where_they_were(db: Database, comparison: Comparison, play: Play) -> None:
    play(comparison, 30, champion=0.0, challenger=0.1)
    change_weights(db, comparison.id, {"challenger": 1.5}, "more of it", "token:x:ops")
    changed = get_comparison(db, comparison.id)
    play(changed, 40, champion=0.0, challenger=0.1, prefix="f")
    look = examine(db, comparison.id)
    found = timeline_of(look)
    assert [(split.version, split.reason, split.actor) for split in found.splits][1:] == [(2, "more of it", "token:x:ops")]
    expected = np.cumsum(look.counted.splits[:, 1]) / np.arange(1, len(look.counted) + 1)
    stated = [expected[count - 1] for count in found.episodes]
    assert found.arms[1].stated_share == pytest.approx(stated, rel=1e-5)
    assert found.splits[1].episode == int(np.count_nonzero(look.counted.versions == 1))


def test_guardrails_over_time_end_where_the_report_does(db: Database, start_comparison: Callable[..., Comparison], play: Play) -> None:
    comparison = start_comparison(guardrails=(Guardrail(name="fell", at_most=0.1), Guardrail(name="missing", at_most=0.2)))
    play(comparison, 80, champion=0.2, challenger=-0.2, silent=5)
    abandon_episodes(db, comparison.id)
    look = examine(db, comparison.id)
    for shown, expected in zip(timeline_of(look).guardrails, look.report.guardrails, strict=True):
        assert (shown.arm, shown.name) == (expected.arm, expected.name)
        assert shown.share[-1] == pytest.approx(expected.counted / expected.episodes, rel=1e-5)
        assert max(value for value in shown.log10_e_value if value is not None) <= np.log10(expected.e_value) + 1e-4


def test_a_comparison_that_has_no_episode_or_was_closed(db: Database, comparison: Comparison, play: Play) -> None:
    assert timeline_of(examine(db, comparison.id)).episodes == ()
    play(comparison, 30, champion=0.1, challenger=0.1)
    close_comparison(db, comparison.id, "stopped", {"report": examine(db, comparison.id).report.to_dict()})
    play(comparison, 50, champion=-0.5, challenger=0.5, prefix="late")
    assert timeline_of(examine(db, comparison.id)).episodes[-1] == 30


def test_robots_are_the_points_where_robots_are_assigned(db: Database, start_comparison: Callable[..., Comparison]) -> None:
    from cluster.store.comparisons import EpisodeRow, Outcome, record_episode, record_outcome

    comparison = start_comparison(unit="robot", episodes_per_robot=2)
    for robot in range(12):
        arm = comparison.arms[robot % 2]
        for episode in range(2):
            name = f"{robot}-{episode}"
            row = EpisodeRow(
                policy="pidog-run",
                episode_id=name,
                version=arm.version,
                comparison_id=comparison.id,
                arm=arm.name,
                propensity=0.5,
                robot_id=f"r{robot}",
                weights_version=1,
            )
            record_episode(db, row)
            record_outcome(db, name, Outcome(value=0.1 * (robot % 2)), policy="pidog-run")
    found = timeline_of(examine(db, comparison.id))
    assert found.episodes[-1] == 12
    assert [arm.episodes[-1] for arm in found.arms] == [6, 6]


def test_twenty_thousand_episodes_take_two_seconds_at_most() -> None:
    generator = np.random.default_rng(1)
    index = generator.integers(0, 4, 20_000)
    outcome = np.clip(generator.normal(0.5 + 0.01 * index, 0.2), 0, 1)
    started_s = time.process_time()
    for position in range(4):
        own = outcome[index == position]
        mean_bounds(own, np.unique(np.geomspace(1, len(own), 60).astype(np.int64)), 0.05)
    for position in range(1, 4):
        pair = (index == 0) | (index == position)
        scores = effect_scores(outcome[pair], index[pair] == position, 0.5)
        effect_bounds(scores, np.unique(np.geomspace(1, len(scores.z), 60).astype(np.int64)), 0.05 / 3)
    assert time.process_time() - started_s < 2.0
