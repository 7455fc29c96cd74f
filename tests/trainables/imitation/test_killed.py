"""A training whose driver is killed: the same command goes on where it was, and ends with the same bytes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from cluster.settings import Settings

REPOSITORY = Path(__file__).resolve().parents[3]
CONFIG = {"models": ["mlp"], "mlp": {"epochs": 300, "hidden": [64, 64], "batch_size": 16}, "patience": 300, "checkpoint_interval": 5}


def start(config: Path, folder: Path, settings: Settings) -> subprocess.Popen[str]:
    environment = {**os.environ, **settings.as_environment(), "PYTHONPATH": str(REPOSITORY)}
    environment.pop("RAY_ADDRESS", None)
    command = [sys.executable, "-m", "trainables.imitate", str(config), "--run-folder", str(folder), "--json"]
    return subprocess.Popen(command, env=environment, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def epochs_done(line: str) -> float:
    record = json.loads(line) if line.startswith("{") else {}
    return float(record.get("completed", 0.0)) if record.get("event") == "progress" else 0.0


@pytest.mark.slow
def test_a_killed_driver_is_resumed_by_the_same_command(settings: Settings, expert_dataset: Path, tmp_path: Path) -> None:
    config = tmp_path / "imitate.yaml"
    config.write_text(json.dumps({**CONFIG, "dataset": str(expert_dataset)}))
    killed = start(config, tmp_path / "run", settings)
    assert killed.stderr is not None
    storage = settings.shared_path / "imitation"
    deadline_s = time.monotonic() + 200
    while not list(storage.glob("*/checkpoint_*/fits.pt")):
        assert killed.poll() is None, killed.stderr.read()[-3000:]
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    time.sleep(1.0)
    children = psutil.Process(killed.pid).children(recursive=True)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    # The workers of a private Ray die with its driver; its agents, which would linger for minutes, are ended by their ids.
    _, alive = psutil.wait_procs(children, timeout=20)
    for process in alive:
        assert "Train" not in process.name()
        process.kill()
    psutil.wait_procs(alive, timeout=10)
    assert not (tmp_path / "run" / "imitation_model" / "history.json").exists()
    run_id = json.loads((tmp_path / "run" / "imitation_model" / ".training.json").read_text())["run_id"]

    resumed = start(config, tmp_path / "run", settings)
    stdout, stderr = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, stderr[-3000:]
    result = json.loads(stdout.splitlines()[-1])
    assert result["run_id"] == run_id
    first = next(done for done in map(epochs_done, stderr.splitlines()) if done)
    assert first > 5  # it did not begin again

    # The same as without a kill, to the last bit; and every epoch is in MLflow, with one value.
    whole = start(config, tmp_path / "whole", settings)
    stdout, stderr = whole.communicate(timeout=300)
    assert whole.returncode == 0, stderr[-3000:]
    histories = [json.loads((tmp_path / name / "imitation_model" / "history.json").read_text()) for name in ("run", "whole")]
    assert histories[0] == histories[1]
    weights = [torch.load(tmp_path / name / "imitation_model" / "policy" / "policy.pt", weights_only=True) for name in ("run", "whole")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert list(storage.iterdir()) == []
    from mlflow.tracking import MlflowClient

    logged = MlflowClient(settings.mlflow_tracking_uri).get_metric_history(run_id, "mlp/validation_loss")
    assert sorted(point.step for point in logged) == list(range(1, len(histories[0]["mlp"]["rows"]) + 1))
