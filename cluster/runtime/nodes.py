"""A cluster of several nodes on this machine: our head, which does no work, and worker nodes as processes of their own.

As on real machines, every node is its own ``ray start`` with its own raylet, object store, agent, ports and temporary folder, and may
be killed by itself. All of them carry the head's mark (``cluster.runtime.head``), so that whatever ends the head ends them too; each also
carries its own name, so that what one killed node left behind is found and ended before it is started again.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from cluster.config import write_text_atomic
from cluster.errors import ClusterError, UsageError
from cluster.runtime.head import (
    START_TIMEOUT_S,
    Head,
    end_marked,
    ensure_head,
    find_head,
    head_lock,
    nodes_record,
    prepare_authentication,
    stop_head,
)
from cluster.runtime.processes import ProcessRecord, last_line, node_folder, spawn_detached
from cluster.settings import Settings

__all__ = ["NODE_MARK", "LocalNode", "NodeStatus", "cluster_nodes", "ensure_local_nodes", "local_nodes", "node_of"]

NODE_MARK = "GAITWAY_LOCAL_NODE"
"""Environment variable of everything that a worker node starts: the node's name."""

_PREFIX = "gaitway-"
# Ray's own share of a machine's memory for the object store and the least it accepts; and more than sweeps and pipelines ever hold.
_STORE_SHARE, _STORE_AT_LEAST, _STORE_AT_MOST = 0.3, 80 << 20, 1 << 30
# Ray's own share for tasks that ask for memory.
_MEMORY_SHARE = 0.7


@dataclass(frozen=True)
class LocalNode:
    """A worker node of ours, as it is written down."""

    index: int
    """From 1; a node that is started again keeps it."""
    name: str
    """What Ray calls it; different each time it is started."""
    pid: int
    """The ``ray start --block`` process, parent of the rest."""
    started_at_s: float
    """Its start time, seconds since the epoch; with the pid it names one process for ever."""
    num_cpus: int
    log: str
    """File with what the node printed."""

    @property
    def runs(self) -> bool:
        """Whether that very process lives."""
        return ProcessRecord(self.pid, self.started_at_s).find() is not None


@dataclass(frozen=True)
class NodeStatus:
    """One node as ``gaitway cluster status`` shows it."""

    id: str
    """Ray's id, hexadecimal; empty when Ray does not know it."""
    name: str
    role: str
    """``head`` or ``worker``."""
    address: str
    """``host:port`` of its raylet."""
    alive: bool
    cpus_used: float | None
    """None while it is dead."""
    cpus_total: float
    pid: int | None
    """Its ``ray start`` process; None when somebody else started it."""


def ensure_local_nodes(settings: Settings, count: int, cpus_per_node: int | None = None) -> tuple[Head, list[LocalNode]]:
    """Bring the number of worker nodes on this machine up to ``count``; starts the head, without CPUs, where none runs.

    Nodes that are missing or dead are started, all at once; those that run are left alone.

    Args:
        settings: where things are.
        count: worker nodes wanted, at least 1.
        cpus_per_node: what each offers; None: as those that run, or else an equal share of the machine's CPUs, at least 1.

    Returns:
        The head and all worker nodes, by index; every one is alive in the cluster's own books.

    Raises:
        UsageError: more nodes run already, or they offer another number of CPUs.
        ClusterError: a node did not come up; what this call started has been ended again.
    """
    had_head = find_head(settings) is not None
    shares = _memory_options(count)
    head = ensure_head(settings, num_cpus=0, options=("--num-gpus", "0", *shares))
    try:
        with head_lock(settings):
            if find_head(settings) != head:
                raise ClusterError("the Ray head ended while its nodes were being started; run the command again")
            return head, _start_missing(settings, head, count, cpus_per_node, shares)
    except BaseException:
        if not had_head:
            stop_head(settings)
        raise


def local_nodes(settings: Settings) -> list[LocalNode]:
    """The worker nodes that were started here, by index, whether they live or not."""
    try:
        return [LocalNode(**item) for item in json.loads(nodes_record(settings).read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError):
        return []


def cluster_nodes(settings: Settings) -> list[NodeStatus]:
    """Every node of our own cluster, the head first. A node of ours that died is among them; without a head all are dead."""
    head = find_head(settings)
    known = _known_to_ray(head) if head else []
    by_name = {item["NodeName"]: item for item in known}
    ours = [
        _status(by_name.get(node.name), name=node.name, role="worker", pid=node.pid, runs=node.runs, cpus=node.num_cpus)
        for node in local_nodes(settings)
    ]
    # The head, and what somebody else joined to it. A node of ours that was started again has another name.
    heads, others = [], []
    for item in known:
        if _is_head(item):
            heads.append(_status(item, name="head", role="head", pid=head.pid if head else None, runs=True, cpus=0))
        elif item["Alive"] and not item["NodeName"].startswith(_PREFIX):
            others.append(_status(item, name=item["NodeName"], role="worker", pid=None, runs=True, cpus=0))
    return heads + ours + others


def node_of(process: psutil.Process, nodes: Sequence[LocalNode]) -> str:
    """Name of the one of ``nodes`` that a process of the cluster belongs to; ``head`` when it is none of theirs."""
    try:
        name, session = process.environ().get(NODE_MARK), os.getsid(process.pid)
    except (psutil.Error, OSError):
        return ""  # ended meanwhile
    return name or next((node.name for node in nodes if node.pid == session), "head")


def _start_missing(settings: Settings, head: Head, count: int, cpus_per_node: int | None, shares: Sequence[str]) -> list[LocalNode]:
    recorded = local_nodes(settings)
    kept = {node.index: node for node in recorded if node.runs}
    if len(kept) > count:
        raise UsageError(f"{len(kept)} worker nodes run here, more than the {count} asked for; run gaitway cluster down first")
    offered = min((node.num_cpus for node in kept.values()), default=max(1, (os.cpu_count() or 1) // count))
    cpus = cpus_per_node or offered
    if kept and cpus != offered:
        raise UsageError(
            f"the worker nodes that run here offer {offered} CPUs each, not {cpus}; run gaitway cluster down first, "
            "or leave --cpus-per-node out"
        )
    missing = [index for index in range(1, max([count, *kept]) + 1) if index not in kept][: count - len(kept)]
    if not missing:
        return [kept[index] for index in sorted(kept)]
    # What dead nodes left behind.
    others = {"", "head", *(node.name for node in kept.values())}
    end_marked(settings, lambda process: node_of(process, recorded) not in others)
    started: list[LocalNode] = []
    try:
        for index in missing:
            started.append(_start(settings, head, index, cpus, shares))
            # Recorded before they are up: a kill right now must leave something to find them by.
            _write(settings, [*kept.values(), *started])
        _wait_until_up(head, started)
    except BaseException:
        ours = {node.name for node in started}
        end_marked(settings, lambda process: node_of(process, started) in ours)
        _write(settings, kept.values())
        raise
    return sorted([*kept.values(), *started], key=lambda node: node.index)


def _start(settings: Settings, head: Head, index: int, cpus: int, shares: Sequence[str]) -> LocalNode:
    name = f"{_PREFIX}{index}-{secrets.token_hex(3)}"
    log = settings.home / "logs" / f"ray-node-{index}.log"
    folder = node_folder(settings, index)
    shutil.rmtree(folder, ignore_errors=True)
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--address", head.address, "--block", "--disable-usage-stats"),
        *("--node-ip-address", "127.0.0.1", "--node-name", name, "--num-cpus", str(cpus)),
        # With 0 each process takes a free port by itself. Ray's defaults are one machine's: a second agent could not bind, and
        # `ray job submit` would lose its logs.
        *("--dashboard-agent-listen-port", "0", "--metrics-export-port", "0", "--runtime-env-agent-port", "0"),
        *("--node-manager-port", "0", "--object-manager-port", "0", "--min-worker-port", "0", "--max-worker-port", "0"),
        # A folder of its own, as on a machine of its own: nodes that start at the same moment take the same name for their sockets.
        *("--temp-dir", str(folder)),
        # The machine's GPUs are offered once, by the first node.
        *(() if index == 1 else ("--num-gpus", "0")),
        *shares,
    ]
    # The head's own environment: the same settings, ports, authentication and mark, whatever this command was given.
    environment = {**psutil.Process(head.pid).environ(), NODE_MARK: name}
    process = spawn_detached(command, environment, log)
    return LocalNode(index, name, process.pid, process.create_time(), cpus, str(log))


def _wait_until_up(head: Head, nodes: Sequence[LocalNode]) -> None:
    """Poll until the cluster's own books show every node alive."""
    deadline_s = time.monotonic() + START_TIMEOUT_S
    waiting = {node.name: node for node in nodes}
    while waiting:
        for node in waiting.values():
            if not node.runs:
                raise ClusterError(f"worker node {node.index} ended at once; see {node.log}: {last_line(node.log)}")
        if time.monotonic() > deadline_s:
            node = next(iter(waiting.values()))
            raise ClusterError(
                f"worker node {node.index} did not come up within {START_TIMEOUT_S:.0f} s; see {node.log}: {last_line(node.log)}"
            )
        time.sleep(0.2)
        for item in _known_to_ray(head):
            if item["Alive"]:
                waiting.pop(item["NodeName"], None)


def _known_to_ray(head: Head) -> list[dict[str, Any]]:
    """Ray's table of nodes, dead ones included, with ``Used`` CPUs: asked of the GCS itself, in milliseconds and without a driver."""
    prepare_authentication(head.auth_mode)
    from ray._private.services import _get_gcs_client_options
    from ray._private.state import GlobalState

    state = GlobalState()
    state._initialize_global_state(_get_gcs_client_options(head.address))
    try:
        nodes: list[dict[str, Any]] = state.node_table()
        available = state.available_resources_per_node()
    except Exception as error:
        raise ClusterError(f"Ray at {head.address} does not answer: {' '.join(str(error).split())[:200]}") from None
    finally:
        state.disconnect()
    for node in nodes:
        node["Used"] = node["Resources"].get("CPU", 0.0) - available.get(node["NodeID"], {}).get("CPU", 0.0)
    return nodes


def _status(item: dict[str, Any] | None, *, name: str, role: str, pid: int | None, runs: bool, cpus: float) -> NodeStatus:
    alive = runs and item is not None and bool(item["Alive"])
    return NodeStatus(
        id=item["NodeID"] if item else "",
        name=name,
        role=role,
        address=f"{item['NodeManagerAddress']}:{item['NodeManagerPort']}" if item else "",
        alive=alive,
        cpus_used=item["Used"] if alive and item else None,
        cpus_total=item["Resources"].get("CPU", 0.0) if alive and item else cpus,
        pid=pid,
    )


def _is_head(item: dict[str, Any]) -> bool:
    return "node:__internal_head__" in item["Resources"]


def _memory_options(count: int) -> tuple[str, ...]:
    """Equal shares of this machine's memory for the head and ``count`` nodes: each would take all of it for its own."""
    available = psutil.virtual_memory().available
    shared = shutil.disk_usage("/dev/shm").free if Path("/dev/shm").is_dir() else available
    store = int(min(_STORE_SHARE * available, 0.8 * shared) / (count + 1))
    store = max(_STORE_AT_LEAST, min(_STORE_AT_MOST, store))
    return ("--object-store-memory", str(store), "--memory", str(int(_MEMORY_SHARE * available / (count + 1))))


def _write(settings: Settings, nodes: Iterable[LocalNode]) -> None:
    ordered = sorted(nodes, key=lambda node: node.index)
    write_text_atomic(nodes_record(settings), json.dumps([asdict(node) for node in ordered], indent=2) + "\n")
