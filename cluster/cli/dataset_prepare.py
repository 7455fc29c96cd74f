"""``gaitway dataset import | filter | augment``: the stage ``trainables.prepare`` with a configuration of a few lines."""

from __future__ import annotations

import importlib
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from cluster.cli.output import AddressOption, JsonOption, print_json, say
from cluster.errors import UsageError
from cluster.settings import Settings

__all__ = ["augment", "filter_", "import_"]

STAGE = "trainables.prepare"

NameOption = Annotated[str | None, typer.Option("--name", help="name of the dataset; a repeated name makes its next version")]
DatasetArgument = Annotated[str, typer.Argument(help="dataset folder, or its name in `dataset ls`")]
GradeOption = Annotated[str | None, typer.Option("--min-grade", help="keep episodes of this grade or better: A, B, C or D")]


def import_(
    sources: Annotated[list[str], typer.Argument(help="files or folders: LeRobot v3.0 or v2.1, HDF5, MCAP, ROS bag, .npz, motion files")],
    name: NameOption = None,
    format_: Annotated[str | None, typer.Option("--format", help="format of the sources; default: recognised")] = None,
    mapping: Annotated[Path | None, typer.Option(help="YAML that names topics and fields of an MCAP file or a ROS bag")] = None,
    fps: Annotated[int | None, typer.Option(min=1, help="frames a second, where the format does not record them")] = None,
    robot: Annotated[str | None, typer.Option(help="robot whose joints the actions must be; a motion is retargeted to it")] = None,
    task: Annotated[str | None, typer.Option(help="what was attempted; default: as recorded")] = None,
    unit: Annotated[list[str] | None, typer.Option(help="FEATURE=UNIT where the source does not say; may be repeated")] = None,
    leave_out: Annotated[list[str] | None, typer.Option("--leave-out", help="a feature that is not taken over; may be repeated")] = None,
    min_grade: GradeOption = None,
    episodes: Annotated[int, typer.Option(min=2, help="episodes to record of a motion that is played on physics")] = 16,
    json_: JsonOption = False,
    address: AddressOption = None,
) -> None:
    """Make a dataset of recordings; a motion file is retargeted to a robot and played on physics."""
    if len(sources) == 1 and format_ is None and _is_motion(sources[0]):
        _import_motion(Path(sources[0]), robot or "pidog", name, episodes, json_)
        return
    config: dict[str, Any] = {
        "sources": [{"dataset": source, "format": format_, "mapping": str(mapping) if mapping else None, "fps": fps} for source in sources],
        "name": name or _name_of(sources[0]),
        "robot": robot or "",
        "task": task,
        "units": dict(_pair(item) for item in unit or ()),
        "leave_out": leave_out or [],
        "min_grade": min_grade,
    }
    _prepare("dataset-import", config, json_, address)


def filter_(
    dataset: DatasetArgument,
    min_grade: Annotated[str, typer.Option("--min-grade", help="keep episodes of this grade or better: A, B, C or D")],
    name: NameOption = None,
    json_: JsonOption = False,
    address: AddressOption = None,
) -> None:
    """Keep the episodes of a grade or better as a new dataset; the others are named with their reasons."""
    config = {"sources": [{"dataset": dataset}], "name": name or f"{_name_of(dataset)}_filtered", "min_grade": min_grade}
    _prepare("dataset-filter", config, json_, address)


def augment(
    dataset: DatasetArgument,
    config: Annotated[Path, typer.Option("--config", help="YAML with the variants, such as configs/datasets/augment_pidog.yaml")],
    name: NameOption = None,
    json_: JsonOption = False,
    address: AddressOption = None,
) -> None:
    """Add changed copies of a dataset's training episodes: mirrored, time-warped, noisy, delayed, relabelled."""
    try:
        augmentation = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{config}: not a readable YAML file: {' '.join(str(error).split())[:160]}") from None
    data = {"sources": [{"dataset": dataset}], "name": name or f"{_name_of(dataset)}_augmented", "augmentation": augmentation}
    _prepare("dataset-augment", data, json_, address)


def _prepare(label: str, config: dict[str, Any], json_: bool, address: str | None) -> None:
    """Run the stage here or as a job, and print where the dataset is."""
    from cluster.stage import run_stage_alone

    given = {key: value for key, value in config.items() if value not in (None, "", [], {})}
    if address:
        from cluster.jobs import submit_config_and_follow

        raise typer.Exit(submit_config_and_follow(address, STAGE, given, label, json_))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{label}.yaml"
        path.write_text(yaml.safe_dump(given, sort_keys=False), encoding="utf-8")
        run_folder, result = run_stage_alone(STAGE, path, (), None, "json" if json_ else "auto")
    if json_:
        print_json({"run_folder": str(run_folder), **result})
        return
    for key, reason in result["dropped"].items():
        say(f"left out: episode {key}: {reason}")
    for video in result["missing_videos"]:
        say(f"missing video, everything else is there: {video}")
    typer.echo(result["dataset"])
    if not result["is_new"]:
        say(f"these data are {result['version']} already; nothing was added")
    say(f"{result['episodes']} episodes, {result['frames']} frames; look at it with: gaitway dataset info {result['version']}")


def _import_motion(motion: Path, robot: str, name: str | None, episodes: int, json_: bool) -> None:
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
    say(f"look at it with: gaitway dataset info {result['version']}")


def _is_motion(source: str) -> bool:
    """A file that the motion importers would read; whether it is a good one, they say."""
    return Path(source).suffix in (".json", ".txt")


def _name_of(source: str) -> str:
    """A name for what is made of ``source``: the file's or folder's, without what a name must not have; of ``name/v2``, ``name``."""
    path = Path(source)
    stem = path.parent.name if path.name[:1] == "v" and path.name[1:].isdigit() and path.parent.name else path.stem
    return "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in stem).strip("_-") or "dataset"


def _pair(item: str) -> tuple[str, str]:
    feature, _, unit = item.partition("=")
    if not feature or not unit:
        raise UsageError(f"--unit {item!r}: write FEATURE=UNIT, such as observation.state=deg")
    return feature, unit
