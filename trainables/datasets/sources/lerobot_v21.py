"""LeRobot v2.0 and v2.1 folders: a parquet file and a video file an episode, metadata as JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from cluster.lerobot.episodes import Episode
from cluster.lerobot.errors import DatasetError
from cluster.lerobot.features import INDEX_FEATURES, Feature, to_numpy
from cluster.lerobot.info import file_inside
from cluster.lerobot.layout import INFO_PATH
from cluster.lerobot.parquet import open_parquet
from cluster.lerobot.videos import VideoClip
from trainables.datasets.sources.base import Piece, Source
from trainables.datasets.sources.limits import check_rate

__all__ = ["LeRobotV21Source", "open_lerobot_v21"]

INDEX_NAMES = frozenset(feature.name for feature in INDEX_FEATURES) - {"timestamp"}
EPISODES_A_PIECE = 16


@dataclass(frozen=True)
class Recorded:
    """One line of ``episodes.jsonl``, with its files."""

    index: int
    length: int
    task: str
    file: Path
    videos: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class LeRobotV21Source(Source):
    """See ``open_lerobot_v21``."""

    format: ClassVar[str] = "lerobot_v21"
    episodes: tuple[Recorded, ...] = ()

    def pieces(self) -> Sequence[Piece]:
        """Some episodes each; each has a file of its own."""
        parts = [self.episodes[start : start + EPISODES_A_PIECE] for start in range(0, len(self.episodes), EPISODES_A_PIECE)]
        return [Piece(self.path, tuple(one.index for one in part), sum(one.length for one in part)) for part in parts]

    def read(self, piece: Piece) -> Iterator[Episode]:
        """See ``Source.read``; the key is the episode's number."""
        by_index = {one.index: one for one in self.episodes}
        stored = [feature for feature in self.features if feature.is_column]
        for index in piece.episodes:
            one = by_index[index]
            table = _table(one, [feature.name for feature in stored])
            try:
                columns = {feature.name: to_numpy(table[feature.name], feature) for feature in stored}
            except DatasetError as error:
                raise DatasetError(f"{one.file}: episode {one.index}: {error}") from None
            if "timestamp" in columns:
                check_rate(f"{one.file}: episode {one.index}", columns["timestamp"], self.fps)
            length_s = one.length / self.fps
            videos = {key: VideoClip(video, 0.0, length_s) for key, video in one.videos.items()}
            yield Episode(f"{one.index:07d}", one.task, columns, videos=videos)


def open_lerobot_v21(path: Path) -> LeRobotV21Source:
    """A LeRobot v2.0 or v2.1 folder.

    Raises:
        DatasetError: the metadata cannot be read, a path leads out of the folder, or a data file is missing.
    """
    info = _json(path / INFO_PATH)
    try:
        fps, data_path, chunk = float(info["fps"]), str(info["data_path"]), int(info.get("chunks_size") or 1000)
        entries = dict(info["features"])
    except (KeyError, TypeError, ValueError):
        raise DatasetError(f"{path / INFO_PATH}: needs fps, data_path and features") from None
    if not fps.is_integer() or fps < 1:
        raise DatasetError(f"{path / INFO_PATH}: fps is {fps}; a whole number of frames a second is wanted")
    features = tuple(Feature.from_json(name, entry, str(path / INFO_PATH)) for name, entry in entries.items() if name not in INDEX_NAMES)
    video_keys = [feature.name for feature in features if feature.dtype == "video"]
    episodes = []
    for row in _lines(path / "meta/episodes.jsonl"):
        try:
            index, length, tasks = int(row["episode_index"]), int(row["length"]), row.get("tasks") or [""]
        except (KeyError, TypeError, ValueError):
            raise DatasetError(f"{path / 'meta/episodes.jsonl'}: a line lacks episode_index or length: {str(row)[:80]}") from None
        places = {"episode_chunk": index // chunk, "episode_index": index}
        file = file_inside(path, data_path, **places)
        if not file.is_file():
            raise DatasetError(f"{path}: episode {index}: the data file {file.relative_to(path)} is missing")
        videos = {key: file_inside(path, str(info["video_path"]), video_key=key, **places) for key in video_keys if info.get("video_path")}
        episodes.append(Recorded(index, length, str(tasks[0]), file, videos))
    if not episodes:
        raise DatasetError(f"{path}: meta/episodes.jsonl names no episode")
    missing = tuple(video for one in episodes for video in one.videos.values() if not video.is_file())
    return LeRobotV21Source(
        path=path,
        fps=int(fps),
        features=features,
        robot_type=str(info.get("robot_type") or ""),
        missing_videos=missing,
        episodes=tuple(sorted(episodes, key=lambda one: one.index)),
    )


def _table(one: Recorded, names: list[str]) -> pa.Table:
    with open_parquet(one.file, names, f"episode {one.index}") as parquet:
        order = ["frame_index"] if "frame_index" in parquet.schema_arrow.names else []
        table = parquet.read(columns=[*names, *order], use_threads=False).replace_schema_metadata(None)
    if len(table) != one.length:
        raise DatasetError(f"{one.file}: episode {one.index} has {len(table)} frames, the metadata name {one.length}")
    if order and (np.diff(table["frame_index"].to_numpy()) < 0).any():
        table = table.sort_by("frame_index")
    return table


def _json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: not readable JSON: {' '.join(str(error).split())[:120]}") from None
    if not isinstance(data, dict):
        raise DatasetError(f"{path}: holds a JSON {type(data).__name__}; an object is wanted")
    return data


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except ValueError:
                    raise DatasetError(f"{path}: line {number} is not JSON: {line.strip()[:80]}") from None
                if not isinstance(row, dict):
                    raise DatasetError(f"{path}: line {number} is a JSON {type(row).__name__}; an object is wanted")
                yield row
    except FileNotFoundError:
        raise DatasetError(f"{path}: is missing") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: not readable: {' '.join(str(error).split())[:120]}") from None
