"""What a LeRobot v3.0 folder says about itself, ours or anybody's."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from cluster.lerobot.errors import DatasetError
from cluster.lerobot.features import Feature
from cluster.lerobot.layout import ABOUT, EPISODES_FOLDER, GAITWAY_PATH, INFO_PATH, TASKS_PATH
from cluster.lerobot.parquet import open_parquet
from cluster.lerobot.videos import VideoClip

__all__ = ["DatasetInfo", "EpisodeInfo", "file_inside", "load_info", "recorded_digest"]


@dataclass(frozen=True)
class EpisodeInfo:
    """One row of the episodes table."""

    index: int
    length: int
    tasks: tuple[str, ...]
    data_file: Path
    from_index: int
    to_index: int
    about: Mapping[str, Any] = field(default_factory=dict)
    """What else is known of it, where it was written so (``Episode.about``)."""
    videos: Mapping[str, VideoClip] = field(default_factory=dict)
    """Its clip of each video feature that the metadata name."""


@dataclass(frozen=True)
class DatasetInfo:
    """A dataset without its frames."""

    path: Path
    version: str
    robot_type: str
    fps: float
    features: dict[str, Feature]
    """All features, videos and index columns included."""
    tasks: tuple[str, ...]
    """Task strings by task index."""
    episodes: tuple[EpisodeInfo, ...]
    missing_videos: tuple[Path, ...]
    """Videos that the metadata name and that are not there; the numeric columns can be read all the same."""
    gaitway: Mapping[str, Any]
    """``meta/gaitway.json``: task, task_config, robot, digest, lineage, split; empty for a dataset from elsewhere."""

    @property
    def num_episodes(self) -> int:
        """Number of episodes."""
        return len(self.episodes)

    @property
    def num_frames(self) -> int:
        """Number of frames."""
        return sum(episode.length for episode in self.episodes)

    @property
    def digest(self) -> str | None:
        """Digest that was recorded when it was written; None for a dataset from elsewhere."""
        return self.gaitway.get("digest")

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the numeric columns in the data files: every feature but videos and images."""
        return tuple(name for name, feature in self.features.items() if not feature.is_visual)

    @property
    def splits(self) -> dict[str, tuple[int, ...]]:
        """Recorded split; a dataset without one is all ``train``."""
        split = self.gaitway.get("split") or {"train": [episode.index for episode in self.episodes], "validation": []}
        return {name: tuple(indices) for name, indices in split.items()}

    def select(self, split: str | None = None, episodes: Sequence[int] | None = None) -> list[EpisodeInfo]:
        """Episodes of a split, or by index; both: those in both; neither: all.

        Raises:
            DatasetError: there is no such split or episode.
        """
        chosen = {episode.index for episode in self.episodes}
        if split is not None:
            if split not in self.splits:
                raise DatasetError(f"{self.path}: no split {split!r}; there are: {', '.join(self.splits)}")
            chosen &= set(self.splits[split])
        if episodes is not None:
            unknown = sorted(set(episodes) - {episode.index for episode in self.episodes})
            if unknown:
                raise DatasetError(f"{self.path}: no episode {unknown[0]}; it has 0 to {self.num_episodes - 1}")
            chosen &= set(episodes)
        return [episode for episode in self.episodes if episode.index in chosen]

    def check_columns(self, columns: Sequence[str] | None) -> list[str]:
        """The columns to read; None: all. Raises ``DatasetError`` for one that is not there or is a video."""
        if columns is None:
            return list(self.columns)
        for name in columns:
            if name not in self.features:
                raise DatasetError(f"{self.path}: no column {name!r}; it has: {', '.join(self.columns)}")
            if name not in self.columns:
                raise DatasetError(f"{self.path}: {name!r} is a {self.features[name].dtype}, which is not read as numbers")
        return list(columns)


def load_info(path: str | Path) -> DatasetInfo:
    """Read the metadata of a LeRobot v3.0 folder.

    Raises:
        DatasetError: it is none, is another version, or its metadata or data files are missing or unreadable.
    """
    path = Path(path)
    info = _read_json(path, INFO_PATH)
    version = str(info.get("codebase_version", "missing"))
    if not version.startswith("v3."):
        raise DatasetError(f"{path}: codebase_version is {version}; v3.0 is read (LeRobot converts older ones)")
    try:
        fps, template, entries = float(info["fps"]), str(info["data_path"]), dict(info["features"])
    except (KeyError, TypeError, ValueError):
        raise DatasetError(f"{path / INFO_PATH}: needs fps, data_path and features") from None
    if not fps > 0:
        raise DatasetError(f"{path / INFO_PATH}: fps is {fps}; it must be above 0")
    features = {name: Feature.from_json(name, entry, str(path / INFO_PATH)) for name, entry in entries.items()}
    episodes = _episodes(path, _episode_rows(path), template, _video_templates(features, info))
    return DatasetInfo(
        path=path,
        version=version,
        robot_type=str(info.get("robot_type") or ""),
        fps=fps,
        features=features,
        tasks=_tasks(path),
        episodes=episodes,
        missing_videos=_missing_videos(episodes),
        gaitway=_read_json(path, GAITWAY_PATH) if (path / GAITWAY_PATH).exists() else {},
    )


def recorded_digest(path: Path) -> str | None:
    """The digest that was recorded when the folder was written, without reading anything else; None for a dataset from elsewhere."""
    digest: str | None = _read_json(path, GAITWAY_PATH).get("digest") if (path / GAITWAY_PATH).exists() else None
    return digest


def _read_json(path: Path, name: str) -> dict[str, Any]:
    try:
        data = json.loads((path / name).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise DatasetError(f"{path}: not a LeRobot v3.0 dataset: {name} is missing") from None
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path / name}: not readable JSON: {' '.join(str(error).split())[:120]}") from None
    if not isinstance(data, dict):
        raise DatasetError(f"{path / name}: holds a JSON {type(data).__name__}; an object is wanted")
    return data


def _episode_rows(path: Path) -> list[dict[str, Any]]:
    files = sorted((path / EPISODES_FOLDER).glob("chunk-*/file-*.parquet"))
    if not files:
        raise DatasetError(f"{path}: not a LeRobot v3.0 dataset: {EPISODES_FOLDER} holds no parquet file")
    rows: list[dict[str, Any]] = []
    for file in files:
        with open_parquet(file) as parquet:
            names = [name for name in parquet.schema_arrow.names if not name.startswith("stats/")]
            rows += parquet.read(columns=names).to_pylist()
    return sorted(rows, key=lambda row: row["episode_index"])


def _episodes(path: Path, rows: Sequence[dict[str, Any]], template: str, videos: Mapping[str, str]) -> tuple[EpisodeInfo, ...]:
    episodes = []
    for row in rows:
        try:
            data_file = file_inside(path, template, chunk_index=row["data/chunk_index"], file_index=row["data/file_index"])
            episode = EpisodeInfo(
                row["episode_index"],
                row["length"],
                tuple(row["tasks"]),
                data_file,
                row["dataset_from_index"],
                row["dataset_to_index"],
                {name.removeprefix(ABOUT): value for name, value in row.items() if name.startswith(ABOUT)},
                _clips(path, row, videos),
            )
        except (KeyError, IndexError, TypeError) as error:
            raise DatasetError(f"{path / EPISODES_FOLDER}: an episode's row lacks {error}") from None
        episodes.append(episode)
    for file in dict.fromkeys(episode.data_file for episode in episodes):
        if not file.is_file():
            raise DatasetError(f"{path}: the data file {file.relative_to(path)} is missing")
    return tuple(episodes)


def _tasks(path: Path) -> tuple[str, ...]:
    # The task is the pandas index, whose column has been called both ``task`` and ``__index_level_0__``.
    with open_parquet(path / TASKS_PATH) as parquet:
        rows = parquet.read().to_pylist()
    found = {row["task_index"]: next((value for key, value in row.items() if key != "task_index"), "") for row in rows}
    return tuple(str(found[index]) for index in sorted(found))


@lru_cache(maxsize=4096)
def file_inside(folder: Path, template: str, **places: Any) -> Path:
    """The file that a path template of the metadata names.

    Raises:
        DatasetError: it would lie outside the folder: metadata that somebody else wrote must not make us read other files.
    """
    try:
        name = template.format(**places)
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        raise DatasetError(f"{folder / INFO_PATH}: the path {template!r} cannot be filled in with {', '.join(places)}: {error}") from None
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise DatasetError(f"{folder / INFO_PATH}: the path {name!r} leads out of the dataset's folder; only files inside it are read")
    return folder / name


def _video_templates(features: Mapping[str, Feature], info: Mapping[str, Any]) -> dict[str, str]:
    template = info.get("video_path")
    return {name: str(template) for name, feature in features.items() if feature.dtype == "video" and template}


def _clips(path: Path, row: Mapping[str, Any], templates: Mapping[str, str]) -> dict[str, VideoClip]:
    clips = {}
    for key, template in templates.items():
        prefix = f"videos/{key}"
        if None in (row.get(f"{prefix}/chunk_index"), row.get(f"{prefix}/file_index")):
            continue
        file = file_inside(path, template, video_key=key, chunk_index=row[f"{prefix}/chunk_index"], file_index=row[f"{prefix}/file_index"])
        start, end = row.get(f"{prefix}/from_timestamp") or 0.0, row.get(f"{prefix}/to_timestamp") or 0.0
        clips[key] = VideoClip(file, start, end)
    return clips


def _missing_videos(episodes: Sequence[EpisodeInfo]) -> tuple[Path, ...]:
    named = dict.fromkeys(clip.file for key in _video_keys(episodes) for episode in episodes if (clip := episode.videos.get(key)))
    return tuple(file for file in named if not file.is_file())


def _video_keys(episodes: Sequence[EpisodeInfo]) -> list[str]:
    return list(dict.fromkeys(key for episode in episodes for key in episode.videos))
