"""``gaitway sweep``: start, find, follow, stop, resume and report sweeps."""

from __future__ import annotations

import importlib
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from cluster.cli.output import AddressOption, JsonOption, SetOption, print_json, print_table, say
from cluster.cli.training import ConfigArgument, RunFolderOption, start_stage
from cluster.progress import format_duration
from cluster.settings import Settings

__all__ = ["app"]

app = typer.Typer(help="Search for the best policy over many trials.", no_args_is_help=True)

_STAGE, _OVERVIEW, _REPORT = "trainables.sweep", "trainables.sweeps.overview", "trainables.sweeps.report"
_SHOWN_TRIALS = 20
SweepArgument = Annotated[str | None, typer.Argument(help="run folder, its name or its beginning, or a storage URL; default: the newest")]


@app.command("start")
def start(
    config: ConfigArgument,
    set_: SetOption = None,
    run_folder: RunFolderOption = None,
    json_: JsonOption = False,
    address: AddressOption = None,
) -> None:
    """Run a sweep, such as configs/sweeps/pidog_asha.yaml."""
    result = start_stage(_STAGE, config, set_ or [], run_folder, json_, address)
    if result and result.get("report"):
        say(f"report: {result['report']}")


@app.command("ls")
def ls(json_: JsonOption = False) -> None:
    """List the sweeps, the newest last."""
    sweeps = importlib.import_module(_OVERVIEW).list_sweeps(Settings.from_environment())
    if json_:
        print_json(sweeps)
        return
    rows = [
        [
            sweep["name"],
            sweep["status"],
            _counts(sweep),
            f"{sweep.get('scheduler', '')} {sweep.get('searcher', '')}",
            _value(sweep.get("best_value")),
            sweep.get("metric", sweep.get("error", "")),
        ]
        for sweep in sweeps
    ]
    columns = ["sweep", "status", "trials", "scheduler, searcher", "best", "metric"]
    print_table(columns, rows, "no sweep is there yet; start one with `gaitway sweep start CONFIG`")


@app.command("status")
def status(
    sweep: SweepArgument = None,
    find: Annotated[str | None, typer.Option(help="only trials whose id, number, status or parameter=value holds this text")] = None,
    all_: Annotated[bool, typer.Option("--all", help="every trial, not only the best")] = False,
    watch: Annotated[bool, typer.Option(help="print again every few seconds until the sweep ends")] = False,
    json_: JsonOption = False,
) -> None:
    """Show how a sweep stands, the best trials first."""
    describe, settings = importlib.import_module(_OVERVIEW).describe, Settings.from_environment()
    while True:
        found = describe(settings, sweep, find)
        if json_:
            print_json(found)
        else:
            _show(found, all_ or find is not None)
        if not watch or found["status"] != "running":
            return
        time.sleep(3.0)


@app.command("stop")
def stop(sweep: SweepArgument = None, json_: JsonOption = False) -> None:
    """Ask a running sweep to stop once its trials have written their next checkpoints."""
    name = importlib.import_module(_OVERVIEW).request_stop(Settings.from_environment(), sweep)
    if json_:
        print_json({"sweep": name, "requested": True})
    say(f"{name} stops after its running trials' next checkpoints; go on later with: gaitway sweep resume {name}")


@app.command("resume")
def resume(sweep: SweepArgument = None, json_: JsonOption = False) -> None:
    """Go on with a sweep that was stopped or killed, also one of another machine by the URL of its storage."""
    folder: Path = importlib.import_module(_OVERVIEW).find_sweep(Settings.from_environment(), sweep)
    start_stage(_STAGE, folder / "config.yaml", [], folder, json_, None)


@app.command("report")
def report(
    sweep: SweepArgument = None,
    output: Annotated[Path | None, typer.Option(help="HTML file; default: report.html in the sweep's folder")] = None,
    json_: JsonOption = False,
) -> None:
    """Write the analysis as one HTML file that needs no network; with --json print it."""
    folder = importlib.import_module(_OVERVIEW).find_sweep(Settings.from_environment(), sweep)
    path, analysis = importlib.import_module(_REPORT).report(folder, output)
    if json_:
        print_json(analysis)
        say(f"also as a page: {path}")
    else:
        typer.echo(str(path))


def _show(found: dict[str, Any], everything: bool) -> None:
    done = found["progress"] / found["budget"] if found["budget"] else 0.0
    say(f"{found['name']}: {found['status']}, {_counts(found)}; {done:.0%} of the full budget, {format_duration(found['elapsed_s'])}")
    if found["best_trial"]:
        say(f"best: {found['best_trial']} with {found['metric']} {_value(found['best_value'])}")
    trials = found["trials"] if everything else found["trials"][:_SHOWN_TRIALS]
    columns = ["trial", "status", found["unit"], "best", "at", "last", *found["search_space"], "why"]
    rows = []
    for trial in trials:
        values = [_value(trial["best_value"]), trial["best_progress"], _value(trial["last_value"])]
        sample = [_value(trial["sample"].get(path)) for path in found["search_space"]]
        rows.append([trial["trial_id"], trial["status"], trial["progress"], *values, *sample, trial["error"] or trial["reason"]])
    print_table(columns, rows, "no trial matches" if found["num_trials"] else "no trial has started yet")
    if len(trials) < len(found["trials"]):
        say(f"{len(found['trials']) - len(trials)} more: --all")
    if found["status"] in ("interrupted", "stopped"):
        say(f"go on with: gaitway sweep resume {found['name']}")


def _counts(sweep: dict[str, Any]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sweep.get("trials_by_status", {}).items())


def _value(value: Any) -> str:
    return "" if value is None else f"{value:.5g}" if isinstance(value, float) else str(value)
