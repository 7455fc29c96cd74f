"""``gaitway dataset collect | import | filter | augment | export | ls | info | grade``."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated, Any

import typer

from cluster.cli.dataset_grade import grade
from cluster.cli.dataset_prepare import augment, filter_, import_
from cluster.cli.output import JsonOption, SetOption, print_json, print_table, say
from cluster.settings import Settings

__all__ = ["app"]

app = typer.Typer(help="Collect, import, grade, change and look at datasets.", no_args_is_help=True)
app.command("import")(import_)
app.command("filter")(filter_)
app.command("augment")(augment)
app.command("grade")(grade)

CATALOGUE = "trainables.datasets.catalogue"
DatasetArgument = Annotated[str, typer.Argument(help="dataset folder, or its name in `dataset ls`")]


@app.command()
def collect(
    config: Annotated[Path, typer.Argument(help="YAML configuration of the collection")], set_: SetOption = None, json_: JsonOption = False
) -> None:
    """Play expert gaits and motions on physics and write what happened as a dataset."""
    from cluster.stage import run_stage_alone

    folder, result = run_stage_alone("trainables.collect", config, set_ or (), None, "json" if json_ else "auto")
    if json_:
        print_json({"run_folder": str(folder), **result})
    else:
        typer.echo(result["dataset"])


@app.command("ls")
def list_(json_: JsonOption = False) -> None:
    """List the datasets of this home."""
    found = importlib.import_module(CATALOGUE).list_datasets(Settings.from_environment())
    if json_:
        print_json(found)
        return
    columns = ["name", "robot", "episodes", "frames", "duration_s", "grade", "digest", "problem"]
    rows = [[_short(item.get(column)) for column in columns] for item in found]
    print_table(columns, rows, "no dataset yet; make one with `gaitway dataset import FILE`")


@app.command()
def info(
    dataset: DatasetArgument,
    verify: Annotated[
        bool, typer.Option("--verify", help="compute the digest again from every value; exit code 1 when it differs")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Show a dataset's episodes, features, statistics, split, digest, grade and lineage; videos that are missing are named."""
    settings = Settings.from_environment()
    catalogue: Any = importlib.import_module(CATALOGUE)
    path = catalogue.find_dataset(settings, dataset)
    found = catalogue.dataset_info(settings, path)
    if verify:
        found["digest"] = catalogue.verify_dataset(path)
    if json_:
        print_json(found)
        return
    features, statistics = found.pop("features", {}), found.pop("statistics", {})
    lineage = found.pop("lineage", None)
    print_table(["", "value"], [[key, _short(value)] for key, value in found.items() if value not in (None, [], {})], "")
    rows = [
        [name, *(_short(feature.get(key)) for key in ("dtype", "shape", "unit")), *_range(statistics.get(name))]
        for name, feature in features.items()
    ]
    print_table(["feature", "dtype", "shape", "unit", "min", "mean", "max", "std"], rows, "no features")
    for name, feature in features.items():
        if feature.get("names") and len(feature["shape"]) == 1:
            say(f"{name}: {', '.join(feature['names'])}")
    for line in _lineage(lineage):
        typer.echo(line)
    if verify:
        say("every value is as it was written" if found["digest"] else "no digest was recorded when it was written")


@app.command()
def export(
    dataset: DatasetArgument,
    target: Annotated[Path, typer.Argument(help="file or folder to write")],
    format_: Annotated[str, typer.Option("--format", help="lerobot, hdf5, mcap or rosbag2")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace what is at the target")] = False,
    json_: JsonOption = False,
) -> None:
    """Write a dataset in another format; `dataset import` reads it back with the same digest."""
    from cluster.progress import Progress

    settings = Settings.from_environment()
    path = importlib.import_module(CATALOGUE).find_dataset(settings, dataset)
    exports: Any = importlib.import_module("trainables.datasets.exports.registry")
    source = importlib.import_module("trainables.datasets.sources.lerobot").open_lerobot(path)
    result = exports.export_dataset(source, format_, target, overwrite, Progress(mode="json" if json_ else "auto"))
    if json_:
        print_json(result)
        return
    typer.echo(str(target))
    for video in result.get("missing_videos", ()):
        say(f"missing, and named in the export: {video}")
    say(f"read it back with: gaitway dataset import {target}")


def _range(statistics: dict[str, Any] | None) -> list[str]:
    """Minimum, mean, maximum and standard deviation: of each component where they are few, else the range over the components."""
    if not statistics:
        return ["", "", "", ""]
    return [_numbers(statistics.get(key)) for key in ("min", "mean", "max", "std")]


def _numbers(values: Any) -> str:
    flat = values if isinstance(values, list) else [values]
    while flat and isinstance(flat[0], list):
        flat = [item for part in flat for item in part]
    shown = [f"{value:.4g}" if isinstance(value, (int, float)) else str(value) for value in flat]
    return ", ".join(shown) if len(shown) <= 6 else f"{min(flat):.4g} to {max(flat):.4g}"


def _lineage(lineage: dict[str, Any] | None, depth: int = 0) -> list[str]:
    """Where a dataset comes from, a line a source, back to the first."""
    if not lineage:
        return []
    indent = "  " * depth
    lines = [f"{indent}from {lineage.get('kind', 'elsewhere')}"]
    lines += [
        f"{indent}  motion {motion['name']}: {motion['file']} (sha256 {motion['sha256'][:12]})" for motion in lineage.get("motions", ())
    ]
    for source in lineage.get("sources", ()):
        known = source.get("digest") or source.get("sha256")
        lines.append(f"{indent}  {source['format']} {source['path']}" + (f" ({known[:12]})" if known else ""))
        lines += _lineage(source.get("lineage"), depth + 2)
    return lines


def _short(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)) and len(value) > 6:
        return f"{', '.join(map(str, value[:5]))}, … ({len(value)})"
    return str(value)
