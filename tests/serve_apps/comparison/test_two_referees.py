"""Several replicas look at one comparison at once, on both databases: whatever has to be done is done once."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from threading import Barrier
from typing import Any

import pytest
from sqlalchemy import select

from cluster.runtime.desired import desired_state
from cluster.runtime.serve_config import ServedPolicyConfig
from cluster.settings import Settings
from cluster.store.comparisons import (
    Arm,
    Comparison,
    EpisodeRow,
    Guardrail,
    NewComparison,
    Outcome,
    create_comparison,
    get_comparison,
    record_episode,
    record_outcome,
)
from cluster.store.database import Database, open_database
from cluster.store.tables import comparison_events
from cluster.store.tokens import list_audit
from serve_apps.comparison.assignment import assign
from serve_apps.comparison.promotion import promote, undo
from serve_apps.comparison.referee import Ruling, rule
from tests.cluster.store.conftest import postgres_schema

POLICY = "pidog-run"
TWO = (Arm(name="champion", version="1", weight=0.5), Arm(name="challenger", version="2", weight=0.5))


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger(request: pytest.FixtureRequest, settings: Settings) -> Iterator[Database]:
    if request.param == "sqlite":
        with closing(open_database(settings)) as database:
            yield database
        return
    with postgres_schema() as url:
        elsewhere = Settings.from_environment({"GAITWAY_HOME": str(settings.home), "GAITWAY_DATABASE_URL": url})
        with closing(open_database(elsewhere)) as database:
            yield database


def played(db: Database, episodes: int, challenger: float, fell: bool = False, **options: Any) -> Comparison:
    values = {"policy": POLICY, "arms": TWO, "metric": "forward_velocity_m_s", "low": -0.5, "high": 0.5, "salt": "salt"}
    comparison = create_comparison(db, NewComparison.model_validate(values | options))
    for number in range(episodes):
        index, propensity = assign("salt", f"e{number}", [arm.weight for arm in comparison.arms])
        arm = comparison.arms[index]
        row = EpisodeRow(
            policy=POLICY,
            episode_id=f"e{number}",
            version=arm.version,
            comparison_id=comparison.id,
            arm=arm.name,
            propensity=propensity,
            weights_version=1,
        )
        record_episode(db, row)
        value = (challenger if index else 0.0) + 0.001 * (number % 7)
        record_outcome(db, f"e{number}", Outcome(value=value, fell=fell and bool(index)), policy=POLICY)
    return comparison


def looks(db: Database, comparison: Comparison, count: int = 6) -> list[Ruling | None]:
    """So many referees, each with connections of its own, at once."""
    ready = Barrier(count)

    def one(_: int) -> Ruling | None:
        with closing(Database(db.url)) as own:
            ready.wait()
            return rule(own, comparison.id)

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(one, range(count)))


def events(db: Database, comparison: Comparison) -> list[str]:
    with db.read() as connection:
        rows = connection.execute(
            select(comparison_events.c.kind).where(comparison_events.c.comparison_id == comparison.id).order_by(comparison_events.c.id)
        )
        return [row.kind for row in rows]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"bandit": True}, "bandit: after 30 episodes"),
        ({"ramp": [{"share": 0.4, "episodes": 30}, {"share": 0.5, "episodes": 9}]}, "ramp: stage 2"),
    ],
    ids=["bandit", "ramp"],
)
def test_a_split_moves_once(ledger: Database, options: dict[str, Any], says: str) -> None:
    comparison = played(ledger, 30, 0.0, **options)
    acted = [ruling.acted for ruling in looks(ledger, comparison) if ruling is not None]
    assert sorted(bool(words) for words in acted) == [False] * 5 + [True]
    assert max(acted).startswith(says)
    assert [split.version for split in get_comparison(ledger, comparison.id).weights] == [1, 2]
    assert events(ledger, comparison) == ["created", "weights"]


def test_a_breach_is_acted_on_once(ledger: Database) -> None:
    comparison = played(ledger, 40, 0.0, fell=True, guardrails=[Guardrail(name="fell", at_most=0.1)])
    looks(ledger, comparison)
    stored = get_comparison(ledger, comparison.id)
    assert [split.weights["challenger"] for split in stored.weights] == [0.5, 0.0]
    assert events(ledger, comparison) == ["created", "weights"]


def test_a_verdict_is_recorded_once(ledger: Database) -> None:
    comparison = played(ledger, 64, 0.3, auto="promote")
    rulings = looks(ledger, comparison)
    assert any(ruling is not None and ruling.decided for ruling in rulings)
    assert get_comparison(ledger, comparison.id).status == "promoted"
    assert events(ledger, comparison) == ["created", "promoted"]


def test_a_spent_budget_pauses_once(ledger: Database) -> None:
    comparison = played(ledger, 20, 0.0, max_episodes=20)
    looks(ledger, comparison)
    assert get_comparison(ledger, comparison.id).status == "paused"
    assert events(ledger, comparison) == ["created", "paused"]


def test_what_is_undone_serves_the_old_champion_and_compares_nothing(registered: Settings, db: Database) -> None:
    comparison = played(db, 64, 0.3, ramp=[{"share": 0.4, "episodes": 500}, {"share": 0.5, "episodes": 9}])
    policies = (ServedPolicyConfig(policy=POLICY),)
    assert desired_state(registered, policies).policies[POLICY].comparison is not None
    promote(registered, comparison.id)
    assert desired_state(registered, policies).policies[POLICY].default_version == "2"
    assert undo(registered, comparison.id) == "1"
    served = desired_state(registered, policies).policies[POLICY]
    assert (served.default_version, served.comparison, set(served.versions)) == ("1", None, {"1"})
    assert events(db, comparison) == ["created", "promoted", "applied", "undone"]
    assert list_audit(db)[0]["action"] == "comparison.undo"
