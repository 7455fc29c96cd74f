"""Imitation as a job on a running cluster: record, clone, let the policy drive and ask the expert."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.runtime.head import ensure_head
from cluster.settings import Settings
from trainables.networks.checkpoint import load_policy

REPOSITORY = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.slow


@pytest.fixture
def cluster(own_home: tuple[Settings, dict[str, str]]) -> tuple[str, Settings, dict[str, str]]:
    """Address of a head of our own, its settings and the environment of whoever submits."""
    settings, environment = own_home
    return ensure_head(settings).dashboard_url, settings, environment


def submit(cluster: tuple[str, Settings, dict[str, str]], *job: str) -> str:
    address, _, environment = cluster
    command = [str(Path(sys.executable).with_name("ray")), "job", "submit", "--address", address, "--working-dir", "."]
    done = subprocess.run([*command, "--", *job], env=environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    return done.stdout


def test_record_and_imitate_as_jobs(cluster: tuple[str, Settings, dict[str, str]], tmp_path: Path) -> None:
    collect = tmp_path / "collect.yaml"
    collect.write_text(json.dumps({"gaits": {"trot_forward": 8, "stand": 8}, "episode_steps": 100}))
    submit(cluster, "python", "-m", "trainables.collect", str(collect), "--run-folder", str(tmp_path / "recorded"))
    chosen = ("--set", "preset=debug", "--set", "algorithm=dagger", "--set", f"dataset={tmp_path / 'recorded' / 'data'}")
    said = submit(
        cluster, "python", "-m", "trainables.imitate", "configs/imitation/gaits.yaml", *chosen, "--run-folder", str(tmp_path / "run")
    )
    assert "held-out episodes:" in said
    policy, metadata = load_policy(tmp_path / "run" / "imitation_model" / "policy")
    assert policy.hidden == (256, 256)
    assert [part["round"] for part in metadata["lineage"]] == [0, 1]
    assert metadata["lineage"][1]["frames"] > 0
    assert json.loads((tmp_path / "run" / "imitation_model" / "open_loop.json").read_text())["mlp"]["units"] == ["rad"] * 12
