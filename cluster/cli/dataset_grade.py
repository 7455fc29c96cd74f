"""``gaitway dataset grade``: letters and reasons for every episode, a page, an exit code for CI."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated, Any

import typer

from cluster.cli.output import AddressOption, JsonOption, print_json, print_table, say
from cluster.config import parse_config
from cluster.settings import Settings

__all__ = ["grade"]

STAGE, TEXT = "trainables.grade", "trainables.datasets.quality.text"


def grade(
    dataset: Annotated[str, typer.Argument(help="dataset folder or file, or its name in `dataset ls`")],
    min_grade: Annotated[str | None, typer.Option("--min-grade", help="exit with code 1 below this grade: A, B, C or D")] = None,
    html: Annotated[Path | None, typer.Option("--html", help="also write a page with plots, the worst episodes first")] = None,
    limits: Annotated[Path | None, typer.Option("--limits", help="YAML of joint: [low, high] in the dataset's unit")] = None,
    robot: Annotated[str | None, typer.Option("--robot", help="robot whose joints and limits hold; default: as the dataset says")] = None,
    format_: Annotated[str | None, typer.Option("--format", help="format of the dataset; default: recognised")] = None,
    mapping: Annotated[Path | None, typer.Option(help="YAML that names topics and fields of an MCAP file or a ROS bag")] = None,
    json_: JsonOption = False,
    address: AddressOption = None,
) -> None:
    """Grade a dataset: defects that must be fixed, risks to look at, a letter from A to F for each episode and the whole."""
    given = {"dataset": dataset, "min_grade": min_grade, "robot": robot, "format": format_}
    given |= {name: str(path) if path else None for name, path in (("html", html), ("limits", limits), ("mapping", mapping))}
    config = {name: value for name, value in given.items() if value is not None}
    stage: Any = importlib.import_module(STAGE)
    parsed = parse_config(config, stage.Config, source="dataset grade")
    if address:
        from cluster.jobs import submit_config_and_follow

        raise typer.Exit(submit_config_and_follow(address, STAGE, config, "dataset-grade", json_))
    from cluster.logs import captured_output, terminal_stream
    from cluster.progress import Progress

    settings = Settings.from_environment()
    with terminal_stream() as stream, captured_output(settings.home / "logs" / "dataset-grade.log"):
        found = stage.grade_dataset(parsed, settings, Progress(stream, "json" if json_ else "auto"), html)
    words: Any = importlib.import_module(TEXT)
    problem = words.below(found, min_grade) if min_grade else None
    if json_:
        print_json(found.model_dump(mode="json"))
    else:
        _show(found, words, html)
    if problem:
        say(f"error: {problem}")
    if not json_:
        say(_next(dataset, found, html, min_grade if problem else None))
    if problem:
        raise typer.Exit(1)


def _show(found: Any, words: Any, html: Path | None) -> None:
    typer.echo(words.headline(found))
    for line in words.summary_lines(found) or ["nothing found"]:
        typer.echo(line)
    rows = words.worst_rows(found)
    if rows:
        print_table(["episode", "grade", "task", "why"], rows, "")
    if html:
        typer.echo(str(html))


def _next(dataset: str, found: Any, html: Path | None, wanted: str | None) -> str:
    """What to type now."""
    out = len(found.episodes) - len(found.kept(wanted or "C"))
    if 0 < out < len(found.episodes):
        what = f"below {wanted}" if wanted else "with defects"
        return f"leave out the {out} {what}: gaitway dataset filter {dataset} --min-grade {wanted or 'C'}"
    if found.digest is None:
        return f"keep it, with its grade, as a named dataset: gaitway dataset import {dataset}"
    return f"look at it with: gaitway dataset {'info' if html else 'grade'} {dataset}{'' if html else ' --html quality.html'}"
