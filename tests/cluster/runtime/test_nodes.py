"""A head and two worker nodes as processes on this machine, shared by the tests of this file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cluster.errors import ClusterError, UsageError
from cluster.runtime.head import Head, find_head, head_processes, stop_head
from cluster.runtime.nodes import LocalNode, cluster_nodes, ensure_local_nodes, local_nodes, node_of
from cluster.settings import Settings

CPUS = 2


@pytest.fixture(scope="module")
def own_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """A home of its own, on ports of its own."""
    environment = {
        "GAITWAY_HOME": str(tmp_path_factory.mktemp("nodes") / "home"),
        "GAITWAY_RAY_PORT": "16390",
        "GAITWAY_DASHBOARD_PORT": "18265",
        "GAITWAY_HTTP_PORT": "18000",
    }
    settings = Settings.from_environment(environment)
    yield settings
    stop_head(settings)


@pytest.fixture(scope="module")
def cluster(own_settings: Settings) -> tuple[Head, list[LocalNode]]:
    return ensure_local_nodes(own_settings, 2, CPUS)


def run(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``gaitway`` with these arguments, as a person runs it."""
    environment = {**os.environ, **settings.as_environment()}
    command = [sys.executable, "-c", "from cluster.cli.main import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment, check=False)


def test_every_node_is_a_process_that_ray_knows(own_settings: Settings, cluster: tuple[Head, list[LocalNode]]) -> None:
    head, nodes = cluster
    assert [(node.index, node.num_cpus, node.runs) for node in nodes] == [(1, CPUS, True), (2, CPUS, True)]
    assert len({head.pid, *(node.pid for node in nodes)}) == 3
    assert len({os.getsid(node.pid) for node in nodes}) == 2
    shown = cluster_nodes(own_settings)
    assert [(item.role, item.alive, item.cpus_used, item.cpus_total) for item in shown] == [
        ("head", True, 0, 0),
        ("worker", True, 0, CPUS),
        ("worker", True, 0, CPUS),
    ]
    assert [item.pid for item in shown] == [head.pid, *(node.pid for node in nodes)]
    assert len({item.id for item in shown}) == len({item.address for item in shown}) == 3
    assert {node_of(process, nodes) for process in head_processes(own_settings)} == {"head", *(node.name for node in nodes)}


def test_work_spreads_over_the_nodes_and_status_counts_it(own_settings: Settings, cluster: tuple[Head, list[LocalNode]]) -> None:
    head, nodes = cluster
    code = """
import os, sys, time, ray
ray.init(sys.argv[1], log_to_driver=False, logging_level="ERROR")
@ray.remote(num_cpus=1)
class Worker:
    def where(self):
        return os.environ.get("GAITWAY_LOCAL_NODE", "head")
workers = [Worker.remote() for _ in range(4)]
print(*sorted(ray.get([worker.where.remote() for worker in workers])), flush=True)
sys.stdin.readline()
"""
    with subprocess.Popen([sys.executable, "-c", code, head.address], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        assert driver.stdout.readline().split() == sorted(node.name for node in nodes for _ in range(CPUS))
        shown = json.loads(run(own_settings, "cluster", "status", "--json").stdout)
        assert [node["cpus_used"] for node in shown["nodes"]] == [0, CPUS, CPUS]
        assert {process["node"] for process in shown["processes"]} == {"head", *(node.name for node in nodes)}
        driver.communicate("\n")


def test_asking_again_changes_nothing_and_asking_for_less_is_refused(own_settings: Settings, cluster: tuple[Head, list[LocalNode]]) -> None:
    assert ensure_local_nodes(own_settings, 2) == cluster
    assert ensure_local_nodes(own_settings, 2, CPUS) == cluster
    with pytest.raises(UsageError, match="2 worker nodes run here, more than the 1 asked for; run gaitway cluster down first"):
        ensure_local_nodes(own_settings, 1)
    with pytest.raises(UsageError, match=f"offer {CPUS} CPUs each, not 1"):
        ensure_local_nodes(own_settings, 2, 1)


def test_a_job_runs_on_it(own_settings: Settings, cluster: tuple[Head, list[LocalNode]], tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text("print('the job ran')\n")
    submit = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--address", cluster[0].dashboard_url]
    command = [*submit, "--working-dir", str(tmp_path), "--", "python", "job.py"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the job ran" in done.stdout


def test_a_killed_node_is_shown_dead_and_started_again(own_settings: Settings, cluster: tuple[Head, list[LocalNode]]) -> None:
    head, nodes = cluster
    victim = nodes[1]
    left_behind = [
        process for process in head_processes(own_settings) if node_of(process, nodes) == victim.name and process.pid != victim.pid
    ]
    os.kill(victim.pid, signal.SIGKILL)
    psutil.wait_procs([psutil.Process(victim.pid)] if psutil.pid_exists(victim.pid) else [], timeout=5)
    shown = {item.name: item for item in cluster_nodes(own_settings)}
    assert {name: item.alive for name, item in shown.items()} == {"head": True, nodes[0].name: True, victim.name: False}
    assert (shown[victim.name].pid, shown[victim.name].cpus_used, shown[victim.name].cpus_total) == (victim.pid, None, CPUS)

    again_head, again = ensure_local_nodes(own_settings, 2)
    assert (again_head, again[0]) == (head, nodes[0])
    assert (again[1].index, again[1].num_cpus, again[1].name != victim.name) == (2, CPUS, True)
    assert not [process for process in left_behind if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    assert [item.alive for item in cluster_nodes(own_settings)] == [True, True, True]


def test_a_node_that_does_not_come_up_is_one_line_and_leaves_the_others(
    own_settings: Settings, cluster: tuple[Head, list[LocalNode]], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = local_nodes(own_settings)
    # Less than Ray accepts for an object store.
    monkeypatch.setattr("cluster.runtime.nodes._memory_options", lambda count: ("--object-store-memory", "1000"))
    with pytest.raises(ClusterError, match=r"worker node 3 ended at once; see .*ray-node-3\.log: "):
        ensure_local_nodes(own_settings, 3)
    assert local_nodes(own_settings) == before
    assert find_head(own_settings) == cluster[0]
    assert {node_of(process, before) for process in head_processes(own_settings)} == {"head", *(node.name for node in before)}


def test_nothing_is_left_also_after_a_node_was_killed(own_settings: Settings, cluster: tuple[Head, list[LocalNode]]) -> None:
    nodes = local_nodes(own_settings)
    everything = head_processes(own_settings)
    # Agents and dashboard modules write their title over their environment, and with it over the mark.
    assert sum(process.cmdline()[0].startswith("ray::") for process in everything) >= 2 * (1 + len(nodes))
    next(process for process in everything if process.name() == "raylet" and node_of(process, nodes) == nodes[0].name).kill()
    start_s = time.monotonic()
    assert stop_head(own_settings) > 0
    assert time.monotonic() - start_s < 20
    assert head_processes(own_settings) == []
    assert not [process for process in everything if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    assert local_nodes(own_settings) == cluster_nodes(own_settings) == []


def test_options_that_exclude_each_other_are_usage_errors(own_settings: Settings) -> None:
    for arguments, says in (
        (["--cpus-per-node", "2"], "give --local-nodes too"),
        (["--local-nodes", "2", "--num-cpus", "2"], "instead of --num-cpus"),
        (["--local-nodes", "0"], "local-nodes"),
    ):
        done = run(own_settings, "cluster", "up", *arguments)
        assert done.returncode == 2
        assert says in done.stderr
