"""``gaitway dataset collect | import | ls | info``."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated, Any

import typer

from cluster.cli.output import JsonOption, SetOption, print_json, print_table, say
from cluster.settings import Settings

__all__ = ["app"]

app = typer.Typer(help="Collect, import and look at datasets.", no_args_is_help=True)

CATALOGUE = "trainables.datasets.catalogue"


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


@app.command("import")
def import_(
    motion: Annotated[Path, typer.Argument(help="motion file: AWD JSON or DeepMimic text")],
    robot: Annotated[str, typer.Option(help="robot that shall follow it")] = "pidog",
    name: Annotated[str | None, typer.Option(help="name of the dataset; default: the file's")] = None,
    episodes: Annotated[int, typer.Option(min=2, help="episodes to record")] = 16,
    json_: JsonOption = False,
) -> None:
    """Retarget a motion to a robot, play it on physics, and keep it as a dataset."""
    from cluster.logs import captured_output, terminal_stream
    from cluster.progress import Progress

    collector: Any = importlib.import_module("trainables.collect")
    settings = Settings.from_environment()
    with terminal_stream() as stream, captured_output(settings.home / "logs" / "dataset-import.log"):
        progress = Progress(stream, "json" if json_ else "auto")
        result = collector.import_motion(settings, motion, robot=robot, name=name, episodes=episodes, progress=progress)
    if json_:
        print_json(result)
        return
    typer.echo(result["dataset"])
    say(f"look at it with: gaitway dataset info {result['dataset']}")


@app.command("ls")
def list_(json_: JsonOption = False) -> None:
    """List the datasets of this home."""
    found = importlib.import_module(CATALOGUE).list_datasets(Settings.from_environment())
    if json_:
        print_json(found)
        return
    columns = ["name", "robot", "episodes", "frames", "duration_s", "digest", "problem"]
    rows = [[_short(item.get(column)) for column in columns] for item in found]
    print_table(columns, rows, "no dataset yet; make one with `gaitway dataset import MOTION --robot pidog`")


@app.command()
def info(dataset: Annotated[str, typer.Argument(help="dataset folder, or its name in `dataset ls`")], json_: JsonOption = False) -> None:
    """Show a dataset's features, episodes, split, digest and lineage; videos that are missing are named."""
    catalogue: Any = importlib.import_module(CATALOGUE)
    found = catalogue.dataset_info(catalogue.find_dataset(Settings.from_environment(), dataset))
    if json_:
        print_json(found)
        return
    features = found.pop("features", {})
    print_table(["", "value"], [[key, _short(value)] for key, value in found.items() if value not in (None, [], {})], "")
    rows = [[name, *(_short(feature.get(key)) for key in ("dtype", "shape", "names"))] for name, feature in features.items()]
    print_table(["feature", "dtype", "shape", "names"], rows, "no features")


def _short(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)) and len(value) > 6:
        return f"{', '.join(map(str, value[:5]))}, … ({len(value)})"
    return str(value)
