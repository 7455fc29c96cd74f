"""What the benchmark of filtering spoils, and what it says of it."""

from __future__ import annotations

import numpy as np
import pytest

from cluster.lerobot.episodes import Episode
from tests.benchmarks.data.filtering import ARMS, detection_table, table
from tests.benchmarks.data.pollution import KINDS, pollute
from tests.benchmarks.data.synthetic import is_spiky, make_episode


@pytest.fixture(scope="module")
def clean():
    """Half of the episodes move, half of them stand."""
    episodes = []
    for index in range(60):
        random, time_s = np.random.default_rng(index), np.arange(150) / 50
        moving = np.sin(2 * np.pi * time_s[:, None] + np.arange(12)) if index % 2 else np.tile(np.linspace(0, 1, 12), (150, 1))
        state = random.normal(0, 0.01, (150, 50))
        state[:, 9:21] += moving
        columns = {
            "observation.state": state.astype(np.float32),
            "action": moving.astype(np.float32),
            "timestamp": time_s.astype(np.float32),
        }
        episodes.append(Episode(f"{index:07d}", "gait", columns))
    return episodes


def test_exactly_the_labelled_episodes_are_spoilt_and_the_same_seed_spoils_alike(clean):
    spoilt, labels = pollute(clean, 0.3, 4)
    assert len(labels) == 18
    assert set(labels.values()) <= set(KINDS)
    for before, after in zip(clean, spoilt, strict=True):
        assert before.key == after.key
        names = ("observation.state", "action")
        same = before.length == after.length and all((before.columns[name] == after.columns[name]).all() for name in names)
        assert same == (before.key not in labels)
        assert len({len(values) for values in after.columns.values()}) == 1
    again, labels_again = pollute(clean, 0.3, 4)
    assert labels_again == labels
    assert all((left.columns["action"] == right.columns["action"]).all() for left, right in zip(spoilt, again, strict=True))
    assert pollute(clean, 0.3, 5)[1] != labels


def test_every_kind_occurs(clean):
    assert set(pollute(clean, 1.0, 0)[1].values()) == set(KINDS)


def test_synthetic_episodes_repeat_and_jump_where_they_say():
    plain, spiky = make_episode(3), make_episode(7)
    assert (plain.columns["action"] == make_episode(3).columns["action"]).all()
    assert not is_spiky(3)
    assert is_spiky(7)
    steps = [np.abs(np.diff(item.columns["observation.state"][:, :12], axis=0)).max() for item in (plain, spiky)]
    assert steps[0] < 0.5
    assert steps[1] > 2.0


def test_the_tables_name_every_dataset_and_kind():
    runs = [{"arm": arm, "return": 40.0 + seed, "validation_loss": 0.1, "fell": 0.0, "episodes": 9} for arm in ARMS for seed in range(3)]
    filtered = {"planted": {"stuck": 2}, "found": {"stuck": 1}, "false_alarms": 1, "checks": {"stuck:stuck_command": 1}}
    runs = [run | (filtered if run["arm"] == "filtered" else {}) for run in runs]
    assert "| polluted | 3 | 9 | 41.00 | 38.52 to 43.48 | 0.1000 | 0.0% |" in table(runs)
    assert "| all | 6 | 3 | recall 50.0%, precision 50.0% (3 false alarms) |" in detection_table(runs)
    assert "| stuck | 6 | 3 | stuck_command 3 |" in detection_table(runs)
