"""The catalogue: which datasets there are and what each says of itself, also when one of them is damaged."""

from __future__ import annotations

import json
import shutil

import numpy as np

from cluster.settings import Settings
from trainables.datasets.catalogue import dataset_info, find_dataset, list_datasets
from trainables.datasets.lerobot import DatasetSpec, Episode, Feature, write_dataset
from trainables.datasets.versions import datasets_folder

SPEC = DatasetSpec(50, (Feature("action", "float32", (2,)),), "pidog")


def three():
    return [Episode(str(length), "walk", {"action": np.zeros((length, 2), np.float32)}) for length in (3, 4, 5)]


def test_one_broken_dataset_does_not_hide_the_others(tmp_path):
    home = Settings.from_environment({"GAITWAY_HOME": str(tmp_path), "GAITWAY_EXPERIMENTS_PATH": str(tmp_path / "runs")})
    assert list_datasets(home) == []
    for name in ("good", "hurt"):
        write_dataset(datasets_folder(home) / name / "v1", three(), SPEC)
    write_dataset(tmp_path / "runs" / "run_1" / "data", three(), SPEC)
    write_dataset(home.shared_path / "served" / "pidog-run" / "now_r_1", three(), SPEC)
    shutil.copytree(home.shared_path / "served/pidog-run/now_r_1", home.shared_path / "served/pidog-run/.x.partial-1")  # still written
    damaged = datasets_folder(home) / "hurt" / "v1" / "meta/info.json"
    damaged.write_text(json.dumps(json.loads(damaged.read_text()) | {"codebase_version": "v2.1"}))
    good, hurt, of_run, served = list_datasets(home)
    assert (good["name"], good["episodes"], good["frames"], good["duration_s"]) == ("good/v1", 3, 12, 0.24)
    assert "codebase_version is v2.1" in hurt["problem"]
    assert of_run["name"] == "run_1/data"
    assert served["name"] == "served/pidog-run/now_r_1"
    assert find_dataset(home, served["name"]) == home.shared_path / served["name"]
    assert find_dataset(home, "run_1/data") == tmp_path / "runs" / "run_1" / "data"
    assert find_dataset(home, "good") == datasets_folder(home) / "good" / "v1"
    assert dataset_info(home, find_dataset(home, "good"))["split"] == {"train": 3, "validation": 0}
