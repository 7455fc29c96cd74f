"""The manifest: what a LeRobot dataset says of itself and of its episodes, as JSON inside a file of another format.

Every export carries one, so that it comes back with the names, units, element types, tasks, split and lineage that it went out with.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.lerobot.episodes import Episode
from cluster.lerobot.errors import DatasetError
from cluster.lerobot.features import Feature
from cluster.lerobot.videos import VideoClip
from trainables.datasets.sources.base import Source
from trainables.datasets.sources.limits import path_inside

__all__ = ["EpisodeEntry", "Manifest", "missing_videos", "videos_folder"]

FORMAT = "gaitway-dataset"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class EpisodeEntry:
    """What is said of one episode, and where in the file it is."""

    key: str
    task: str
    length: int
    about: Mapping[str, Any] = field(default_factory=dict)
    videos: Mapping[str, tuple[str, float, float]] = field(default_factory=dict)
    """Its clip of each video feature: path within the folder of the videos, from, to (s)."""
    split: str = ""
    origin: str = ""
    place: Mapping[str, Any] = field(default_factory=dict)
    """Of the container: a group's name, a time range."""

    @classmethod
    def of(cls, episode: Episode, videos: Mapping[Path, str], place: Mapping[str, Any]) -> EpisodeEntry:
        """Of an episode whose video files have the names ``videos`` in the export."""
        clips = {name: (videos[clip.file], clip.from_timestamp_s, clip.to_timestamp_s) for name, clip in episode.videos.items()}
        return cls(episode.key, episode.task, episode.length, dict(episode.about), clips, episode.split, episode.origin, place)

    def to_json(self) -> dict[str, Any]:
        """As in the manifest."""
        return {**self.__dict__, "videos": {name: list(clip) for name, clip in self.videos.items()}}

    def clips(self, folder: Path, file: Path) -> dict[str, VideoClip]:
        """Its clips with the files in ``folder``. Raises ``DatasetError``, naming ``file``, where one would be elsewhere."""
        return {name: VideoClip(path_inside(folder, clip[0], file), clip[1], clip[2]) for name, clip in self.videos.items()}


@dataclass(frozen=True)
class Manifest:
    """Of a dataset."""

    fps: int
    robot_type: str
    features: tuple[Feature, ...]
    gaitway: Mapping[str, Any]
    places: Mapping[str, Any] = field(default_factory=dict)
    """Where each feature is in the container: a path, or topic, type and field."""
    episodes: tuple[EpisodeEntry, ...] = ()

    @classmethod
    def of(cls, source: Source, places: Mapping[str, Any], episodes: Sequence[EpisodeEntry] = ()) -> Manifest:
        """Of a source. The split is each episode's."""
        said = {name: value for name, value in source.gaitway.items() if name != "split"}
        return cls(source.fps, source.robot_type, source.features, said, places, tuple(episodes))

    def to_json(self) -> str:
        """One JSON object."""
        return json.dumps(
            {
                "format": FORMAT,
                "schema_version": SCHEMA_VERSION,
                "fps": self.fps,
                "robot_type": self.robot_type,
                "features": {feature.name: feature.to_json() for feature in self.features},
                "gaitway": dict(self.gaitway),
                "places": dict(self.places),
                "episodes": [entry.to_json() for entry in self.episodes],
            }
        )

    @classmethod
    def from_json(cls, text: str | bytes, file: Path) -> Manifest:
        """Read one that stands in ``file``. Raises ``DatasetError`` for anything else."""
        try:
            data = json.loads(text)
            if data["format"] != FORMAT or data["schema_version"] != SCHEMA_VERSION:
                raise DatasetError(f"{file}: its manifest has format {data['format']} {data['schema_version']}; {FORMAT} 1 is read")
            for name in data["features"]:
                path_inside(Path("videos"), name, file)  # videos are kept under the names of their features
            features = tuple(Feature.from_json(name, entry, str(file)) for name, entry in data["features"].items())
            episodes = tuple(
                EpisodeEntry(
                    str(entry["key"]),
                    str(entry["task"]),
                    int(entry["length"]),
                    dict(entry["about"]),
                    {name: (str(clip[0]), float(clip[1]), float(clip[2])) for name, clip in entry["videos"].items()},
                    str(entry["split"]),
                    str(entry["origin"]),
                    dict(entry["place"]),
                )
                for entry in data["episodes"]
            )
            return cls(int(data["fps"]), str(data["robot_type"]), features, dict(data["gaitway"]), dict(data["places"]), episodes)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise DatasetError(f"{file}: its manifest is damaged: {type(error).__name__} {error}"[:300]) from None


def videos_folder(target: Path, is_folder: bool) -> Path:
    """Where the videos of an export are: in it where it is a folder, else beside it."""
    return target / "videos" if is_folder else target.with_name(f"{target.name}.videos")


def missing_videos(entries: Sequence[EpisodeEntry], folder: Path, file: Path) -> tuple[Path, ...]:
    """Videos that the entries name and that are not there."""
    named = dict.fromkeys(clip.file for entry in entries for clip in entry.clips(folder, file).values())
    return tuple(video for video in named if not video.is_file())
