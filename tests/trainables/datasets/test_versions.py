"""Versions of named datasets: numbered, never changed, equal data are one version, a killed or failed attempt leaves none."""

from __future__ import annotations

import os
import stat

import numpy as np
import pytest

from cluster.errors import UsageError
from cluster.lerobot.errors import DatasetError
from cluster.settings import Settings
from trainables.datasets.catalogue import find_dataset, verify_dataset
from trainables.datasets.lerobot import DatasetSpec, Episode, Feature, write_dataset
from trainables.datasets.versions import datasets_folder, publish_version, versions_of

SPEC = DatasetSpec(50, (Feature("action", "float32", (2,)),), "pidog")


@pytest.fixture
def home(tmp_path):
    return Settings.from_environment({"GAITWAY_HOME": str(tmp_path / "home")})


def writes(value):
    def make(folder):
        episode = Episode("0", "walk", {"action": np.full((4, 2), value, np.float32)})
        return {"episodes": write_dataset(folder, [episode], SPEC, overwrite=True).num_episodes}

    return make


def test_new_data_make_the_next_version_and_equal_data_none(home):
    first, result, is_new = publish_version(home, "kitchen", "a", writes(1))
    assert (first.label, result, is_new) == ("kitchen/v1", {"episodes": 1}, True)
    assert publish_version(home, "kitchen", "b", writes(2))[0].label == "kitchen/v2"
    again, _, is_new = publish_version(home, "kitchen", "a", writes(1))
    assert (again.label, is_new) == ("kitchen/v1", False)
    assert [version.number for version in versions_of(home, "kitchen")] == [1, 2]
    assert find_dataset(home, "kitchen") == again.path.parent / "v2"
    assert find_dataset(home, "kitchen/v1") == again.path
    with pytest.raises(DatasetError, match=r"no dataset 'kitchn'.*did you mean 'kitchen'"):
        find_dataset(home, "kitchn")


def test_a_version_is_for_reading_and_an_edit_is_noticed(home):
    version, _, _ = publish_version(home, "kitchen", "a", writes(1))
    data = next((version.path / "data").rglob("*.parquet"))
    assert stat.S_IMODE(data.stat().st_mode) == 0o444
    assert verify_dataset(version.path)
    other, _, _ = publish_version(home, "kitchen", "b", writes(2))
    os.chmod(data, 0o644)
    data.write_bytes(next((other.path / "data").rglob("*.parquet")).read_bytes())
    with pytest.raises(DatasetError, match="its values have the digest"):
        verify_dataset(version.path)


def test_what_fails_leaves_nothing_and_what_was_killed_is_cleared_up(home):
    folder = datasets_folder(home) / "kitchen"

    def fails(path):
        write_dataset(path, [Episode("0", "walk", {"action": np.zeros((4, 2), np.float32)})], SPEC)
        raise DatasetError("no")

    with pytest.raises(DatasetError, match="no"):
        publish_version(home, "kitchen", "a", fails)
    assert not folder.exists()
    # As a process leaves it that is killed between the two: the dataset is whole, but under its hidden name.
    writes(1)(folder / ".incoming-a")
    assert versions_of(home, "kitchen") == []
    publish_version(home, "kitchen", "a", writes(1))
    assert sorted(path.name for path in folder.iterdir()) == ["v1"]


def test_a_number_that_somebody_takes_in_between_is_skipped(home):
    def slow(folder):
        publish_version(home, "kitchen", "other", writes(2))
        return writes(1)(folder)

    assert publish_version(home, "kitchen", "a", slow)[0].label == "kitchen/v2"


@pytest.mark.parametrize("name", ["", "../x", ".hidden", "a b", "a/b", "-x"])
def test_a_name_that_is_no_folder_everywhere_is_refused(home, name):
    with pytest.raises(UsageError, match="use letters, digits"):
        publish_version(home, name, "a", writes(1))
