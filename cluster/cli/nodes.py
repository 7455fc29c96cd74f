"""``gaitway cluster up | status | down``: our own Ray head on this machine, with worker nodes beside it when they are asked for."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Annotated, Any

import psutil
import typer

from cluster.cli.output import JsonOption, print_json, print_table, say
from cluster.errors import UsageError
from cluster.settings import Settings

if TYPE_CHECKING:
    from cluster.runtime.nodes import NodeStatus

__all__ = ["app"]

app = typer.Typer(help="Start, look at and stop our own Ray cluster on this machine.", no_args_is_help=True)


@app.command()
def up(
    num_cpus: Annotated[int | None, typer.Option(min=1, help="CPUs that a head without worker nodes offers; default: all")] = None,
    local_nodes: Annotated[int | None, typer.Option(min=1, help="worker nodes beside a head that does no work; default: none")] = None,
    cpus_per_node: Annotated[int | None, typer.Option(min=1, help="CPUs that each worker node offers; default: an equal share")] = None,
    json_: JsonOption = False,
) -> None:
    """Start the head, or find the one that runs; with --local-nodes, bring up that many worker nodes as well."""
    from dataclasses import asdict

    from cluster.runtime.head import ensure_head
    from cluster.runtime.nodes import LocalNode, ensure_local_nodes

    if local_nodes is None and cpus_per_node is not None:
        raise UsageError("--cpus-per-node is for worker nodes: give --local-nodes too, or --num-cpus for the head")
    if local_nodes is not None and num_cpus is not None:
        raise UsageError("with --local-nodes the head offers no CPUs: give --cpus-per-node instead of --num-cpus")
    settings = Settings.from_environment()
    nodes: list[LocalNode] = []
    if local_nodes is None:
        head = ensure_head(settings, num_cpus)
    else:
        head, nodes = ensure_local_nodes(settings, local_nodes, cpus_per_node)
    if json_:
        print_json(asdict(head) | ({"nodes": [asdict(node) for node in nodes]} if nodes else {}))
        return
    typer.echo(head.dashboard_url)
    say(f"Ray at {head.address}, authentication: {head.auth_mode}; stop it with `gaitway cluster down`")
    if nodes:
        say(f"{len(nodes)} worker nodes with {nodes[0].num_cpus} CPUs each; look at them with `gaitway cluster status`")
    say(f"submit with: RAY_AUTH_MODE={head.auth_mode} ray job submit --address {head.dashboard_url} --working-dir . -- python -m ...")


@app.command()
def status(json_: JsonOption = False) -> None:
    """Show every node, dead ones included, and every process that belongs to them."""
    from dataclasses import asdict

    from cluster.runtime.head import find_head, head_processes
    from cluster.runtime.nodes import cluster_nodes, local_nodes, node_of

    settings = Settings.from_environment()
    head = find_head(settings)
    nodes, recorded = cluster_nodes(settings), local_nodes(settings)
    processes: list[dict[str, Any]] = []
    for process in head_processes(settings):
        with contextlib.suppress(psutil.NoSuchProcess):  # ended meanwhile
            memory_mib = process.memory_info().rss >> 20
            processes.append({"pid": process.pid, "name": process.name(), "node": node_of(process, recorded), "memory_mib": memory_mib})
    if json_:
        print_json({"head": asdict(head) if head else None, "nodes": [asdict(node) for node in nodes], "processes": processes})
        return
    if head:
        say(f"Ray at {head.address}, dashboard {head.dashboard_url}")
    if nodes:
        columns = ["node", "name", "role", "address", "", "CPUs", "pid"]
        print_table(columns, [_node_row(node) for node in nodes], "")
        typer.echo()
    rows = [[item["pid"], item["name"], item["node"], item["memory_mib"]] for item in processes]
    print_table(["pid", "process", "node", "MiB"], rows, "no head runs here; start one with `gaitway cluster up`")


@app.command()
def down(json_: JsonOption = False) -> None:
    """Stop the head, its worker nodes and everything that they started, HAProxy included."""
    from cluster.runtime.head import stop_head

    ended = stop_head(Settings.from_environment())
    if json_:
        print_json({"ended_processes": ended})
    else:
        say(f"stopped {ended} processes" if ended else "nothing was running")


def _node_row(node: NodeStatus) -> list[Any]:
    state, cpus = "alive" if node.alive else "dead", f"{node.cpus_used or 0:g}/{node.cpus_total:g}"
    return [node.id[:12], node.name, node.role, node.address, state, cpus, node.pid]
