"""A comparison between two registered versions, and robots that play episodes on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.bundle import seal
from cluster.contract import PolicyContract, TensorField
from cluster.settings import Settings
from cluster.store.comparisons import Arm, Comparison, EpisodeRow, NewComparison, Outcome, create_comparison, record_episode, record_outcome
from cluster.store.database import Database, open_database
from cluster.store.registry import register_bundle, set_alias
from serve_apps.comparison.assignment import assign

POLICY = "pidog-run"


@pytest.fixture
def db(settings: Settings) -> Iterator[Database]:
    with closing(open_database(settings)) as database:
        yield database


@pytest.fixture
def comparison(db: Database) -> Comparison:
    """Champion 1 against challenger 2 on forward velocity between -0.5 and 0.5 m/s."""
    return start(db)


@pytest.fixture
def start_comparison(db: Database) -> Callable[..., Comparison]:
    return lambda **changes: start(db, **changes)


@pytest.fixture
def registered(settings: Settings, tmp_path: Path) -> Settings:
    """Settings whose registry has versions 1 (@champion) and 2 (@challenger)."""
    field = TensorField(name="joint_position_rad", shape=(2,), unit="rad")
    for number in (1, 2):
        folder = tmp_path / f"bundle{number}"
        folder.mkdir()
        (folder / "policy.onnx").write_bytes(b"%d" % number)
        (folder / "card.md").write_text("# A card\n")
        PolicyContract(policy=POLICY, robot="pidog", task="pidog_run", control_dt_s=0.02, observation=(field,), action=(field,)).save(
            folder / "contract.json"
        )
        seal(folder)
        assert register_bundle(settings, POLICY, folder) == number
    set_alias(settings, POLICY, "champion", 1)
    set_alias(settings, POLICY, "challenger", 2)
    return settings


def start(db: Database, **changes: Any) -> Comparison:
    arms = (Arm(name="champion", version="1", weight=0.5), Arm(name="challenger", version="2", weight=0.5))
    values = {"policy": POLICY, "arms": arms, "metric": "forward_velocity_m_s", "low": -0.5, "high": 0.5, "salt": "salt"}
    return create_comparison(db, NewComparison(**{**values, **changes}))


@pytest.fixture
def play(db: Database) -> Callable[..., list[str]]:
    """Plays episodes whose velocity is normal around the mean of the arm that each is assigned to."""

    def play_episodes(
        comparison: Comparison,
        episodes: int,
        champion: float,
        challenger: float,
        deviation: float = 0.05,
        prefix: str = "e",
        silent: int = 0,
    ) -> list[str]:
        generator = np.random.default_rng(3)
        names = [f"{prefix}{number}" for number in range(episodes)]
        for number, name in enumerate(names):
            index, propensity = assign(comparison.salt, name, [arm.weight for arm in comparison.arms])
            arm = comparison.arms[index]
            row = EpisodeRow(
                policy=POLICY, episode_id=name, version=arm.version, comparison_id=comparison.id, arm=arm.name, propensity=propensity
            )
            assert record_episode(db, row) == row
            velocity = float(generator.normal((champion, challenger)[index], deviation))
            if number >= silent:
                record_outcome(db, name, Outcome(value=velocity, fell=velocity < 0, steps=500, duration_s=10.0), policy=POLICY)
        return names

    return play_episodes
