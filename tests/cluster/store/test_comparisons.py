from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from cluster.errors import StoreError
from cluster.store.comparisons import (
    Arm,
    Comparison,
    EpisodeRow,
    NewComparison,
    Outcome,
    OutcomeConflictError,
    UnknownComparisonError,
    UnknownEpisodeError,
    abandon_episodes,
    active_comparison,
    close_comparison,
    comparison_history,
    create_comparison,
    get_comparison,
    get_episode,
    list_comparisons,
    mark_applied,
    outcomes_in_order,
    record_episode,
    record_outcome,
)
from cluster.store.database import Database

POLICY = "pidog-run"
ARMS = (Arm(name="champion", version="1", weight=0.9), Arm(name="challenger", version="2", weight=0.1))


def new(**changes: Any) -> NewComparison:
    return NewComparison(**{"policy": POLICY, "arms": ARMS, "metric": "forward_velocity_m_s", "low": -0.5, "high": 1.0, **changes})


def episode(comparison: Comparison | None, episode_id: str, **changes: Any) -> EpisodeRow:
    within = {} if comparison is None else {"comparison_id": comparison.id, "arm": "champion", "propensity": 0.9}
    return EpisodeRow(**{"policy": POLICY, "episode_id": episode_id, "version": "1", **within, **changes})


def counted(db: Database, comparison: Comparison) -> list[str]:
    return [item.episode_id for item in outcomes_in_order(db, comparison.id)]


def test_a_comparison_comes_back_as_it_was_made(db: Database) -> None:
    made = create_comparison(db, new(alpha=0.01, outcome_deadline_s=12.5))
    assert get_comparison(db, made.id) == made == active_comparison(db, POLICY)
    assert (made.arms, made.alpha, made.outcome_deadline_s, made.status) == (ARMS, 0.01, 12.5, "running")
    assert len(made.salt) == 32
    assert made.created_at.tzinfo is not None


def test_a_policy_has_one_running_comparison(db: Database) -> None:
    first = create_comparison(db, new())
    other = create_comparison(db, new(policy="duck-walk"))
    with pytest.raises(StoreError, match=first.id):
        create_comparison(db, new())
    close_comparison(db, first.id, "stopped")
    second = create_comparison(db, new())
    assert second.salt != first.salt
    assert [item.id for item in list_comparisons(db, POLICY)] == [second.id, first.id]
    assert {item.id for item in list_comparisons(db)} == {first.id, second.id, other.id}


def test_of_many_who_start_one_at_once_one_wins(db: Database) -> None:
    def start(_: int) -> str:
        try:
            return create_comparison(db, new()).id
        except StoreError as error:
            return "refused" if "already has the running comparison" in str(error) else str(error)

    with ThreadPoolExecutor(8) as threads:
        results = Counter(threads.map(start, range(8)))
    assert results["refused"] == 7


@pytest.mark.parametrize(
    "changes",
    [
        {"low": 1.0, "high": 1.0},
        {"arms": ARMS[:1]},
        {"arms": (ARMS[0], ARMS[0])},
        {"arms": (ARMS[0], Arm(name="challenger", version="2", weight=0.0))},
        {"alpha": 0.0},
        {"low": float("nan")},
        {"outcome_deadline_s": -1.0},
    ],
)
def test_a_comparison_that_makes_no_sense_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        new(**changes)


def test_an_episode_keeps_its_first_assignment(db: Database) -> None:
    comparison = create_comparison(db, new())
    first = episode(comparison, "e1", robot_id="dog-7")
    assert record_episode(db, first) == first
    again = record_episode(db, episode(comparison, "e1", arm="challenger", version="2", propensity=0.1))
    assert again == first == get_episode(db, POLICY, "e1")
    assert get_comparison(db, comparison.id).episode_count == 1
    assert get_episode(db, "duck-walk", "e1") is None


def test_episodes_outside_a_comparison_are_kept_too(db: Database) -> None:
    record_episode(db, episode(None, "e1"))
    assert record_outcome(db, "e1", Outcome(value=0.2), policy=POLICY)
    assert not record_outcome(db, "e1", Outcome(value=0.2), policy=POLICY)


def test_an_episode_of_no_comparison_is_refused(db: Database) -> None:
    with pytest.raises(UnknownComparisonError):
        record_episode(db, EpisodeRow(policy=POLICY, episode_id="e", version="1", comparison_id="nope", arm="champion", propensity=0.5))
    with pytest.raises(UnknownComparisonError):
        comparison_history(db, "nope")
    with pytest.raises(ValidationError):
        EpisodeRow(policy=POLICY, episode_id="e", version="1", arm="champion")


def test_the_same_outcome_twice_is_one_and_a_different_one_is_refused(db: Database) -> None:
    comparison = create_comparison(db, new())
    record_episode(db, episode(comparison, "e1"))
    outcome = Outcome(value=0.25, fell=True, steps=412, duration_s=8.24, metrics={"energy_j": 3.5, "distance_m": 1.0})
    assert record_outcome(db, "e1", outcome, policy=POLICY) is True
    assert (
        record_outcome(db, "e1", Outcome(**{**outcome.model_dump(), "metrics": {"distance_m": 1, "energy_j": 3.5}}), policy=POLICY) is False
    )
    with pytest.raises(OutcomeConflictError, match="e1"):
        record_outcome(db, "e1", outcome.model_copy(update={"steps": 413}), policy=POLICY)
    assert [item.outcome for item in outcomes_in_order(db, comparison.id)] == [
        (outcome.value, outcome.fell, outcome.steps, outcome.duration_s, {})
    ]


def test_an_outcome_of_an_unknown_episode_is_refused(db: Database) -> None:
    record_episode(db, episode(None, "e1"))
    for policy, episode_id in ((POLICY, "e2"), ("duck-walk", "e1")):
        with pytest.raises(UnknownEpisodeError, match=episode_id):
            record_outcome(db, episode_id, Outcome(value=0.0), policy=policy)


@pytest.mark.parametrize("changes", [{"value": float("nan")}, {"value": float("inf")}, {"steps": -1}, {"duration_s": -0.1}, {"speed": 1.0}])
def test_an_outcome_that_says_nothing_sensible_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Outcome(**{"value": 0.0, **changes})


def test_of_many_outcomes_at_once_one_is_stored(db: Database) -> None:
    comparison = create_comparison(db, new())
    record_episode(db, episode(comparison, "e1"))

    def post(number: int) -> str:
        try:
            return "new" if record_outcome(db, "e1", Outcome(value=float(number % 2)), policy=POLICY) else "repeated"
        except OutcomeConflictError:
            return "refused"

    with ThreadPoolExecutor(8) as threads:
        assert Counter(threads.map(post, range(16))) == {"new": 1, "repeated": 7, "refused": 8}


def test_episodes_recorded_at_once_are_numbered_without_a_gap(db: Database) -> None:
    comparison = create_comparison(db, new())

    def play(number: int) -> None:
        # Each episode comes twice, as it does when a robot retries.
        record_episode(db, episode(comparison, f"e{number // 2}"))
        record_outcome(db, f"e{number // 2}", Outcome(value=0.5), policy=POLICY)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(play, range(80)))
    assert [item.sequence for item in outcomes_in_order(db, comparison.id)] == list(range(1, 41))
    assert get_comparison(db, comparison.id).episode_count == 40


def test_outcomes_count_in_the_order_of_assignment_and_wait_for_those_in_flight(db: Database) -> None:
    comparison = create_comparison(db, new())
    for name in "abcd":
        record_episode(db, episode(comparison, name))
    seen = []
    for name in "bcad":
        record_outcome(db, name, Outcome(value=0.0), policy=POLICY)
        history = comparison_history(db, comparison.id)
        seen.append(("".join(item.episode_id for item in history.episodes), history.in_flight, history.waiting))
    assert seen == [("", 3, 1), ("", 2, 2), ("abc", 1, 0), ("abcd", 0, 0)]


def test_silence_past_the_deadline_is_a_missing_outcome(db: Database) -> None:
    comparison = create_comparison(db, new(outcome_deadline_s=60.0))
    record_episode(db, episode(comparison, "silent"))
    record_episode(db, episode(comparison, "spoke"))
    record_outcome(db, "spoke", Outcome(value=0.5), policy=POLICY)
    assert counted(db, comparison) == []
    later = comparison_history(db, comparison.id, now=datetime.now(UTC) + timedelta(seconds=70))
    assert [(item.episode_id, item.outcome is None) for item in later.episodes] == [("silent", True), ("spoke", False)]


def test_an_outcome_after_its_deadline_is_kept_and_not_counted(db: Database) -> None:
    comparison = create_comparison(db, new(outcome_deadline_s=60.0))
    record_episode(db, episode(comparison, "slow", started_at=datetime.now(UTC) - timedelta(seconds=61)))
    assert record_outcome(db, "slow", Outcome(value=0.5), policy=POLICY) is True
    assert record_outcome(db, "slow", Outcome(value=0.5), policy=POLICY) is False
    history = comparison_history(db, comparison.id)
    assert [item.outcome for item in history.episodes] == [None]
    assert history.late == 1


def test_giving_up_episodes_in_flight(db: Database) -> None:
    comparison = create_comparison(db, new())
    for name in "abc":
        record_episode(db, episode(comparison, name))
    record_outcome(db, "b", Outcome(value=0.5), policy=POLICY)
    assert abandon_episodes(db, comparison.id) == 2
    assert abandon_episodes(db, comparison.id) == 0
    record_outcome(db, "c", Outcome(value=1.0), policy=POLICY)
    history = comparison_history(db, comparison.id)
    assert [item.outcome and item.outcome.value for item in history.episodes] == [None, 0.5, None]
    assert (history.in_flight, history.late) == (0, 1)


def test_a_comparison_ends_once(db: Database) -> None:
    comparison = create_comparison(db, new())
    closed = close_comparison(db, comparison.id, "promoted", {"arm": "challenger"})
    assert (closed.status, closed.decision, closed.applied_at) == ("promoted", {"arm": "challenger"}, None)
    assert close_comparison(db, comparison.id, "promoted", {"arm": "other"}) == closed
    with pytest.raises(StoreError, match="already ended as promoted"):
        close_comparison(db, comparison.id, "stopped")
    with pytest.raises(UnknownComparisonError):
        close_comparison(db, "nope", "stopped")
    assert active_comparison(db, POLICY) is None


def test_no_new_comparison_before_the_last_decision_took_effect(db: Database) -> None:
    comparison = create_comparison(db, new())
    close_comparison(db, comparison.id, "promoted", {"arm": "challenger"})
    with pytest.raises(StoreError, match=f"gaitway ab promote {comparison.id}"):
        create_comparison(db, new())
    applied = mark_applied(db, comparison.id)
    assert applied.applied_at is not None
    assert mark_applied(db, comparison.id) == applied
    create_comparison(db, new())


def test_two_databases_objects_see_each_other(db: Database) -> None:
    comparison = create_comparison(db, new())
    with closing(Database(db.url)) as other:
        record_episode(other, episode(comparison, "e1"))
    assert get_episode(db, POLICY, "e1") is not None
