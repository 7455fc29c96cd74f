"""``gaitway train``, and what starting any stage has in common: here, or as a Ray job."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cluster.cli.output import AddressOption, JsonOption, SetOption, print_json, say

__all__ = ["ConfigArgument", "RunFolderOption", "start_stage", "train_app"]

train_app = typer.Typer(help="Train one policy with PPO.", no_args_is_help=True)

ConfigArgument = Annotated[Path, typer.Argument(help="YAML configuration", show_default=False)]
RunFolderOption = Annotated[Path | None, typer.Option("--run-folder", help="continue in this run folder; default: a new one")]


@train_app.command("start")
def train_start(
    config: ConfigArgument,
    set_: SetOption = None,
    run_folder: RunFolderOption = None,
    json_: JsonOption = False,
    address: AddressOption = None,
) -> None:
    """Train one policy, such as configs/train/pidog.yaml."""
    start_stage("trainables.train", config, set_ or [], run_folder, json_, address)


def start_stage(
    stage: str, config: Path, overrides: list[str], run_folder: Path | None, json_: bool, address: str | None
) -> dict[str, Any] | None:
    """Run a stage and print where its result is; with an address as a Ray job, which ends this command with the job's exit code.

    Returns the stage's result, None when it was printed as JSON.
    """
    if address:
        from cluster.jobs import submit_and_follow

        arguments = [str(config), *(part for item in overrides for part in ("--set", item))]
        raise typer.Exit(submit_and_follow(address, stage, arguments, json_=json_))
    from cluster.stage import run_stage_alone

    folder, result = run_stage_alone(stage, config, overrides, run_folder, "json" if json_ else "auto")
    if json_:
        print_json({"run_folder": str(folder), **result})
        return None
    typer.echo(str(folder))
    say(f"policy checkpoint: {result['checkpoint']}")
    say(f"continue or repeat with: gaitway {stage.rpartition('.')[2]} start {folder / 'config.yaml'} --run-folder {folder}")
    return result
