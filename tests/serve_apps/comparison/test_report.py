from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest

from cluster.store.comparisons import (
    Arm,
    Comparison,
    EpisodeRow,
    Outcome,
    UnknownComparisonError,
    abandon_episodes,
    close_comparison,
    outcomes_in_order,
    record_episode,
    record_outcome,
)
from cluster.store.database import Database
from serve_apps.comparison.eprocess import effect_interval, effect_log_e_values, effect_scores
from serve_apps.comparison.report import Report, analyse, report

Play = Callable[..., list[str]]


def test_before_the_first_episode_there_is_nothing_to_say(db: Database, comparison: Comparison) -> None:
    found = report(db, comparison.id)
    assert (found.decision, found.decided_at_episode, found.winner, found.difference) == ("inconclusive", None, None, None)
    assert (found.e_value, found.e_value_champion, found.e_threshold) == (1.0, 1.0, 20.0)
    assert found.interval == (-1.0, 1.0)
    assert [(arm.mean, arm.interval, arm.episodes) for arm in found.arms] == [(None, (-0.5, 0.5), 0)] * 2
    assert "inconclusive" in found.to_text()


def test_a_better_challenger_is_promoted_with_its_figures(db: Database, comparison: Comparison, play: Play) -> None:
    play(comparison, 64, champion=-0.1, challenger=0.15)
    found = report(db, comparison.id)
    assert (found.decision, found.winner, found.episodes, found.in_flight) == ("promote", "challenger", 64, 0)
    assert found.decided_at_episode is not None
    assert found.decided_at_episode < 64
    values = {
        arm.name: [e.outcome.value for e in outcomes_in_order(db, comparison.id) if e.arm == arm.name and e.outcome] for arm in found.arms
    }
    for arm in found.arms:
        assert arm.mean == pytest.approx(np.mean(values[arm.name]))
        assert arm.interval[0] < arm.mean < arm.interval[1]
        assert (arm.episodes, arm.missing, arm.clipped) == (len(values[arm.name]), 0, 0)
        assert arm.falls == sum(value < 0 for value in values[arm.name])
    assert found.difference == pytest.approx(np.mean(values["challenger"]) - np.mean(values["champion"]))
    assert 0 < found.interval[0] < 0.25 < found.interval[1]
    assert found.e_value >= 20


def test_the_report_is_the_test_on_the_ledger_in_metric_units(db: Database, comparison: Comparison, play: Play) -> None:
    play(comparison, 40, champion=0.0, challenger=0.1, deviation=0.1)
    episodes = outcomes_in_order(db, comparison.id)
    outcomes = np.array([e.outcome.value for e in episodes if e.outcome]) + 0.5
    scores = effect_scores(outcomes, [e.arm == "challenger" for e in episodes], 0.5)
    better, worse = effect_log_e_values(scores)
    found = report(db, comparison.id)
    assert found.e_value == pytest.approx(np.exp(better.max()))
    assert found.e_value_champion == pytest.approx(max(1.0, np.exp(worse.max())))
    assert found.interval == pytest.approx(effect_interval(scores, 0.05))


def test_a_worse_challenger_is_not(db: Database, comparison: Comparison, play: Play) -> None:
    play(comparison, 80, champion=0.15, challenger=-0.1)
    found = report(db, comparison.id)
    assert (found.decision, found.winner) == ("keep", "champion")
    assert found.interval[1] < 0


def test_equal_arms_are_inconclusive(db: Database, comparison: Comparison, play: Play) -> None:
    play(comparison, 100, champion=0.1, challenger=0.1)
    found = report(db, comparison.id)
    assert (found.decision, found.winner) == ("inconclusive", None)
    assert found.interval[0] < 0 < found.interval[1]


def test_unequal_weights_use_the_logged_propensity(db: Database, start_comparison: Callable[..., Comparison], play: Play) -> None:
    arms = (Arm(name="champion", version="1", weight=9.0), Arm(name="challenger", version="2", weight=1.0))
    comparison = start_comparison(arms=arms)
    play(comparison, 240, champion=-0.1, challenger=0.15)
    found = report(db, comparison.id)
    assert found.decision == "promote"
    assert {round(episode.propensity, 9) for episode in outcomes_in_order(db, comparison.id)} == {0.9, 0.1}
    assert found.arms[1].episodes < 50


def test_a_decision_stands_whatever_comes_after(db: Database, comparison: Comparison, play: Play) -> None:
    play(comparison, 64, champion=-0.1, challenger=0.15)
    first = report(db, comparison.id)
    play(comparison, 100, champion=0.3, challenger=-0.3, prefix="later")
    second = report(db, comparison.id)
    assert (second.decision, second.decided_at_episode) == (first.decision, first.decided_at_episode)
    assert second.episodes == 164


def test_looking_often_and_looking_late_see_the_same_decision(db: Database, comparison: Comparison, play: Play) -> None:
    play(comparison, 64, champion=-0.1, challenger=0.15)
    episodes = outcomes_in_order(db, comparison.id)
    looks = [analyse(comparison, episodes[:count]).decision for count in range(65)]
    assert looks.index("promote") == report(db, comparison.id).decided_at_episode
    assert set(looks[looks.index("promote") :]) == {"promote"}


def test_silence_counts_as_the_worst_outcome(db: Database, comparison: Comparison, play: Play) -> None:
    play(comparison, 10, champion=0.2, challenger=0.2, silent=4)
    found = report(db, comparison.id)
    assert (found.episodes, found.in_flight, found.waiting) == (0, 4, 6)
    assert "4 in flight; 6 outcomes wait behind them" in found.to_text()
    abandon_episodes(db, comparison.id)
    found = report(db, comparison.id)
    assert (found.episodes, found.in_flight, sum(arm.missing for arm in found.arms)) == (10, 0, 4)
    total = sum(arm.mean * arm.episodes for arm in found.arms if arm.mean is not None)
    reported = [e.outcome.value for e in outcomes_in_order(db, comparison.id) if e.outcome]
    assert total == pytest.approx(sum(reported) - 4 * 0.5)


def test_values_beyond_the_declared_bounds_are_clipped_counted_and_shown(db: Database, comparison: Comparison) -> None:
    for number, value in enumerate((9.0, 0.5, -0.5, -3.0, 0.1)):
        row = EpisodeRow(
            policy="pidog-run", episode_id=str(number), version="1", comparison_id=comparison.id, arm="champion", propensity=0.5
        )
        record_episode(db, row)
        record_outcome(db, str(number), Outcome(value=value), policy="pidog-run")
    found = report(db, comparison.id)
    assert found.arms[0].clipped == 2
    assert found.arms[0].mean == pytest.approx((0.5 + 0.5 - 0.5 - 0.5 + 0.1) / 5)
    assert "2 of champion's values beyond [-0.5, 0.5] were clipped" in found.to_text()


def test_a_broken_split_withholds_the_verdict(db: Database, comparison: Comparison) -> None:
    for number in range(60):
        arm, version, value = ("champion", "1", -0.2) if number % 10 == 0 else ("challenger", "2", 0.3)
        row = EpisodeRow(policy="pidog-run", episode_id=str(number), version=version, comparison_id=comparison.id, arm=arm, propensity=0.5)
        record_episode(db, row)
        record_outcome(db, str(number), Outcome(value=value), policy="pidog-run")
    found = report(db, comparison.id)
    assert found.sample_ratio_e_value > 100
    assert found.decision == "inconclusive"
    assert "not split as the weights say" in found.reason


def test_a_closed_comparison_shows_what_it_was_closed_on(db: Database, comparison: Comparison, play: Play) -> None:
    play(comparison, 30, champion=0.1, challenger=0.1)
    found = report(db, comparison.id)
    close_comparison(db, comparison.id, "stopped", {"report": found.to_dict()})
    play(comparison, 50, champion=-0.5, challenger=0.5, prefix="late")
    assert report(db, comparison.id) == found.model_copy(update={"status": "stopped"})


def test_the_report_reads_as_a_table_and_as_json(db: Database, comparison: Comparison, play: Play) -> None:
    play(comparison, 64, champion=-0.1, challenger=0.15)
    found = report(db, comparison.id)
    assert Report.model_validate(json.loads(json.dumps(found.to_dict()))) == found
    lines = found.to_text().splitlines()
    assert lines[0] == f"comparison {comparison.id} of pidog-run: running"
    assert lines[1].split()[:6] == ["arm", "version", "weight", "episodes", "missing", "falls"]
    assert lines[3].startswith("challenger  2        0.5")
    assert lines[4].startswith("difference in forward_velocity_m_s: +0.2")
    assert "90 % interval [" in lines[4]
    assert "20 decides" in lines[5]
    assert lines[6].startswith("decision: promote (challenger (version 2) is better at alpha 0.05; episode ")


def test_an_unknown_comparison_is_named(db: Database) -> None:
    with pytest.raises(UnknownComparisonError, match="nope"):
        report(db, "nope")
