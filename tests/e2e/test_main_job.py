"""The main job as a user runs it, at its debug size: killed three times, finished once, served, and taken down."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cluster.runtime.head import find_head, head_processes, stop_head
from cluster.runtime.processes import port_owner
from cluster.settings import Settings
from cluster.store.tokens import own_token

REPOSITORY = Path(__file__).resolve().parents[2]
QUICKSTART = "configs/pipelines/quickstart.yaml"
STAGES = ["collect", "imitate", "sweep", "evaluate", "export", "register", "serve", "compare"]


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> Iterator[tuple[Settings, dict[str, str]]]:
    folder = tmp_path_factory.mktemp("main_job")
    ports = {name: str(_free_port()) for name in ("GAITWAY_HTTP_PORT", "GAITWAY_DASHBOARD_PORT", "GAITWAY_RAY_PORT")}
    places = {"GAITWAY_HOME": str(folder / "home"), "GAITWAY_EXPERIMENTS_PATH": str(folder / "experiments")}
    settings = Settings.from_environment({**ports, **places})
    environment = {**os.environ, **settings.as_environment()}
    environment.pop("RAY_ADDRESS", None)
    yield settings, environment
    stop_head(settings)
    assert head_processes(settings) == []
    assert port_owner(settings.http_port) is None


def _gaitway(environment: dict[str, str], *arguments: str, timeout_s: float = 400.0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from cluster.cli.main import main; main()", *arguments]
    return subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=timeout_s)


def _stage_status(experiments: Path) -> dict[str, str]:
    records = list(experiments.glob("quickstart_*/pipeline.json"))
    return {name: record["status"] for path in records for name, record in json.loads(path.read_text())["stages"].items()}


def _run_and_kill_in(stage: str, settings: Settings, environment: dict[str, str]) -> None:
    """Start the pipeline and SIGKILL it once the stage is under way."""
    command = [sys.executable, "-m", "cluster.pipeline", QUICKSTART, "--set", "preset=debug", "--json"]
    process = subprocess.Popen(command, env=environment, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    deadline = time.monotonic() + 300
    while _stage_status(settings.experiments_path).get(stage) != "running":
        assert process.poll() is None, f"ended before {stage}: {process.stderr.read()[-2000:]}"
        assert time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(1.5)  # into the stage's work
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_killed_three_times_the_quickstart_ends_as_one_run_with_a_verdict(own):
    settings, environment = own
    for stage in ("imitate", "sweep", "compare"):
        _run_and_kill_in(stage, settings, environment)
    done = _gaitway(environment, "pipeline", "run", QUICKSTART, "--set", "preset=debug")
    assert done.returncode == 0, done.stderr[-4000:]
    (folder,) = settings.experiments_path.iterdir()
    assert _stage_status(settings.experiments_path) == dict.fromkeys(STAGES, "done")
    for path in (
        "config.yaml",
        "data/meta/info.json",
        "imitation_model",
        "rl_model",
        "logs",
        "final_model/policy.onnx",
        "final_model/README.md",
        "SUMMARY.md",
    ):
        assert (folder / path).exists(), path
    for words in ("live episodes", "run folder", "MLflow UI", "Ray dashboard", "curl -s", "next:"):
        assert words in done.stdout, done.stdout

    # One head, one endpoint, nothing left over from the killed runs.
    processes = head_processes(settings)
    assert sum("ray.scripts.scripts" in " ".join(process.cmdline()) for process in processes) == 1
    drivers = [
        process
        for process in psutil.process_iter(["cmdline"])
        if "cluster.pipeline" in (process.info["cmdline"] or []) and str(folder.parent) in str(process.environ())
    ]
    assert drivers == []


@pytest.mark.slow
def test_the_endpoint_stays_up_and_the_printed_request_works(own):
    settings, environment = own
    (folder,) = settings.experiments_path.iterdir()
    (example,) = folder.glob("**/request.json")
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {own_token(settings)}"}
    request = urllib.request.Request(f"{settings.endpoint_url}/v1/policies/pidog-run/act", example.read_bytes(), headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        action = json.load(answer)["action"]["joint_position_target_rad"]
    assert len(action) == 12

    report = _gaitway(environment, "ab", "report", "--json")
    assert report.returncode == 0, report.stderr
    assert json.loads(report.stdout)["episodes"] > 0

    models = json.loads(_gaitway(environment, "model", "ls", "--json").stdout)
    assert {item["version"] for item in models} == {1, 2}
    assert _gaitway(environment, "model", "verify", "pidog-run", "@champion").returncode == 0


@pytest.mark.slow
def test_run_again_everything_is_skipped(own):
    settings, environment = own
    done = _gaitway(environment, "pipeline", "run", QUICKSTART, "--set", "preset=debug")
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stderr.count("skipped") == len(STAGES)
    assert len(list(settings.experiments_path.iterdir())) == 1


@pytest.mark.slow
def test_ray_job_submit_runs_the_sweep_on_the_running_head(own):
    settings, environment = own
    head = find_head(settings)
    assert head is not None
    command = [str(Path(sys.executable).with_name("ray")), "job", "submit", "--address", head.dashboard_url, "--working-dir", "."]
    job = ["--", "python", "-m", "trainables.sweep", "configs/sweeps/pidog_asha.yaml", "--set", "preset=debug"]
    done = subprocess.run([*command, *job], env=environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    (folder,) = settings.experiments_path.glob("pidog_asha_*")
    assert list(folder.glob("rl_model/**/policy.json"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "start", "configs/train/pidog.yaml", "--set", "preset=debug"),
        ("train", "start", "configs/train/pidog_imitation.yaml", "--set", "preset=debug"),
        ("train", "start", "configs/train/gymnasium_mujoco.yaml", "--set", "preset=debug"),
        ("sweep", "start", "configs/sweeps/pidog_pbt.yaml", "--set", "preset=debug"),
        ("sweep", "start", "configs/sweeps/pidog_pb2.yaml", "--set", "preset=debug"),
        ("sweep", "start", "configs/sweeps/pidog_optuna.yaml", "--set", "preset=debug"),
        ("sweep", "start", "configs/sweeps/halfcheetah_asha.yaml", "--set", "preset=debug"),
        ("pipeline", "run", "configs/pipelines/pidog_fast_runner.yaml", "--set", "preset=debug"),
        ("pipeline", "run", "configs/pipelines/motion.yaml", "--set", "preset=debug"),
        ("serve", "up", "configs/serve/local.yaml"),
    ],
    ids=lambda arguments: arguments[2],
)
def test_every_other_configuration_runs(own, arguments):
    done = _gaitway(own[1], *arguments)
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.mark.slow
def test_imitation_is_swept_over_what_was_collected(own):
    settings, environment = own
    (run_folder,) = settings.experiments_path.glob("quickstart_*")
    chosen = f"imitation.dataset={run_folder / 'data'}"
    arguments = ("sweep", "start", "configs/sweeps/imitation_optuna.yaml", "--set", "preset=debug", "--set", chosen)
    done = _gaitway(environment, *arguments, "--json")
    assert done.returncode == 0, done.stderr[-4000:]
    result = json.loads(done.stdout)
    assert [trial["status"] for trial in result["trials"]].count("finished") >= 1
    assert result["metric"] == "validation/loss"
    assert (Path(result["checkpoint"]) / "policy.json").is_file()


def test_no_configuration_is_left_out():
    run_here = {
        QUICKSTART,
        "configs/datasets/augment_pidog.yaml",  # tests/trainables/datasets/augmentation
        "configs/datasets/ros2_arm.yaml",  # tests/trainables/datasets/sources/test_recordings.py
        "configs/datasets/augment_so101.yaml",
        "configs/datasets/grade.yaml",  # tests/trainables/datasets/quality/test_grading.py
        "configs/datasets/grade_so101_limits.yaml",
        "configs/imitation/gaits.yaml",  # test_imitation_job.py
        "configs/imitation/so101_chunk.yaml",  # test_recorded_arm.py
        "configs/pipelines/motion.yaml",
        "configs/pipelines/pidog_fast_runner.yaml",
        "configs/serve/local.yaml",
        "configs/serve/production.yaml",  # test_serve_deploy.py
        "configs/sweeps/halfcheetah_asha.yaml",
        "configs/sweeps/imitation_optuna.yaml",
        "configs/sweeps/pidog_asha.yaml",
        "configs/sweeps/pidog_optuna.yaml",
        "configs/sweeps/pidog_pb2.yaml",
        "configs/sweeps/pidog_pbt.yaml",
        "configs/train/gymnasium_mujoco.yaml",
        "configs/train/pidog.yaml",
        "configs/train/pidog_imitation.yaml",
    }
    assert {path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / "configs").rglob("*.yaml")} == run_here


@pytest.mark.slow
def test_cluster_down_leaves_nothing(own):
    settings, environment = own
    assert _gaitway(environment, "cluster", "down").returncode == 0
    assert head_processes(settings) == []
    assert port_owner(settings.http_port) is None
