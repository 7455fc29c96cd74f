"""``gaitway quickstart`` and ``gaitway pipeline run | status | resume``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cluster.cli.output import AddressOption, JsonOption, SetOption, print_json, print_table, say
from cluster.errors import UsageError
from cluster.settings import Settings

__all__ = ["app", "quickstart"]

app = typer.Typer(help="Run a motion to a live policy, stage by stage.", no_args_is_help=True)

QUICKSTART = Path("configs/pipelines/quickstart.yaml")
NewOption = Annotated[bool, typer.Option("--new", help="start a new run folder instead of continuing the latest")]


def quickstart(json_: JsonOption = False, new: NewOption = False) -> None:
    """The whole path on PiDog, in minutes: motion, imitation, sweep, export, live comparison, verdict."""
    run(QUICKSTART, json_=json_, new=new)


@app.command()
def run(
    config: Annotated[Path, typer.Argument(help="pipeline file, such as configs/pipelines/quickstart.yaml")],
    set_: SetOption = None,
    json_: JsonOption = False,
    new: NewOption = False,
    run_folder: Annotated[Path | None, typer.Option("--run-folder", help="continue in this run folder")] = None,
    address: AddressOption = None,
) -> None:
    """Run a pipeline; stages that are done and unchanged are skipped."""
    if address:
        from cluster.jobs import submit_and_follow

        arguments = [str(config), *(part for item in set_ or () for part in ("--set", item)), *(["--new"] if new else [])]
        raise typer.Exit(submit_and_follow(address, "cluster.pipeline", arguments, json_=json_))
    from cluster.pipeline.config import load_pipeline
    from cluster.pipeline.run_folder import RunFolder, find_run
    from cluster.pipeline.runner import require_same_pipeline, run_pipeline
    from cluster.pipeline.summary import write_summary

    settings = Settings.from_environment()
    pipeline = load_pipeline(config, set_ or ())
    found = RunFolder(run_folder) if run_folder else None if new else find_run(settings, pipeline.name)
    if found is not None:
        require_same_pipeline(pipeline, found)
    folder = found or RunFolder.create(settings, pipeline.name, str(config))
    say(f"{pipeline.name}: {folder.path}")
    results = run_pipeline(pipeline, folder, settings, mode="json" if json_ else "auto")
    text = write_summary(folder, results, settings)
    if json_:
        print_json({"run_folder": folder.path, "results": results})
    else:
        typer.echo(text)


@app.command()
def resume(
    run_folder: Annotated[Path | None, typer.Argument(help="run folder; default: the latest of all pipelines")] = None,
    json_: JsonOption = False,
) -> None:
    """Continue a run with the configuration that it was started with."""
    from cluster.pipeline.run_folder import RunFolder, list_runs

    runs = list_runs(Settings.from_environment()) if run_folder is None else [RunFolder(run_folder)]
    if not runs:
        raise UsageError("there is no pipeline run to resume; start one with `gaitway pipeline run configs/pipelines/quickstart.yaml`")
    folder = runs[-1].path
    config = folder / "config.yaml"
    if not config.is_file():
        raise UsageError(f"{folder}: was killed before its configuration was saved; run `gaitway pipeline run` with the pipeline file")
    run(config, run_folder=folder, json_=json_)


@app.command()
def status(
    run_folder: Annotated[Path | None, typer.Argument(help="run folder; default: all runs")] = None,
    json_: JsonOption = False,
) -> None:
    """Show what each stage of each run has come to."""
    from cluster.pipeline.run_folder import RunFolder, list_runs

    runs = list_runs(Settings.from_environment()) if run_folder is None else [RunFolder(run_folder)]
    described = [
        {
            "run_folder": str(run.path),
            "pipeline": run.pipeline,
            "running": run.is_locked(),
            "stages": {name: record.model_dump(mode="json") for name, record in run.stages.items()},
        }
        for run in runs
    ]
    if json_:
        print_json(described)
        return
    rows = []
    for item, run in zip(described, runs, strict=True):
        for name, record in run.stages.items():
            # A record says "running" for ever when its process was killed.
            state = "interrupted" if record.status == "running" and not item["running"] else record.status
            rows.append([run.path.name, name, state, f"{record.duration_s:.1f}", record.attempts, record.error[:80]])
    print_table(["run", "stage", "status", "seconds", "attempts", "error"], rows, "no runs yet; start one with `gaitway quickstart`")
