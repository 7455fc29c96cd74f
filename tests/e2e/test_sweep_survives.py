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

import psutil
import pytest

from cluster.runtime.head import head_processes, stop_head
from cluster.runtime.nodes import ensure_local_nodes, local_nodes, node_of
from cluster.settings import Settings
from trainables.sweeps.records import REPORTS_FILE, load_sweep, read_lines

BUDGET = 24
STEP_S = 0.4
LOST_REPORTS = round(2 * 2.0 / STEP_S)
"""What a killed driver may cost a trial: Tune takes a snapshot every 2 s, and a busy machine may need as long again to write it."""
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

    command = [sys.executable, "-c", "from cluster.cli.main import main; main()", "sweep", "resume", "survivor", "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    log.close()
    record = load_sweep(run_folder)
    assert record.status == "finished"
    assert [trial.status for trial in record.trials] == ["finished"] * 8
    assert {trial.progress for trial in record.trials} == {BUDGET}
    # Written twice is only what came after a trial's last checkpoint, or the sweep's last snapshot; who had one never begins again.
    written = Counter((line["trial"], line["progress"]) for line in read_lines(reports))
    for trial in record.trials:
        repeated = [progress for (name, progress), times in written.items() if name == trial.trial_id and times > 1]
        assert len(repeated) <= LOST_REPORTS, (trial.trial_id, repeated)
        assert {progress for name, progress in written if name == trial.trial_id} == set(range(1, BUDGET + 1))
        assert trial.mlflow_run_id
    assert sum(trial.work for trial in record.trials) <= 8 * BUDGET + 4 * LOST_REPORTS  # at most four run at once
    # MLflow has every report of every trial, those that the killed driver had not written yet included.
    from cluster.store.mlflow_access import mlflow_client

    client = mlflow_client(nodes)
    for trial in record.trials:
        run = client.get_run(str(trial.mlflow_run_id))
        assert run.info.status == "FINISHED"
        steps = {point.step for point in client.get_metric_history(run.info.run_id, "progress")}
        assert steps == set(range(1, BUDGET + 1))


def wait_for(condition: Callable[[], bool], driver: "subprocess.Popen[bytes]", folder: Path, timeout_s: float = 150) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert driver.poll() is None, (folder / "driver.log").read_text()[-3000:]
        assert time.monotonic() < deadline_s, (folder / "driver.log").read_text()[-3000:]
        time.sleep(0.3)
