"""``gaitway fleet run``: simulated robots that call the endpoint as real ones would."""

from __future__ import annotations

import importlib
from typing import Annotated, Any

import typer

from cluster.cli.output import JsonOption, SetOption, print_json, print_table, say
from cluster.config import parse_config
from cluster.progress import Progress
from cluster.settings import Settings
from cluster.stage import StageContext

__all__ = ["app"]

app = typer.Typer(help="Drive live traffic with simulated robots.", no_args_is_help=True)


@app.command()
def run(
    policy: Annotated[str, typer.Option(help="policy that the robots call")] = "pidog-run",
    robots: Annotated[int, typer.Option(min=1, help="robots at the same time")] = 8,
    episodes: Annotated[int, typer.Option(min=1, help="episodes in all")] = 64,
    url: Annotated[str | None, typer.Option(help="endpoint; default: this machine's")] = None,
    seed: Annotated[int, typer.Option(help="seed of the simulated worlds")] = 0,
    set_: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Run episodes against the endpoint and post their outcomes."""
    stage: Any = importlib.import_module("trainables.fleet")
    settings = Settings.from_environment()
    values = {"policy": policy, "robots": robots, "episodes": episodes, "seed": seed, **({"url": url} if url else {})}
    config = parse_config(values, stage.Config, set_ or (), source="fleet run")
    context = StageContext(folder=settings.experiments_path, settings=settings, progress=Progress(mode="json" if json_ else "auto"))
    result = stage.run(config, context)
    if json_:
        print_json(result)
        return
    flat = {key: value for key, value in result.items() if isinstance(value, (int, float, str))}
    print_table(["figure", "value"], [[key, f"{value:.4g}" if isinstance(value, float) else value] for key, value in flat.items()], "")
    say("see who is ahead: gaitway ab report")
