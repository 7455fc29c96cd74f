"""DAgger and several workers, through real Ray Train: what a round adds, what a killed run keeps, what workers agree on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from cluster.config import parse_config
from cluster.errors import ConfigError, GaitwayError
from cluster.progress import Progress
from cluster.settings import Settings
from cluster.stage import StageContext
from trainables import imitate
from trainables.datasets.lerobot import load_frames, load_info
from trainables.imitation.config import ImitationConfig
from trainables.imitation.reading import Part
from trainables.imitation.spec import make_spec
from trainables.imitation.trainer import train_models
from trainables.networks.checkpoint import load_policy

SMALL = {
    "models": ["mlp"],
    "mlp": {"epochs": 6, "hidden": [32, 32], "batch_size": 64},
    "lstm": {"epochs": 4, "hidden_size": 12, "head_size": 8, "batch_size": 4},
    "chunk": {"epochs": 4, "chunk_size": 4, "hidden": [32], "batch_size": 64},
    "dagger": {"rounds": 2, "frames_per_round": 240, "episode_steps": 60},
    "checkpoint_interval": 2,
}


def context(folder: Path, settings: Settings) -> StageContext:
    return StageContext(folder=folder, settings=settings, progress=Progress(mode="quiet"), experiment="test")


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_the_policy_drives_the_expert_answers_and_all_of_it_is_learned_from(expert_dataset, settings, tmp_path):
    config = parse_config({**SMALL, "algorithm": "dagger", "dataset": str(expert_dataset)}, ImitationConfig)
    result = imitate.run(config, context(tmp_path / "run", settings))
    _, metadata = load_policy(Path(result["checkpoint"]))
    rounds = metadata["lineage"]
    assert [(entry["round"], entry["beta"]) for entry in rounds] == [(0, 1.0), (1, 0.5), (2, 0.25)]
    assert rounds[0]["digest"] == load_info(expert_dataset).digest
    assert metadata["dataset_digest"] not in {entry["digest"] for entry in rounds}
    for entry in rounds[1:]:
        added = load_info(entry["path"])
        assert (added.digest, set(added.tasks)) == (entry["digest"], {"trot_forward", "stand"})
        assert added.gaitway["lineage"]["kind"] == "dagger"
        # What the expert would do, where the policy went: its targets differ from what was done, never from the gait.
        frames = load_frames(added.path)
        assert abs(frames["action"]).max() < 3.2
    json.dumps(result)

    # Killed after the last round's data were there: what is there is used, the rest is done again and comes out the same.
    (place,) = (tmp_path / "run/imitation_model/dagger").iterdir()
    before = {path: path.stat().st_mtime_ns for path in place.rglob("*") if path.is_file()}
    (place / "round_2" / "fit.pt").unlink()
    again = imitate.run(config, context(tmp_path / "run", settings))
    after = {path: path.stat().st_mtime_ns for path in place.rglob("*") if path.is_file()}
    assert {path for path in before if before[path] != after[path]} == {place / "round_2" / "fit.pt"}
    assert again["validation_loss"] == result["validation_loss"]
    assert again["dataset_digest"] == result["dataset_digest"]


def test_dagger_needs_an_expert_and_one_policy(shared_data, expert_dataset, settings, tmp_path):
    with pytest.raises(ConfigError, match="dagger trains one policy"):
        parse_config({**SMALL, "algorithm": "dagger", "models": ["mlp", "lstm"]}, ImitationConfig)
    config = parse_config({**SMALL, "algorithm": "dagger", "dataset": str(shared_data / "lerobot_so101")}, ImitationConfig)
    with pytest.raises(GaitwayError, match="dagger"):
        imitate.run(config, context(tmp_path, settings))


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_two_workers_do_what_one_does_with_the_same_batches(expert_dataset, tmp_path):
    found = {}
    for workers in (1, 2):
        config = parse_config({**SMALL, "models": ["mlp", "lstm", "chunk"], "num_workers": workers}, ImitationConfig)
        spec = make_spec(config, load_info(expert_dataset), Settings.from_environment({}))
        folders = tmp_path / f"storage{workers}", tmp_path / f"scratch{workers}"
        found[workers] = train_models([Part(expert_dataset)], spec, folders[0], "same", folders[1], lambda model, rows: None)
    for name in ("mlp", "lstm", "chunk"):
        one, two = (found[workers][name]["history"] for workers in (1, 2))
        for first, second in zip(one, two, strict=True):
            assert second["validation_loss"] == pytest.approx(first["validation_loss"], rel=2e-3)
        for key, tensor in found[1][name]["best"].items():
            torch.testing.assert_close(found[2][name]["best"][key], tensor, rtol=0.05, atol=5e-3)
