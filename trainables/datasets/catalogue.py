"""Which datasets there are, and what each is: what ``gaitway dataset ls`` and ``gaitway dataset info`` show."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from cluster.lerobot.errors import DatasetError
from cluster.lerobot.info import DatasetInfo, load_info
from cluster.lerobot.layout import INFO_PATH
from cluster.runtime.served import SERVED
from cluster.settings import Settings

__all__ = ["dataset_info", "datasets_folder", "find_dataset", "list_datasets"]


def datasets_folder(settings: Settings) -> Path:
    """Where named datasets are kept; every node sees it."""
    return settings.shared_path / "datasets"


def list_datasets(settings: Settings) -> list[dict[str, Any]]:
    """Named datasets, those of the run folders and the served ones, in that order, by name.

    One that cannot be read says so under ``problem``.
    """
    named = sorted(path.parents[1] for path in datasets_folder(settings).glob(f"*/{INFO_PATH}"))
    of_runs = sorted(path.parents[1] for path in settings.experiments_path.glob(f"*/data/{INFO_PATH}"))
    served = sorted(path.parents[1] for path in (settings.shared_path / SERVED).glob(f"*/[!.]*/{INFO_PATH}"))
    return [
        *(_summary(path, path.name) for path in named),
        *(_summary(path, f"{path.parent.name}/data") for path in of_runs),
        *(_summary(path, f"{SERVED}/{path.parent.name}/{path.name}") for path in served),
    ]


def find_dataset(settings: Settings, name: str) -> Path:
    """Folder of a dataset given by path, by name, or as ``<run folder>/data`` or ``served/<policy>/<name>``.

    Raises:
        DatasetError: nothing there; names the nearest known one.
    """
    candidates = (Path(name), datasets_folder(settings) / name, settings.experiments_path / name, settings.shared_path / name)
    for path in candidates:
        if (path / INFO_PATH).is_file():
            return path.resolve()
    if (Path(name) / "meta").is_dir():
        return Path(name).resolve()  # a dataset with something missing: reading it says what
    known = [entry["name"] for entry in list_datasets(settings)]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known) or 'none yet'}"
    raise DatasetError(f"no dataset {name!r}, neither as a folder nor in {datasets_folder(settings)}; {hint}")


def dataset_info(path: str | Path) -> dict[str, Any]:
    """All that the metadata say, JSON-able.

    Raises:
        DatasetError: the folder is no readable LeRobot v3.0 dataset.
    """
    info = load_info(path)
    episodes_of = {task: sum(task in episode.tasks for episode in info.episodes) for task in info.tasks}
    return {
        **_described(info, Path(path).name),
        "version": info.version,
        "fps": info.fps,
        "episodes_by_task": episodes_of,
        "features": {name: feature.to_json() for name, feature in info.features.items()},
        "split": {name: len(indices) for name, indices in info.splits.items()},
        "missing_videos": [str(video.relative_to(info.path)) for video in info.missing_videos],
        "lineage": info.gaitway.get("lineage"),
    }


def _summary(path: Path, name: str) -> dict[str, Any]:
    try:
        return _described(load_info(path), name)
    except DatasetError as error:
        return {"name": name, "path": str(path), "problem": str(error)}


def _described(info: DatasetInfo, name: str) -> dict[str, Any]:
    return {
        "name": name,
        "path": str(info.path),
        "robot": info.gaitway.get("robot") or info.robot_type,
        "task": info.gaitway.get("task"),
        "episodes": info.num_episodes,
        "frames": info.num_frames,
        "duration_s": round(info.num_frames / info.fps, 3),
        "tasks": list(info.tasks),
        "digest": info.digest,
    }
