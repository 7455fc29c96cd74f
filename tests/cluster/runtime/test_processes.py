"""Processes by record, owners of ports, and Serve's environment."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cluster.config import load_config, parse_config
from cluster.errors import ConfigError, UsageError
from cluster.runtime.processes import (
    ProcessRecord,
    end_processes,
    haproxy_available,
    haproxy_folder,
    port_owner,
    serve_environment,
    spawn_detached,
)
from cluster.runtime.serve_api import last_line
from cluster.runtime.serve_config import ServeConfig
from cluster.settings import Settings

CONFIGURATIONS = Path(__file__).resolve().parents[3] / "configs" / "serve"


@pytest.fixture
def child() -> Iterator[psutil.Process]:
    with subprocess.Popen([sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"], stdout=subprocess.PIPE) as popen:
        assert popen.stdout is not None
        popen.stdout.readline()
        yield psutil.Process(popen.pid)
        popen.kill()


def test_a_record_finds_its_process_and_no_other(child: psutil.Process) -> None:
    record = ProcessRecord.of(child)
    assert record.find() == child
    assert ProcessRecord(child.pid, record.started_at_s - 5.0).find() is None
    assert end_processes([child]) == 1
    assert record.find() is None
    assert end_processes([child]) == 0


def test_a_process_that_does_not_listen_to_reason_is_killed() -> None:
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as popen:
        assert popen.stdout is not None
        popen.stdout.readline()
        assert end_processes([psutil.Process(popen.pid)], timeout_s=0.2) == 1
        assert not psutil.pid_exists(popen.pid)


def test_a_detached_process_holds_nothing_of_its_caller(tmp_path: Path) -> None:
    with (tmp_path / "lock").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        fcntl.flock(file, fcntl.LOCK_EX)
        code = "import os, time; print(os.getsid(0) == os.getpid(), flush=True); time.sleep(60)"
        process = spawn_detached([sys.executable, "-c", code], dict(os.environ), tmp_path / "logs" / "out.log")
    try:
        with (tmp_path / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        deadline_s = time.monotonic() + 10.0
        while "True" not in (tmp_path / "logs" / "out.log").read_text():
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
    finally:
        end_processes([process])


def test_who_holds_a_port() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        assert port_owner(port) is None
        listener.listen()
        owner = port_owner(port)
        assert owner is not None
        assert owner.process == psutil.Process()
        assert f"port {port} is held by process {psutil.Process().pid} (" in str(owner)


def test_the_environment_of_both_modes() -> None:
    settings = Settings.from_environment({"GAITWAY_HTTP_PORT": "18000"})
    off = serve_environment(settings, {"GAITWAY_HAPROXY": "off"})
    assert (off["RAY_SERVE_ENABLE_HA_PROXY"], off["RAY_SERVE_ENABLE_DIRECT_INGRESS"]) == ("0", "0")
    if haproxy_available():
        on = serve_environment(settings, {})
        assert on["RAY_SERVE_ENABLE_HA_PROXY"] == "1"
        ports = [on[f"RAY_SERVE_{name}_PORT"] for name in ("FALLBACK_PROXY_HTTP", "HAPROXY_STATS", "HAPROXY_METRICS")]
        assert len({*ports, "18000", "8404", "9101"}) == 6
        # Linux holds a Unix socket's path in 108 bytes; Serve adds a node id of 56 characters and names such as metrics.sock.
        assert len(on["RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH"]) + 57 + len(".12345.tmp") < 108
    with pytest.raises(UsageError, match="use auto, on or off"):
        serve_environment(settings, {"GAITWAY_HAPROXY": "yes"})


def test_homes_do_not_share_a_haproxy() -> None:
    folders = {haproxy_folder(Settings.from_environment({"GAITWAY_HOME": home})) for home in ("/a", "/b")}
    assert len(folders) == 2


def test_the_serve_configuration() -> None:
    config = load_config(CONFIGURATIONS / "local.yaml", ServeConfig, ["num_replicas=2", "haproxy=off"])
    assert (config.num_replicas, config.haproxy) == (2, "off")
    assert config.policies[0].split is not None
    for wrong, says in (
        ({"replicas": 2}, "unknown key; did you mean 'num_replicas'"),
        ({"policies": []}, "policies"),
        ({"policies": [{"policy": "a"}, {"policy": "a"}]}, "each may stand once"),
        ({"policies": [{"split": {"arms": {"champion": 1.0}, "metric": "m", "low": 0, "high": 1}}]}, "give 2 to 4 aliases"),
        ({"policies": [{"split": {"arms": {"a": 1, "b": 1}, "metric": "m", "low": 1, "high": 1}}]}, "must be below"),
    ):
        with pytest.raises(ConfigError, match=says):
            parse_config(wrong, ServeConfig)


def test_the_reason_in_a_traceback() -> None:
    text = "Failed\nTraceback (most recent call last):\n  File x\ncluster.errors.BundleError: policy.onnx is missing; export again\n"
    assert last_line(text) == "BundleError: policy.onnx is missing; export again"
    assert last_line("") == "no reason given"
