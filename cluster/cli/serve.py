"""``gaitway serve up | status | down``: the policy endpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cluster.cli.output import JsonOption, SetOption, print_json, print_table, say
from cluster.settings import Settings

__all__ = ["app"]

app = typer.Typer(help="Start, look at and stop the policy endpoint.", no_args_is_help=True)


@app.command()
def up(
    config: Annotated[Path, typer.Argument(help="serve configuration")] = Path("configs/serve/local.yaml"),
    set_: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Bring the endpoint up, or make a running one follow the configuration and the registry."""
    from cluster.config import load_config
    from cluster.progress import Progress
    from cluster.runtime.serve_config import ServeConfig
    from cluster.runtime.serving import serve_up

    resolved = load_config(config, ServeConfig, set_ or ())
    with Progress(mode="json" if json_ else "auto").task("serve") as task:
        status = serve_up(Settings.from_environment(), resolved, say=lambda text: task.update(message=text))
        task.update(message=status["url"])
    _show(status, json_)


@app.command()
def status(json_: JsonOption = False) -> None:
    """Show what is being served; exit code 1 when nothing is."""
    from cluster.runtime.serving import serve_status

    found = serve_status(Settings.from_environment())
    _show(found, json_)
    if not found["running"]:
        raise typer.Exit(1)


@app.command()
def down(json_: JsonOption = False) -> None:
    """Take the endpoint down, HAProxy included; the Ray head stays (`gaitway cluster down` ends it too)."""
    from cluster.runtime.serving import serve_down

    result = serve_down(Settings.from_environment())
    if json_:
        print_json(result)
    else:
        say("the endpoint is down" if result["was_running"] else "nothing was being served")


def _show(status: dict[str, Any], json_: bool) -> None:
    if json_:
        print_json(status)
        return
    if not status["running"]:
        say(status["message"] or "nothing is being served")
        return
    typer.echo(status["url"])
    rows = [[replica["replica"], replica["state"], replica["pid"]] for replica in status.get("replicas", [])]
    print_table(["replica", "state", "pid"], rows, "no replica")
    say(f'list what it serves: curl -s {status["url"]}/v1/policies -H "Authorization: Bearer $(cat {status["token_file"]})"')
