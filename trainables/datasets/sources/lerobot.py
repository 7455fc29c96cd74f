"""LeRobot v3.0 folders as a source: read a row group at a time, so that a process holds one of them and one episode."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa

from cluster.lerobot.episodes import Episode
from cluster.lerobot.errors import DatasetError
from cluster.lerobot.features import INDEX_FEATURES, Feature, to_numpy
from cluster.lerobot.folder import files_of
from cluster.lerobot.info import EpisodeInfo, load_info
from cluster.lerobot.parquet import groups_with, open_parquet
from trainables.datasets.sources.base import Piece, Source

__all__ = ["LeRobotSource", "episode_pieces", "open_lerobot"]

PIECE_BYTES = 32 * 2**20
"""About how much of a file one task reads, encoded: enough to be worth a task, little enough to give every core some."""
INDEX_NAMES = frozenset(feature.name for feature in INDEX_FEATURES) - {"timestamp"}


@dataclass(frozen=True)
class LeRobotSource(Source):
    """See ``open_lerobot``."""

    format: ClassVar[str] = "lerobot"
    episodes: tuple[EpisodeInfo, ...] = ()
    validation: frozenset[int] = frozenset()
    """Episodes that the dataset holds out."""
    has_split: bool = False
    digest: str | None = None
    """As recorded; None for a dataset from elsewhere."""
    tasks: tuple[str, ...] = ()

    def pieces(self) -> Sequence[Piece]:
        """Files, the large ones in runs of whole episodes."""
        return episode_pieces(self.episodes)

    def read(self, piece: Piece) -> Iterator[Episode]:
        """See ``Source.read``; the key is the episode's number."""
        chosen = set(piece.episodes)
        wanted = {episode.index: episode for episode in self.episodes if episode.index in chosen}
        stored = [feature for feature in self.features if feature.is_column]
        names = [*(feature.name for feature in stored), "episode_index", "frame_index"]
        parts: dict[int, list[pa.Table]] = {}
        for table in _tables(piece.file, names, min(wanted), max(wanted)):
            numbers = table["episode_index"].to_numpy()
            is_one = len(numbers) > 0 and bool((numbers == numbers[0]).all())
            for index in numbers[:1].tolist() if is_one else np.unique(numbers).tolist():
                if index not in wanted:
                    continue
                # A copy: a slice would keep the whole row group alive until the episode's last frame is there.
                rows = table if is_one else table.filter(pa.array(numbers == index))
                parts.setdefault(index, []).append(rows)
                if sum(map(len, parts[index])) >= wanted[index].length:
                    yield self._episode(wanted.pop(index), pa.concat_tables(parts.pop(index)), stored, piece.file)
        if wanted:
            index, episode = min(wanted.items())
            found = sum(map(len, parts.get(index, [])))
            raise DatasetError(f"{piece.file}: episode {index} has {found} frames of the {episode.length} that the metadata name")

    def _episode(self, episode: EpisodeInfo, table: pa.Table, stored: Sequence[Feature], file: Path) -> Episode:
        if len(table) != episode.length:
            raise DatasetError(
                f"{file}: episode {episode.index} has {len(table)} frames, more than the {episode.length} that the metadata name"
            )
        frame = table["frame_index"].to_numpy()
        if (np.diff(frame) < 0).any():
            table = table.take(pa.array(np.argsort(frame, kind="stable")))
        try:
            columns = {feature.name: to_numpy(table[feature.name], feature) for feature in stored}
        except DatasetError as error:
            raise DatasetError(f"{file}: episode {episode.index}: {error}") from None
        split = ("validation" if episode.index in self.validation else "train") if self.has_split else ""
        task = episode.tasks[0] if episode.tasks else ""
        return Episode(f"{episode.index:07d}", task, columns, episode.about, episode.videos, split)


def open_lerobot(path: Path, episodes: Sequence[int] | None = None) -> LeRobotSource:
    """A LeRobot v3.0 folder, ours or anybody's.

    Args:
        path: the folder.
        episodes: only these; None: all.

    Raises:
        DatasetError: it is no readable dataset, or has no such episode.
    """
    info = load_info(path)
    if not float(info.fps).is_integer():
        raise DatasetError(f"{path}: fps is {info.fps}; a whole number of frames a second is wanted")
    features = tuple(feature for name, feature in info.features.items() if name not in INDEX_NAMES)
    split = bool(info.gaitway.get("split"))
    return LeRobotSource(
        path=path,
        fps=int(info.fps),
        features=features,
        robot_type=info.robot_type,
        gaitway=info.gaitway,
        missing_videos=info.missing_videos,
        episodes=tuple(info.select(episodes=episodes)),
        validation=frozenset(info.splits.get("validation", ())) if split else frozenset(),
        has_split=split,
        digest=info.digest,
        tasks=info.tasks,
    )


def episode_pieces(episodes: Sequence[EpisodeInfo]) -> list[Piece]:
    """Episodes by file, those of large files in runs that tasks can share."""
    pieces = []
    for file, own in files_of(episodes).items():
        parts = max(1, min(len(own), file.stat().st_size // PIECE_BYTES))
        for part in np.array_split(np.arange(len(own)), parts):
            chosen = [own[place] for place in part]
            pieces.append(Piece(file, tuple(episode.index for episode in chosen), sum(episode.length for episode in chosen)))
    return pieces


def _tables(file: Path, names: list[str], first: int, last: int) -> Iterator[pa.Table]:
    """The row groups of a file that may hold some of the episodes ``first`` to ``last``."""
    with open_parquet(file, names) as parquet:
        for number in groups_with(parquet, first, last):
            yield parquet.read_row_group(number, columns=names, use_threads=False).replace_schema_metadata(None)
