"""Whole sweeps, small ones: real trials under Tune, recorded in MLflow."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from cluster.config import parse_config
from cluster.errors import GaitwayError, UsageError
from cluster.progress import Progress
from cluster.settings import Settings
from cluster.stage import StageContext, run_stage_alone
from tests.trainables.sweeps.runs.conftest import PPO
from trainables import sweep, train
from trainables.networks.checkpoint import load_policy, save_policy
from trainables.networks.policies import MlpPolicy
from trainables.sweeps.config import SweepConfig


def sweep_config(**changes: Any) -> SweepConfig:
    data = {
        "ppo": PPO,
        "search_space": {"learning_rate": {"loguniform": [1e-4, 1e-2]}},
        "num_trials": 2,
        "max_failures": 0,
        "scheduler": {"kind": "asha", "grace_period": 512, "reduction_factor": 2},
    }
    return parse_config(data | changes, SweepConfig)


def context(settings: Settings, folder: Path, results: dict[str, Any] | None = None) -> StageContext:
    folder.mkdir(parents=True, exist_ok=True)
    return StageContext(folder=folder, settings=settings, progress=Progress(mode="quiet"), results=results or {}, experiment="sweep-test")


def reports(folder: Path) -> dict[str, list[dict[str, Any]]]:
    paths = (folder / "rl_model" / "tune").glob("*/result.json")
    return {path.parent.name: [json.loads(line) for line in path.read_text().splitlines()] for path in paths}


@pytest.mark.usefixtures("ray_session")
def test_the_best_iteration_of_the_best_trial_is_kept_and_everything_is_recorded(settings: Settings, tmp_path: Path) -> None:
    torch.manual_seed(0)
    warm_start = MlpPolicy(3, 1, hidden=(16,), activation="tanh")
    save_policy(warm_start, tmp_path / "imitation", {"task": PPO["task"], "task_config": {}})
    results = {"imitate": {"checkpoint": str(tmp_path / "imitation")}}
    result = sweep.run(sweep_config(), context(settings, tmp_path / "run", results))

    recorded = reports(tmp_path / "run")
    assert len(recorded) == len(result["trials"]) == 2
    first, *_ = (trial for trial in result["trials"] if trial["trial_id"].endswith("00000"))
    assert first["sample"] == {"learning_rate": 3e-4}  # as written, before anything is drawn
    everything = [report for trial in recorded.values() for report in trial]
    best = max(report["evaluation/return"] for report in everything)
    assert result["value"] == best
    assert max(trial["best_value"] for trial in result["trials"]) == best
    winner = next(report for report in recorded[result["best_trial"]] if report["evaluation/return"] == best)
    assert result["env_steps"] == winner["env_steps"]
    policy, metadata = load_policy(Path(result["checkpoint"]))
    assert policy.hidden == (16,)
    assert metadata["task"] == PPO["task"]
    json.dumps(result)

    # The warm start is what every trial starts from, and it is measured before any training.
    assert result["warm_start"] == str(tmp_path / "imitation")
    assert result["warm_start_max_abs_error"] <= 1e-6
    starts = [trial[0] for trial in recorded.values()]
    assert all(start["env_steps"] == 0 for start in starts)
    assert len({start["evaluation/return"] for start in starts}) == 1

    from cluster.store.mlflow_access import mlflow_client

    client = mlflow_client(settings)
    parent = client.get_run(result["run_id"])
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["best_trial"] == result["best_trial"]
    children = client.search_runs([parent.info.experiment_id], f"tags.mlflow.parentRunId = '{result['run_id']}'")
    assert {child.info.run_name for child in children} == set(recorded)
    for child in children:
        history = client.get_metric_history(child.info.run_id, "evaluation/return")
        trial = recorded[child.info.run_name]
        assert [(point.step, point.value) for point in history] == [(report["env_steps"], report["evaluation/return"]) for report in trial]

    for trial in recorded:
        assert list((tmp_path / "run" / "rl_model" / "tune" / trial).glob("events.out.tfevents.*"))

    # Again: nothing is left to do, and the outcome is the same.
    again = sweep.run(sweep_config(), context(settings, tmp_path / "run", results))
    assert again["best_trial"] == result["best_trial"]
    assert reports(tmp_path / "run") == recorded


@pytest.mark.usefixtures("ray_session")
def test_a_failing_trial_does_not_stop_the_rest(settings: Settings, tmp_path: Path) -> None:
    config = sweep_config(
        ppo=PPO | {"total_env_steps": 256, "task_config": {"g": 10.0}},
        search_space={"task_config.g": {"choice": ["heavy"]}},  # the first trial is as written; the second draws this
        scheduler=None,
    )
    result = sweep.run(config, context(settings, tmp_path))
    status = {trial["status"] for trial in result["trials"]}
    assert status == {"finished", "failed"}
    failed = next(trial for trial in result["trials"] if trial["status"] == "failed")
    assert failed["error"] == "TypeError: unsupported operand type(s) for /: 'str' and 'float'"
    assert failed["trial_id"] != result["best_trial"]
    assert load_policy(Path(result["checkpoint"]))


@pytest.mark.usefixtures("ray_session")
def test_when_all_trials_fail_the_first_cause_and_its_log_are_named(settings: Settings, tmp_path: Path) -> None:
    config = sweep_config(ppo=PPO | {"task_config": {"g": "heavy"}}, scheduler=None)
    with pytest.raises(GaitwayError) as caught:
        sweep.run(config, context(settings, tmp_path))
    message = str(caught.value)
    assert "all 2 trials failed; the first: TypeError: unsupported operand" in message


@pytest.mark.usefixtures("ray_session")
def test_what_the_cluster_cannot_run_is_refused_before_anything_starts(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs 64 CPUs"):
        sweep.run(sweep_config(cpus_per_trial=64), context(settings, tmp_path))
    with pytest.raises(UsageError, match="'evaluation/retrun' is never reported; did you mean 'evaluation/return'"):
        sweep.run(sweep_config(ppo=PPO | {"task": "InvertedPendulum-v5"}, metric="evaluation/retrun"), context(settings, tmp_path))
    with pytest.raises(UsageError, match="no policy checkpoint"):
        sweep.run(sweep_config(ppo=PPO | {"warm_start": tmp_path / "nowhere"}), context(settings, tmp_path))


@pytest.mark.usefixtures("ray_session")
def test_a_refused_sweep_leaves_no_run_folder(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "sweep.yaml"
    config.write_text(json.dumps(sweep_config(cpus_per_trial=64).model_dump(mode="json")))
    for name, value in settings.as_environment().items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=r"needs 64 CPUs.*GPUs$"):
        run_stage_alone("trainables.sweep", config, mode="quiet")
    assert list(settings.experiments_path.glob("*")) == []
    mine = tmp_path / "mine"
    with pytest.raises(UsageError, match=r"needs 64 CPUs.*\(log: "):
        run_stage_alone("trainables.sweep", config, run_folder=mine, mode="quiet")
    assert (mine / "logs" / "sweep.log").is_file()


@pytest.mark.usefixtures("ray_session")
def test_training_is_a_sweep_of_one(settings: Settings, tmp_path: Path) -> None:
    result = train.run(parse_config(PPO | {"total_env_steps": 256}, train.Config), context(settings, tmp_path))
    (trial,) = result["trials"]
    assert trial["status"] == "finished"
    assert load_policy(Path(result["checkpoint"]))[1]["source"] == "ppo"


@pytest.mark.slow
def test_a_killed_driver_continues_from_the_last_checkpoints(settings: Settings, tmp_path: Path) -> None:
    """kill -9 in the middle, then the same command: finished trials are not repeated, running ones go on where they were."""
    ppo = PPO | {"total_env_steps": 6144, "report_every_env_steps": 512}
    config = tmp_path / "sweep.yaml"
    config.write_text(json.dumps(sweep_config(ppo=ppo, scheduler=None, num_trials=3).model_dump(mode="json")))
    environment = os.environ | settings.as_environment() | {"PYTHONWARNINGS": "ignore"}
    environment.pop("RAY_ADDRESS", None)
    command = [sys.executable, "-m", "trainables.sweep", str(config), "--run-folder", str(tmp_path / "run")]
    driver = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline_s = time.monotonic() + 120
    while time.monotonic() < deadline_s and sum(map(len, reports(tmp_path / "run").values())) < 8:
        time.sleep(0.2)
    _kill_with_its_ray(driver)
    before = reports(tmp_path / "run")
    assert sum(map(len, before.values())) >= 8

    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert [trial["status"] for trial in result["trials"]] == ["finished"] * 3
    after = reports(tmp_path / "run")
    assert set(before) <= set(after)
    assert len(after) == 3
    for name, earlier in before.items():
        steps = [report["env_steps"] for report in after[name]]
        resumed_at = steps[len(earlier)] if len(steps) > len(earlier) else earlier[-1]["env_steps"]
        # A trial repeats at most what came after its last checkpoint; it never starts from zero again.
        assert resumed_at > 0
        assert resumed_at >= earlier[-1]["env_steps"] - 4 * 512
    runs = json.loads((tmp_path / "run" / "rl_model" / "mlflow.json").read_text())
    assert set(runs["trials"]) == set(after)


def _kill_with_its_ray(driver: subprocess.Popen[bytes]) -> None:
    """kill -9 the driver; its trials must end by themselves. Ray's two agents take a minute to notice, so they are ended by id."""
    children = psutil.Process(driver.pid).children(recursive=True)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    _, left = psutil.wait_procs(children, timeout=10)
    for process in left:
        assert process.name().endswith("Agent"), process.name()
        process.kill()


@pytest.mark.usefixtures("ray_session")
def test_a_record_that_lags_behind_its_reports_is_caught_up(settings: Settings, tmp_path: Path) -> None:
    """A driver killed between a report and the next writing of ``trials.json`` leaves reports of a trial that the latter lacks."""
    ours = context(settings, tmp_path)
    result = sweep.run(sweep_config(scheduler=None), ours)
    record = tmp_path / "rl_model" / "trials.json"
    written = json.loads(record.read_text())
    lost = written["trials"].pop()
    record.write_text(json.dumps(written | {"status": "running"}))
    runs = tmp_path / "rl_model" / "mlflow.json"
    runs.write_text(json.dumps(json.loads(runs.read_text()) | {"ended": []}))
    again = sweep.run(sweep_config(scheduler=None), ours)
    assert again["best_trial"] == result["best_trial"]
    assert again["run_id"] == result["run_id"]
    restored = next(trial for trial in again["trials"] if trial["trial_id"] == lost["trial_id"])
    kept = ("status", "progress", "work", "best_value", "best_progress", "last_value", "checkpoint", "mlflow_run_id")
    assert {name: restored[name] for name in kept} == {name: lost[name] for name in kept}
    assert lost["mlflow_run_id"] == json.loads(runs.read_text())["trials"][lost["trial_id"]]
