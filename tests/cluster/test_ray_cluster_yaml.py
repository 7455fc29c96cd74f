from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def cluster():
    return yaml.safe_load((REPOSITORY / "ray-cluster.yaml").read_text())


def test_rays_own_validator_accepts_it(cluster):
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(cluster))


def test_the_validator_would_refuse_a_misspelt_key(cluster):
    from ray.autoscaler._private.util import prepare_config, validate_config

    with pytest.raises(Exception, match="idle_timeout_minuts"):
        validate_config(prepare_config({**cluster, "idle_timeout_minuts": 5}))


def test_the_head_does_no_work_and_each_role_has_its_nodes(cluster):
    types = cluster["available_node_types"]
    assert set(types) == {"head", "rollout", "learner", "serving"}
    assert types[cluster["head_node_type"]]["resources"]["CPU"] == 0
    assert types["learner"]["resources"]["GPU"] >= 1
    assert all(isinstance(value, int) for node in types.values() for value in node["resources"].values())
    assert sum(node["min_workers"] for node in types.values()) <= cluster["max_workers"]
    starts = " ".join(cluster["head_start_ray_commands"] + cluster["worker_start_ray_commands"])
    assert starts.count("RAY_AUTH_MODE=token") == 2


def test_what_is_uploaded_to_a_job_is_small():
    """Everything that .rayignore lets through fits Ray's 512 MiB many times over."""
    ignored = [line.rstrip("/") for line in (REPOSITORY / ".rayignore").read_text().splitlines() if line and not line.startswith("#")]
    assert {".venv", ".gaitway", "experiments", ".git"} <= set(ignored)
    tracked = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.splitlines()
    assert sum((REPOSITORY / name).stat().st_size for name in tracked if (REPOSITORY / name).is_file()) < 20 * 2**20
