"""Which datasets there are, and what each is: what ``gaitway dataset ls`` and ``gaitway dataset info`` show."""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import Any

from cluster.lerobot.errors import DatasetError
from cluster.lerobot.features import INDEX_FEATURES
from cluster.lerobot.folder import compute_digest
from cluster.lerobot.info import DatasetInfo, load_info
from cluster.lerobot.layout import INFO_PATH, STATS_PATH
from cluster.runtime.served import SERVED
from cluster.settings import Settings
from trainables.datasets.quality.store import load_letter
from trainables.datasets.versions import datasets_folder, latest_version

__all__ = ["dataset_info", "find_dataset", "list_datasets", "verify_dataset"]


def list_datasets(settings: Settings) -> list[dict[str, Any]]:
    """Versions of named datasets, those of the run folders and the served ones, in that order, by name.

    One that cannot be read says so under ``problem``.
    """
    versions = sorted(path.parents[1] for path in datasets_folder(settings).glob(f"*/v[1-9]*/{INFO_PATH}"))
    versions.sort(key=lambda path: (path.parent.name, len(path.name), path.name))
    of_runs = sorted(path.parents[1] for path in settings.experiments_path.glob(f"*/*data/{INFO_PATH}"))
    served = sorted(path.parents[1] for path in (settings.shared_path / SERVED).glob(f"*/[!.]*/{INFO_PATH}"))
    return [
        *(_summary(settings, path, f"{path.parent.name}/{path.name}") for path in versions),
        *(_summary(settings, path, f"{path.parent.name}/{path.name}") for path in of_runs),
        *(_summary(settings, path, f"{SERVED}/{path.parent.name}/{path.name}") for path in served),
    ]


def find_dataset(settings: Settings, name: str) -> Path:
    """Folder of a dataset given by path, as ``name`` (the latest version) or ``name/v2``, as ``<run>/data`` or ``served/<policy>/<name>``.

    Raises:
        DatasetError: nothing there; names the nearest known one.
    """
    latest = latest_version(settings, name)
    candidates = [Path(name), datasets_folder(settings) / name, settings.experiments_path / name, settings.shared_path / name]
    for path in [*candidates[:1], *([latest.path] if latest else []), *candidates[1:]]:
        if (path / INFO_PATH).is_file():
            return path.resolve()
    if (Path(name) / "meta").is_dir():
        return Path(name).resolve()  # a dataset with something missing: reading it says what
    known = [entry["name"] for entry in list_datasets(settings)]
    near = difflib.get_close_matches(name, [*known, *(label.partition("/")[0] for label in known)], n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known) or 'none yet'}"
    raise DatasetError(f"no dataset {name!r}, neither as a folder nor in {datasets_folder(settings)}; {hint}")


def dataset_info(settings: Settings, path: str | Path) -> dict[str, Any]:
    """All that the metadata say, JSON-able.

    Raises:
        DatasetError: the folder is no readable LeRobot v3.0 dataset.
    """
    info = load_info(path)
    episodes_of = {task: sum(task in episode.tasks for episode in info.episodes) for task in info.tasks}
    return {
        **_described(settings, info, _name(settings, info.path)),
        "codebase_version": info.version,
        "fps": info.fps,
        "episodes_by_task": episodes_of,
        "features": {name: feature.to_json() for name, feature in info.features.items()},
        "statistics": _statistics(info),
        "split": {name: len(indices) for name, indices in info.splits.items()},
        "missing_videos": [str(video.relative_to(info.path)) for video in info.missing_videos],
        "lineage": info.gaitway.get("lineage"),
    }


def verify_dataset(path: str | Path) -> str:
    """Compute the digest of what is in the files and return it.

    Raises:
        DatasetError: it is not the recorded one: a value has changed since the dataset was written.
    """
    info = load_info(path)
    digest = compute_digest(path)
    if info.digest is not None and digest != info.digest:
        raise DatasetError(f"{path}: its values have the digest {digest[:12]}, {info.digest[:12]} was written; import or collect it again")
    return digest


def _summary(settings: Settings, path: Path, name: str) -> dict[str, Any]:
    try:
        return _described(settings, load_info(path), name)
    except DatasetError as error:
        return {"name": name, "path": str(path), "problem": str(error)}


def _name(settings: Settings, path: Path) -> str:
    for folder in (datasets_folder(settings), settings.experiments_path, settings.shared_path):
        if path.resolve().is_relative_to(folder.resolve()):
            return str(path.resolve().relative_to(folder.resolve()))
    return path.name


def _described(settings: Settings, info: DatasetInfo, name: str) -> dict[str, Any]:
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
        "grade": load_letter(settings, info.digest),
    }


def _statistics(info: DatasetInfo) -> dict[str, Any]:
    """``stats.json`` of the dataset's own features; empty where it is missing: nothing else depends on it."""
    try:
        statistics = json.loads((info.path / STATS_PATH).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    index = {feature.name for feature in INDEX_FEATURES}
    return {name: values for name, values in statistics.items() if name in info.features and name not in index}
