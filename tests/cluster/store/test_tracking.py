from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import pytest

from cluster.errors import StoreError
from cluster.settings import Settings
from cluster.store.mlflow_access import mlflow_client
from cluster.store.tracking import TrackedRun, start_run


@pytest.fixture
def client(mlflow_settings: Settings) -> Any:
    return mlflow_client(mlflow_settings)


def test_a_run_keeps_every_metric_parameter_tag_and_artifact(mlflow_settings: Settings, client: Any, tmp_path: Path) -> None:
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "loss.png").write_bytes(b"png")
    (tmp_path / "notes.md").write_text("notes")
    with start_run(
        mlflow_settings, "kept", "imitation", params={"ppo": {"learning_rate": 1e-3, "empty": {}}, "seed": 7}, tags={"stage": "imitate"}
    ) as run:
        # More than MLflow takes in one call.
        for step in range(2345):
            run.log_metrics({"loss": 1.0 / (step + 1)}, step=step)
        run.log_metrics({"nan": float("nan")})
        run.log_artifact(tmp_path / "notes.md")
        run.log_artifact(tmp_path / "plots", "figures")
    history = client.get_metric_history(run.run_id, "loss")
    assert {item.step: item.value for item in history} == {step: 1.0 / (step + 1) for step in range(2345)}
    stored = client.get_run(run.run_id)
    assert stored.data.params == {"ppo.learning_rate": "0.001", "ppo.empty": "{}", "seed": "7"}
    assert stored.data.tags["stage"] == "imitate"
    assert math.isnan(stored.data.metrics["nan"])
    assert (stored.info.status, stored.info.run_name) == ("FINISHED", "imitation")
    folder = Path(unquote(urlparse(stored.info.artifact_uri).path))
    assert folder.is_relative_to(mlflow_settings.mlflow_artifact_path)
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*")) == ["figures/loss.png", "notes.md"]


def test_a_run_that_fails_says_so_and_keeps_its_metrics(mlflow_settings: Settings, client: Any) -> None:
    statuses = {}

    def fail(run: TrackedRun, error: type[BaseException]) -> None:
        with run:
            run.log_metrics({"loss": 0.5})
            raise error

    for error in (ValueError, KeyboardInterrupt):
        run = start_run(mlflow_settings, "failing", "run")
        with pytest.raises(error):
            fail(run, error)
        stored = client.get_run(run.run_id)
        statuses[error] = (stored.info.status, stored.data.metrics)
    assert statuses == {ValueError: ("FAILED", {"loss": 0.5}), KeyboardInterrupt: ("KILLED", {"loss": 0.5})}


def test_trials_nest_under_their_sweep(mlflow_settings: Settings, client: Any) -> None:
    with (
        start_run(mlflow_settings, "sweep", "sweep") as sweep,
        start_run(mlflow_settings, "sweep", "trial", parent_run_id=sweep.run_id) as trial,
    ):
        pass
    assert client.get_run(trial.run_id).data.tags["mlflow.parentRunId"] == sweep.run_id
    assert trial.experiment_id == sweep.experiment_id


def test_a_run_is_continued_after_a_crash(mlflow_settings: Settings, client: Any) -> None:
    with start_run(mlflow_settings, "continued", "run") as run:
        run.log_metrics({"loss": 0.5}, step=1)
    with start_run(mlflow_settings, "continued", "run", run_id=run.run_id) as again:
        assert client.get_run(run.run_id).info.status == "RUNNING"
        again.log_metrics({"loss": 0.25}, step=2)
    assert again.run_id == run.run_id
    assert [item.value for item in client.get_metric_history(run.run_id, "loss")] == [0.5, 0.25]
    with pytest.raises(StoreError, match="0" * 32):
        start_run(mlflow_settings, "continued", "run", run_id="0" * 32)


def test_finishing_twice_is_finishing_once(mlflow_settings: Settings, client: Any) -> None:
    run = start_run(mlflow_settings, "twice", "run")
    run.finish("KILLED")
    run.finish()
    assert client.get_run(run.run_id).info.status == "KILLED"


def test_processes_start_on_a_new_database_at_once_and_in_silence(tmp_path: Path) -> None:
    code = """
from cluster.settings import Settings
from cluster.store.tracking import TrackedRun, start_run
with start_run(Settings.from_environment(), "new", "run") as run:
    run.log_metrics({"loss": 0.5})
"""
    environment = {**os.environ, "GAITWAY_HOME": str(tmp_path / "home")}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code], env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path
        )
        for _ in range(3)
    ]
    for process in processes:
        assert process.communicate(timeout=120) == ("", "")
        assert process.returncode == 0
    client = mlflow_client(Settings.from_environment({"GAITWAY_HOME": str(tmp_path / "home")}))
    experiment = client.get_experiment_by_name("new")
    assert len(client.search_runs([experiment.experiment_id])) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_an_unreachable_server_is_one_line_without_its_password() -> None:
    settings = Settings(database_url="postgresql://robot:secret@127.0.0.1:1/gaits?connect_timeout=2")
    with pytest.raises(StoreError, match=r"127\.0\.0\.1:1/gaits") as caught:
        start_run(settings, "e", "r")
    assert "secret" not in str(caught.value)
