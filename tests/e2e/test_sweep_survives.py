"""A sweep of eight trials on three nodes, of which one is killed, and later the driver: nothing is lost, nothing starts from zero."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from ray.tune import ExperimentAnalysis

from cluster.runtime.head import head_processes, stop_head
from cluster.runtime.nodes import ensure_local_nodes, local_nodes, node_of
from cluster.settings import Settings
from cluster.storage import join_url, open_storage
from trainables.sweeps.place import EXPERIMENT
from trainables.sweeps.records import REPORTS_FILE, load_sweep, read_lines
from trainables.sweeps.reports import PROGRESS
from trainables.sweeps.snapshots import mend

BUDGET = 24
STEP_S = 0.4
NODE_LOST_REPORTS = 4
"""What a killed node may cost a trial: what came after its last checkpoint, of which there is one a report."""
SNAPSHOT_LOST_REPORTS = round(2.0 / STEP_S) + 1
"""What a killed driver may cost it: what came after Tune's last snapshot, of which there is one every 2 s."""
SWEEP = {
    "custom": {"trainable": "tests.trainables.sweeps.runs.climb:Climb", "budget": BUDGET, "parameters": {"sleep_s": STEP_S}},
    "search_space": {"x": {"uniform": [0.0, 1.0]}},
    "num_trials": 8,
    "scheduler": "fifo",
    "max_failures": 3,
}


@pytest.fixture
def nodes(migrated_home: Path, settings: Settings) -> Iterator[Settings]:
    """Two worker nodes of two CPUs each, and a head without any."""
    ports = {"ray_port": 17390, "dashboard_port": 19265, "http_port": 19000}
    own = settings.model_copy(update=ports)
    ensure_local_nodes(own, 2, 2)
    yield own
    stop_head(own)


@pytest.mark.slow
def test_a_killed_node_and_a_killed_driver_cost_only_what_came_after_the_last_snapshot(nodes: Settings, tmp_path: Path) -> None:
    config, run_folder = tmp_path / "sweep.yaml", tmp_path / "experiments" / "survivor"
    config.write_text(json.dumps(SWEEP))
    environment = {**os.environ, **nodes.as_environment(), "PYTHONWARNINGS": "ignore"}
    environment.pop("RAY_ADDRESS", None)
    command = [sys.executable, "-m", "trainables.sweep", str(config), "--run-folder", str(run_folder)]
    log = (tmp_path / "driver.log").open("w")
    reports = run_folder / "rl_model" / REPORTS_FILE

    def progressed(reached: int) -> Callable[[], bool]:
        return lambda: sum(line["progress"] >= reached for line in read_lines(reports)) >= 4

    driver = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    wait_for(progressed(4), driver, tmp_path)
    both = {trial.node for trial in load_sweep(run_folder).trials if trial.node}
    assert len(both) == 2, "trials must spread over both nodes"

    # The second node goes, with everything on it.
    victim = local_nodes(nodes)[1]
    doomed = [process for process in head_processes(nodes) if node_of(process, local_nodes(nodes)) == victim.name]
    assert doomed
    for process in doomed:
        process.kill()
    psutil.wait_procs(doomed, timeout=10)
    wait_for(progressed(16), driver, tmp_path)

    # Then the driver.
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    assert any(trial.status == "running" for trial in load_sweep(run_folder).trials)
    before, saved = list(read_lines(reports)), saved_progress(nodes, run_folder.name)
    assert_repeats_little(before, NODE_LOST_REPORTS)

    command = [sys.executable, "-c", "from cluster.cli.main import main; main()", "sweep", "resume", "survivor", "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    log.close()
    record = load_sweep(run_folder)
    assert record.status == "finished"
    assert [trial.status for trial in record.trials] == ["finished"] * 8
    assert {trial.progress for trial in record.trials} == {BUDGET}
    # Each trial goes on exactly where the last snapshot has it, and that is not long ago.
    written = list(read_lines(reports))
    assert written[: len(before)] == before
    for trial in record.trials:
        resumed_at = saved.get(trial.trial_id, 0)
        after = [line["progress"] for line in written[len(before) :] if line["trial"] == trial.trial_id]
        assert after == list(range(resumed_at + 1, BUDGET + 1)), (trial.trial_id, resumed_at)
        assert {line["progress"] for line in written if line["trial"] == trial.trial_id} == set(range(1, BUDGET + 1))
        assert trial.mlflow_run_id
    assert_repeats_little(written, NODE_LOST_REPORTS + SNAPSHOT_LOST_REPORTS)
    assert sum(trial.work for trial in record.trials) <= 8 * (BUDGET + 4)
    # MLflow has every report of every trial, those that the killed driver had not written yet included.
    from cluster.store.mlflow_access import mlflow_client

    client = mlflow_client(nodes)
    for trial in record.trials:
        run = client.get_run(str(trial.mlflow_run_id))
        assert run.info.status == "FINISHED"
        steps = {point.step for point in client.get_metric_history(run.info.run_id, "progress")}
        assert steps == set(range(1, BUDGET + 1))


def saved_progress(settings: Settings, name: str) -> dict[str, int]:
    """Of each trial that has a checkpoint in the sweep's last whole snapshot: its progress there."""
    experiment = open_storage(join_url(settings.storage_url, "sweeps", name)).below(EXPERIMENT)
    assert mend(experiment)
    trials = ExperimentAnalysis(experiment.root).trials
    latest = {trial.trial_id: trial.run_metadata.checkpoint_manager.latest_checkpoint_result for trial in trials}
    return {trial_id: int(result.metrics[PROGRESS]) for trial_id, result in latest.items() if result is not None}


def assert_repeats_little(lines: list[dict[str, Any]], most: int) -> None:
    """No trial wrote more than ``most`` of its reports twice."""
    written = Counter((line["trial"], line["progress"]) for line in lines)
    repeats = Counter(trial for (trial, _), times in written.items() if times > 1)
    assert all(count <= most for count in repeats.values()), repeats


def wait_for(condition: Callable[[], bool], driver: "subprocess.Popen[bytes]", folder: Path, timeout_s: float = 150) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert driver.poll() is None, (folder / "driver.log").read_text()[-3000:]
        assert time.monotonic() < deadline_s, (folder / "driver.log").read_text()[-3000:]
        time.sleep(0.3)
