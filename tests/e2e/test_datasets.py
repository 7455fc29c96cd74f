"""Datasets as a user meets them: commands on a real recording, a killed import, and the same import as a Ray job."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from cluster.lerobot.folder import compute_digest
from cluster.runtime.head import ensure_head, head_processes, stop_head
from cluster.runtime.nodes import ensure_local_nodes, local_nodes, node_of
from cluster.settings import Settings
from trainables.datasets.catalogue import verify_dataset
from trainables.datasets.lerobot import DatasetSpec, Episode, Feature, write_dataset
from trainables.datasets.versions import versions_of

REPOSITORY = Path(__file__).resolve().parents[2]
GAITWAY = [sys.executable, "-c", "from cluster.cli.main import main; main()"]

pytestmark = pytest.mark.slow


@pytest.fixture
def home(tmp_path: Path) -> Iterator[tuple[Settings, dict[str, str]]]:
    places = {"GAITWAY_HOME": str(tmp_path / "home"), "GAITWAY_EXPERIMENTS_PATH": str(tmp_path / "experiments")}
    ports = {"GAITWAY_RAY_PORT": "17391", "GAITWAY_DASHBOARD_PORT": "19266", "GAITWAY_HTTP_PORT": "19001"}
    settings = Settings.from_environment({**places, **ports})
    environment = {**os.environ, **settings.as_environment()}
    environment.pop("RAY_ADDRESS", None)
    yield settings, environment
    stop_head(settings)
    assert head_processes(settings) == []


def gaitway(environment: dict[str, str], *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([*GAITWAY, *arguments], env=environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout[-1500:]}\n{done.stderr[-3000:]}"
    return done


def test_a_real_recording_from_import_to_every_export_and_back(shared_data, home, tmp_path):
    settings, environment = home
    recording = shared_data / "lerobot_so101"
    done = gaitway(environment, "dataset", "import", str(recording), "--name", "so101", "--unit", "action=deg")
    assert done.stderr.count("missing video, everything else is there") == 2
    assert "gaitway dataset info so101/v1" in done.stderr
    info = json.loads(gaitway(environment, "dataset", "info", "so101", "--verify", "--json").stdout)
    assert (info["episodes"], info["frames"], info["duration_s"], info["digest"]) == (4, 1492, 49.733, compute_digest(recording))
    assert info["features"]["action"]["unit"] == "deg"
    assert len(info["statistics"]["action"]["mean"]) == 6
    assert len(info["missing_videos"]) == 2

    graded = gaitway(environment, "dataset", "grade", "so101", "--html", str(tmp_path / "quality.html"))
    assert graded.stdout.startswith("B ")
    assert (tmp_path / "quality.html").stat().st_size > 10_000
    assert "below A" in gaitway(environment, "dataset", "grade", "so101", "--min-grade", "A", code=1).stderr
    assert 'given: "E"' in gaitway(environment, "dataset", "grade", "so101", "--min-grade", "E", code=2).stderr
    kept = json.loads(gaitway(environment, "dataset", "filter", "so101", "--min-grade", "A", "--json").stdout)
    assert (kept["version"], kept["episodes"], len(kept["dropped"])) == ("so101_filtered/v1", 1, 3)
    assert "first command" in kept["dropped"]["0000000"]

    more = gaitway(environment, "dataset", "augment", "so101", "--config", "configs/datasets/augment_so101.yaml", "--name", "more")
    assert "gaitway dataset info more/v1" in more.stderr
    for format, name in (("lerobot", "folder"), ("hdf5", "a.hdf5"), ("mcap", "a.mcap"), ("rosbag2", "bag")):
        gaitway(environment, "dataset", "export", "so101", str(tmp_path / name), "--format", format)
        back = json.loads(gaitway(environment, "dataset", "import", str(tmp_path / name), "--name", "so101", "--json").stdout)
        assert (back["digest"], back["version"], back["is_new"]) == (info["digest"], "so101/v1", False), format
    names = [entry["name"] for entry in json.loads(gaitway(environment, "dataset", "ls", "--json").stdout)]
    assert names == ["more/v1", "so101/v1", "so101_filtered/v1"]
    refused = gaitway(environment, "dataset", "import", str(recording), "--robot", "pidog", code=1)
    assert refused.stderr.count("\n") == 1
    assert "the joints of its actions are not those of pidog" in refused.stderr
    assert not (settings.shared_path / "datasets" / "lerobot_so101").exists()


def large(folder: Path, episodes_count: int = 600) -> Path:
    """Enough to be caught in the middle of, in many files."""
    random = np.random.default_rng(0)
    features = (Feature("observation.state", "float32", (60,)), Feature("action", "float32", (20,)))
    episodes = (
        Episode(f"{number:04d}", "walk", {feature.name: random.normal(size=(500, feature.size)).astype(np.float32) for feature in features})
        for number in range(episodes_count)
    )
    write_dataset(folder, episodes, DatasetSpec(50, features, "arm", data_file_mb=2))
    return folder


def title(process: psutil.Process) -> str:
    """What a process calls itself; empty when it has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def wait_for_shards(settings: Settings, process: subprocess.Popen, count: int) -> None:
    deadline = time.monotonic() + 120
    while len(list((settings.shared_path / "staging").glob("*/shard-*.parquet"))) < count:
        assert process.poll() is None, "ended before it could be disturbed"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_import_that_is_killed_leaves_nothing_and_the_same_command_finishes_it(home, tmp_path):
    settings, environment = home
    large(tmp_path / "large")
    command = [*GAITWAY, "dataset", "import", str(tmp_path / "large"), "--name", "large"]
    process = subprocess.Popen(command, env=environment, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for_shards(settings, process, 1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert versions_of(settings, "large") == []
    assert json.loads(gaitway(environment, "dataset", "ls", "--json").stdout) == []

    done = json.loads(gaitway(environment, "dataset", "import", str(tmp_path / "large"), "--name", "large", "--json").stdout)
    assert (done["version"], done["episodes"]) == ("large/v1", 600)
    assert verify_dataset(Path(done["dataset"])) == compute_digest(tmp_path / "large")
    assert list((settings.shared_path / "staging").iterdir()) == []
    assert [path.name for path in (settings.shared_path / "datasets/large").iterdir()] == ["v1"]


def test_the_same_import_runs_as_a_ray_job(shared_data, home):
    settings, environment = home
    head = ensure_head(settings)
    recording = shared_data / "lerobot_so101"
    done = gaitway(environment, "dataset", "import", str(recording), "--name", "so101", "--address", head.dashboard_url)
    assert "so101/v1" in done.stderr
    assert verify_dataset(versions_of(settings, "so101")[0].path) == compute_digest(recording)
    assert not list(REPOSITORY.glob("dataset-import-*"))
    graded = gaitway(environment, "dataset", "grade", "so101", "--min-grade", "A", "--address", head.dashboard_url, code=1)
    assert "below A" in graded.stderr


def test_an_import_is_spread_over_nodes_and_survives_one_of_them(home, tmp_path):
    settings, environment = home
    large(tmp_path / "large", 1500)
    ensure_local_nodes(settings, 2, 1)
    doomed_node = local_nodes(settings)[1].name
    command = [*GAITWAY, "dataset", "import", str(tmp_path / "large"), "--name", "large", "--json"]
    process = subprocess.Popen(command, env=environment, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for_shards(settings, process, 2)
    nodes = local_nodes(settings)
    doomed: list[psutil.Process] = []
    while not any("MapBatches" in title(one) for one in doomed):
        assert process.poll() is None, "no task ran on the second node"
        doomed = [one for one in head_processes(settings) if node_of(one, nodes) == doomed_node]
    for one in doomed:
        one.kill()
    psutil.wait_procs(doomed, timeout=10)
    out, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors[-3000:]
    done = json.loads(out)
    assert done["episodes"] == 1500
    assert verify_dataset(Path(done["dataset"])) == compute_digest(tmp_path / "large")
