"""Our own Ray head on this machine: started once, found again by later commands, ended with everything it started.

Every process of the head inherits the environment variable ``GAITWAY_HEAD_OF=<home>``. That mark (or the session in which we
started it), and not a process name, tells which raylets, workers and HAProxy processes are ours: it also finds a HAProxy worker that
outlived its parent after a reload, which ``ray stop`` leaves behind holding the port.
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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from cluster.config import write_text_atomic
from cluster.errors import ClusterError
from cluster.runtime.processes import (
    ProcessRecord,
    end_processes,
    haproxy_folder,
    last_line,
    remove_node_folders,
    serve_environment,
    spawn_detached,
)
from cluster.settings import Settings

__all__ = [
    "MARK",
    "START_TIMEOUT_S",
    "Head",
    "end_marked",
    "ensure_head",
    "find_head",
    "head_lock",
    "head_processes",
    "nodes_record",
    "prepare_authentication",
    "stop_head",
]

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


def ensure_head(settings: Settings, num_cpus: int | None = None, options: Sequence[str] = ()) -> Head:
    """Return the running head of this home, or start one.

    Args:
        settings: where things are.
        num_cpus: CPUs that a head started now offers; None: all of the machine's.
        options: more options of ``ray start`` for a head started now.

    Raises:
        ClusterError: it did not come up; names the log.
    """
    with head_lock(settings):
        head = find_head(settings)
        if head is not None:
            return head
        end_marked(settings)  # what a killed head left behind would hold its ports
        nodes_record(settings).unlink(missing_ok=True)
        return _start(settings, num_cpus, options)


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
    with head_lock(settings):
        ended = end_marked(settings)
        shutil.rmtree(haproxy_folder(settings), ignore_errors=True)
        remove_node_folders(settings)
        for record in (_record(settings), nodes_record(settings)):
            record.unlink(missing_ok=True)
        return ended


def head_processes(settings: Settings) -> list[psutil.Process]:
    """Every live process of this home's head and nodes, in order of start.

    They carry the mark, or belong to the session of a recorded ``ray start``: Ray's agents and actors write their title over their
    environment, mark included, and outlive a killed raylet.
    """
    mark, leaders = str(settings.home), _session_leaders(settings)
    found = []
    for process in psutil.process_iter():
        try:
            ours = os.getsid(process.pid) in leaders or process.environ().get(MARK) == mark
            if ours and process.status() != psutil.STATUS_ZOMBIE and process.pid != os.getpid():
                found.append(process)
        except (psutil.Error, OSError):
            continue  # ended meanwhile, or another user's
    return sorted(found, key=lambda process: process.create_time())


def end_marked(settings: Settings, which: Callable[[psutil.Process], bool] = lambda process: True) -> int:
    """End the processes of this home's head and nodes that ``which`` picks; returns how many. What they start meanwhile is ended too."""
    ended = 0
    for _ in range(5):
        found = [process for process in head_processes(settings) if which(process)]
        if not found:
            break
        ended += end_processes(found)
    return ended


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


@contextmanager
def head_lock(settings: Settings) -> Iterator[None]:
    """One command at a time starts or stops the head of a home, or nodes beside it. Not to be taken twice by one process."""
    settings.home.mkdir(parents=True, exist_ok=True)
    with (settings.home / "head.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def nodes_record(settings: Settings) -> Path:
    """File with the worker nodes that belong to the head (``cluster.runtime.nodes``); it goes when the head goes."""
    return settings.home / "nodes.json"


def _start(settings: Settings, num_cpus: int | None, options: Sequence[str]) -> Head:
    auth_mode = prepare_authentication()
    port, dashboard_port, agent_port, client_port = _free_ports([settings.ray_port, settings.dashboard_port, 0, 0])
    log = settings.home / "logs" / "ray-head.log"
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"),
        *("--node-ip-address", "127.0.0.1", "--port", str(port), "--ray-client-server-port", str(client_port)),
        *("--include-dashboard", "true", "--dashboard-host", "127.0.0.1", "--dashboard-port", str(dashboard_port)),
        *("--dashboard-agent-listen-port", str(agent_port)),
        # Workers take any free port: Ray's own range, 10002 to 19999, would forbid our ports to lie there.
        *("--min-worker-port", "0", "--max-worker-port", "0"),
        *("--num-cpus", str((os.cpu_count() or 1) if num_cpus is None else num_cpus)),
        *options,
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
        # A node that is told to end would wait for its work to move elsewhere, up to 30 s.
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
    }
    # A head must not inherit the address of another cluster.
    for name in ("RAY_ADDRESS", "RAY_JOB_CONFIG_JSON_ENV_VAR"):
        environment.pop(name, None)
    process = spawn_detached(command, environment, log)
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
        end_marked(settings)
        _record(settings).unlink(missing_ok=True)
        raise
    return head


def _wait_until_up(process: psutil.Process, head: Head) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    host, _, port = head.address.rpartition(":")
    while time.monotonic() < deadline:
        if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
            raise ClusterError(f"the Ray head ended at once; see {head.log}: {last_line(head.log)}")
        if _accepts(host, int(port)) and _answers(head.dashboard_url):
            return
        time.sleep(0.2)
    raise ClusterError(f"the Ray head did not come up within {START_TIMEOUT_S:.0f} s; see {head.log}: {last_line(head.log)}")


def _session_leaders(settings: Settings) -> set[int]:
    """Pids of the recorded ``ray start`` processes, dead ones included: no pid is given away while its session has a member."""
    leaders = set()
    for path in (_record(settings), nodes_record(settings)):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            for item in content if isinstance(content, list) else [content]:
                record = ProcessRecord(int(item["pid"]), float(item["started_at_s"]))
                if record.find() is not None or not _lives(record.pid):
                    leaders.add(record.pid)
        except (OSError, ValueError, TypeError, KeyError):
            continue
    return leaders


def _lives(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


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
