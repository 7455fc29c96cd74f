"""Our own Ray head on this machine: started once, found again by later commands, ended with everything it started.

Every process of the head inherits the environment variable ``GAITWAY_HEAD_OF=<home>``. That mark, and not a process name, tells
which raylets, workers and HAProxy processes are ours: it also finds a HAProxy worker that outlived its parent after a reload,
which ``ray stop`` leaves behind holding the port.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from cluster.config import write_text_atomic
from cluster.errors import ClusterError
from cluster.runtime.processes import ProcessRecord, end_processes, haproxy_folder, serve_environment
from cluster.settings import Settings

__all__ = ["MARK", "Head", "ensure_head", "find_head", "head_processes", "prepare_authentication", "stop_head"]

MARK = "GAITWAY_HEAD_OF"
START_TIMEOUT_S = 90.0


@dataclass(frozen=True)
class Head:
    """A running head of ours."""

    pid: int
    """The ``ray start --block`` process, parent of the rest."""
    started_at_s: float
    """Its start time, seconds since the epoch; with the pid it names one process for ever."""
    address: str
    """GCS address, ``host:port``: what ``ray.init`` takes."""
    dashboard_url: str
    """Dashboard and job API: what ``ray job submit --address`` takes."""
    auth_mode: str
    """``token`` or ``disabled``: what ``RAY_AUTH_MODE`` must be to reach it."""
    log: str
    """File with what the head printed."""


def ensure_head(settings: Settings, num_cpus: int | None = None) -> Head:
    """Return the running head of this home, or start one. Raises ``ClusterError`` naming the log when it does not come up."""
    with _lock(settings):
        head = find_head(settings)
        if head is not None:
            return head
        end_processes(head_processes(settings))  # what a killed head left behind would hold its ports
        return _start(settings, num_cpus)


def find_head(settings: Settings) -> Head | None:
    """The recorded head if that very process is alive and its GCS answers, else None."""
    try:
        head = Head(**json.loads(_record(settings).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    host, _, port = head.address.rpartition(":")
    return head if ProcessRecord(head.pid, head.started_at_s).find() and _accepts(host, int(port)) else None


def stop_head(settings: Settings) -> int:
    """End the head and all that it started; returns how many processes were ended. Safe when nothing runs."""
    with _lock(settings):
        ended = end_processes(head_processes(settings))
        shutil.rmtree(haproxy_folder(settings), ignore_errors=True)
        _record(settings).unlink(missing_ok=True)
        return ended


def head_processes(settings: Settings) -> list[psutil.Process]:
    """Every live process that carries this home's mark, in order of start."""
    mark = str(settings.home)
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE and process.pid != os.getpid():
                found.append(process)
        except (psutil.Error, OSError):
            continue  # ended meanwhile, or another user's
    return sorted(found, key=lambda process: process.create_time())


def prepare_authentication(mode: str | None = None) -> str:
    """Choose Ray's authentication mode for this process and its children, make sure that a token exists, and return the mode.

    An explicit ``RAY_AUTH_MODE`` is respected. Unset, the mode is ``mode`` or else ``token``, with the token where Ray itself keeps
    it, so that ``ray job submit`` from the same account works: a head without a token runs anybody's code who reaches its port.
    """
    chosen = os.environ.get("RAY_AUTH_MODE") or mode or "token"
    if chosen == "token" and not (os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")):
        path = Path.home() / ".ray" / "auth_token"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(secrets.token_hex(32))
    # Ray reads the variable once, when it is imported; set later, it would no more see it unset and enable the token by itself.
    if "ray" not in sys.modules:
        os.environ["RAY_AUTH_MODE"] = chosen
    return chosen


def _start(settings: Settings, num_cpus: int | None) -> Head:
    auth_mode = prepare_authentication()
    port, dashboard_port, agent_port, client_port = _free_ports([settings.ray_port, settings.dashboard_port, 0, 0])
    log = settings.home / "logs" / "ray-head.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"),
        *("--node-ip-address", "127.0.0.1", "--port", str(port), "--ray-client-server-port", str(client_port)),
        *("--include-dashboard", "true", "--dashboard-host", "127.0.0.1", "--dashboard-port", str(dashboard_port)),
        *("--dashboard-agent-listen-port", str(agent_port)),
        *("--num-cpus", str(num_cpus or os.cpu_count() or 1)),
    ]
    environment = {
        **os.environ,
        **serve_environment(settings),
        **settings.as_environment(),
        MARK: str(settings.home),
        "RAY_AUTH_MODE": auth_mode,
        # A job's entry point says `python`: it has to be this one, also where nobody activated the environment.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "PYTHONUNBUFFERED": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        # Progress bars and warnings of worker processes belong in their logs.
        "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
        "RAY_DEDUP_LOGS": "1",
    }
    # A head must not inherit the address of another cluster.
    for name in ("RAY_ADDRESS", "RAY_JOB_CONFIG_JSON_ENV_VAR"):
        environment.pop(name, None)
    process = _spawn_detached(command, environment, log)
    try:
        head = Head(
            pid=process.pid,
            started_at_s=process.create_time(),
            address=f"127.0.0.1:{port}",
            dashboard_url=f"http://127.0.0.1:{dashboard_port}",
            auth_mode=auth_mode,
            log=str(log),
        )
        # Recorded before it is up: a kill right now must leave something to find it by.
        write_text_atomic(_record(settings), json.dumps(asdict(head), indent=2) + "\n")
        _wait_until_up(process, head)
    except BaseException:
        end_processes(head_processes(settings))
        _record(settings).unlink(missing_ok=True)
        raise
    return head


def _spawn_detached(command: list[str], environment: dict[str, str], log: Path) -> psutil.Process:
    """Start a process in a session of its own that may outlive this one; its output is appended to ``log``."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(log), flags, 0o644),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    return psutil.Process(os.posix_spawn(command[0], command, environment, file_actions=actions, setsid=True))


def _wait_until_up(process: psutil.Process, head: Head) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    host, _, port = head.address.rpartition(":")
    while time.monotonic() < deadline:
        if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
            raise ClusterError(f"the Ray head ended at once; see {head.log}: {_last_line(head.log)}")
        if _accepts(host, int(port)) and _answers(head.dashboard_url):
            return
        time.sleep(0.2)
    raise ClusterError(f"the Ray head did not come up within {START_TIMEOUT_S:.0f} s; see {head.log}: {_last_line(head.log)}")


@contextmanager
def _lock(settings: Settings) -> Iterator[None]:
    """One command at a time starts or stops the head of a home."""
    settings.home.mkdir(parents=True, exist_ok=True)
    with (settings.home / "head.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _record(settings: Settings) -> Path:
    return settings.home / "head.json"


def _free_ports(wanted: list[int]) -> list[int]:
    """Each wanted port if nothing holds it, else (or for 0) a free one; all different."""
    sockets = []
    try:
        for port in wanted:
            listener = socket.socket()
            # A port whose last connections are still winding down is free for a new listener.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sockets.append(listener)
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                listener.bind(("127.0.0.1", 0))
        return [listener.getsockname()[1] for listener in sockets]
    finally:
        for listener in sockets:
            listener.close()


def _accepts(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=1.0):
            return True
    except OSError:
        return False


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/api/version", timeout=2.0):
            return True
    except urllib.error.HTTPError:
        return True  # it asks for the token: it is up
    except OSError:
        return False


def _last_line(path: str) -> str:
    lines = [line for line in Path(path).read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else "(nothing was printed)"
