"""``gaitway cluster up | status | down``: our own Ray head on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from cluster.cli.output import JsonOption, print_json, print_table, say
from cluster.settings import Settings

__all__ = ["app"]

app = typer.Typer(help="Start, look at and stop our own Ray head on this machine.", no_args_is_help=True)


@app.command()
def up(num_cpus: Annotated[int | None, typer.Option(min=1, help="CPUs to offer; default: all")] = None, json_: JsonOption = False) -> None:
    """Start the head, or find the one that runs."""
    from dataclasses import asdict

    from cluster.runtime.head import ensure_head

    head = ensure_head(Settings.from_environment(), num_cpus)
    if json_:
        print_json(asdict(head))
        return
    typer.echo(head.dashboard_url)
    say(f"Ray at {head.address}, authentication: {head.auth_mode}; stop it with `gaitway cluster down`")
    say(f"submit with: RAY_AUTH_MODE={head.auth_mode} ray job submit --address {head.dashboard_url} --working-dir . -- python -m ...")


@app.command()
def status(json_: JsonOption = False) -> None:
    """Show the head and every process that belongs to it."""
    from dataclasses import asdict

    from cluster.runtime.head import find_head, head_processes

    settings = Settings.from_environment()
    head = find_head(settings)
    processes = [
        {"pid": process.pid, "name": process.name(), "memory_mib": process.memory_info().rss >> 20} for process in head_processes(settings)
    ]
    if json_:
        print_json({"head": asdict(head) if head else None, "processes": processes})
        return
    if head:
        say(f"Ray at {head.address}, dashboard {head.dashboard_url}")
    rows = [[item["pid"], item["name"], item["memory_mib"]] for item in processes]
    print_table(["pid", "process", "MiB"], rows, "no head runs here; start one with `gaitway cluster up`")


@app.command()
def down(json_: JsonOption = False) -> None:
    """Stop the head and everything that it started, HAProxy included."""
    from cluster.runtime.head import stop_head

    ended = stop_head(Settings.from_environment())
    if json_:
        print_json({"ended_processes": ended})
    else:
        say(f"stopped {ended} processes" if ended else "nothing was running")
