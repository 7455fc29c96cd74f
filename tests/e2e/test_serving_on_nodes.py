"""The endpoint on a cluster of several nodes on one machine: one proxy, on the head, in front of replicas on the worker nodes."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster.errors import UsageError
from cluster.runtime.head import head_processes, stop_head
from cluster.runtime.nodes import ensure_local_nodes, local_nodes, node_of
from cluster.runtime.processes import port_owner
from cluster.runtime.serve_config import ServeConfig
from cluster.runtime.serving import haproxy_processes, serve_down, serve_up
from cluster.settings import Settings
from cluster.store.registry import register_bundle, set_alias
from cluster.store.tokens import own_token
from cluster.wire.client import PolicyClient

pytestmark = pytest.mark.slow


@pytest.fixture
def settings(migrated_home: Path, tmp_path: Path) -> Iterator[Settings]:
    shutil.copytree(migrated_home, tmp_path / "home")
    ports = {}
    for name in ("HTTP", "DASHBOARD", "RAY"):
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            ports[f"GAITWAY_{name}_PORT"] = str(listener.getsockname()[1])
    settings = Settings.from_environment({"GAITWAY_HOME": str(tmp_path / "home"), **ports})
    yield settings
    stop_head(settings)


def test_one_proxy_serves_replicas_on_the_worker_nodes(settings: Settings, tmp_path: Path, make_bundle: Callable[..., Path]) -> None:
    register_bundle(settings, "pidog-run", make_bundle(tmp_path / "bundle"))
    set_alias(settings, "pidog-run", "champion", 1)
    ensure_local_nodes(settings, 2, 1)
    with pytest.raises(UsageError, match="share one machine, and so the endpoint's port; use HeadOnly"):
        serve_up(settings, ServeConfig(proxies="EveryNode"))

    # A whole CPU each: only the worker nodes have any.
    status = serve_up(settings, ServeConfig(num_replicas=2, cpus_per_replica=1.0))
    assert status["running"]
    nodes = local_nodes(settings)
    replicas = {replica["pid"] for replica in status["replicas"]}
    where = {process.pid: node_of(process, nodes) for process in head_processes(settings)}
    assert sorted(where[pid] for pid in replicas) == sorted(node.name for node in nodes)
    assert {where[process.pid] for process in haproxy_processes(settings)} <= {"head"}
    with PolicyClient(settings.endpoint_url, "pidog-run", token=own_token(settings)) as client:
        answer = client.act({"gravity": [1, 2, 3], "joint_position_rad": [0, 0], "range_m": [0]}, "an episode")
    assert answer.action["joint_position_target_rad"].tolist() == [1, 2]

    serve_down(settings)
    assert haproxy_processes(settings) == []
    assert port_owner(settings.http_port) is None
