"""Our own MCAP files and ROS 2 bags, read back by their manifest: exactly what went out, without a mapping file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from cluster.lerobot.episodes import Episode
from cluster.lerobot.errors import DatasetError
from trainables.datasets.sources.base import Piece, Source
from trainables.datasets.sources.carriers import Carrier
from trainables.datasets.sources.limits import MAX_EPISODE_BYTES, MIB, path_inside
from trainables.datasets.sources.manifest import EpisodeEntry, Manifest, missing_videos
from trainables.datasets.sources.mcap import McapFile
from trainables.datasets.sources.messages import MessageFile, Record
from trainables.datasets.sources.rosbag import SqliteFile

__all__ = ["MANIFEST_FILE", "MANIFEST_RECORD", "ExportedRecording", "exported_recording"]

MANIFEST_RECORD = "gaitway"
"""MCAP metadata record of the manifest, under the key ``manifest``."""
MANIFEST_FILE = "gaitway.json"
"""Beside a bag's ``metadata.yaml``."""
EPISODES_A_PIECE = 64
PIECE_BYTES = 32 * 2**20


@dataclass(frozen=True)
class ExportedRecording(Source):
    """See ``exported_recording``."""

    places: Mapping[str, Any] = field(default_factory=dict)
    episodes: tuple[EpisodeEntry, ...] = ()
    folder: Path = Path()
    """Where the files that the episodes name are."""
    videos: Path = Path()
    storage: str = "mcap"

    @property
    def format(self) -> str:  # type: ignore[override]
        """``mcap`` or ``rosbag``."""
        return "mcap" if self.storage == "mcap" else "rosbag"

    def pieces(self) -> Sequence[Piece]:
        """Runs of episodes of one file, a piece about ``PIECE_BYTES``."""
        frame_bytes = sum(feature.size * np.dtype(feature.dtype).itemsize for feature in self.features if not feature.is_visual)
        runs: list[list[EpisodeEntry]] = []
        frames = 0
        for entry in self.episodes:
            full = runs and (len(runs[-1]) >= EPISODES_A_PIECE or frames * max(1, frame_bytes) >= PIECE_BYTES)
            if not runs or full or runs[-1][0].place["file"] != entry.place["file"]:
                runs.append([])
                frames = 0
            runs[-1].append(entry)
            frames += entry.length
        return [Piece(self._file(run[0]), tuple(entry.key for entry in run), sum(entry.length for entry in run)) for run in runs]

    def read(self, piece: Piece) -> Iterator[Episode]:
        """See ``Source.read``."""
        chosen = set(piece.episodes)
        with McapFile(piece.file) if self.storage == "mcap" else SqliteFile(piece.file) as file:
            carriers = [
                Carrier.from_json(feature, self.places.get(feature.name), self.path) for feature in self.features if feature.is_column
            ]
            file.check_topics([carrier.topic for carrier in carriers])
            for entry in self.episodes:
                if entry.key in chosen:
                    yield self._episode(file, entry, carriers)

    def _file(self, entry: EpisodeEntry) -> Path:
        return path_inside(self.folder, str(entry.place["file"]), self.path)

    def _episode(self, file: MessageFile, entry: EpisodeEntry, carriers: Sequence[Carrier]) -> Episode:
        where = f"{file.path}: episode {entry.key}"
        found: dict[str, list[Record]] = {carrier.topic: [] for carrier in carriers}
        size = 0
        for record in file.records(found.keys(), int(entry.place["start_ns"]), int(entry.place["stop_ns"])):
            found[record.topic].append(record)
            size += len(record.raw)
            if size > MAX_EPISODE_BYTES:
                raise DatasetError(f"{where} is larger than {MAX_EPISODE_BYTES // MIB} MiB; no more is read")
        columns: dict[str, np.ndarray] = {}
        for carrier in carriers:
            records = found.pop(carrier.topic)
            if len(records) != entry.length:
                raise DatasetError(f"{where}: {carrier.topic} has {len(records)} messages for {entry.length} frames")
            records.sort(key=lambda record: record.time_ns)
            try:
                columns[carrier.feature.name] = carrier.decode([record.raw for record in records])
            except DatasetError as error:
                raise DatasetError(f"{where}: {error}") from None
        return Episode(entry.key, entry.task, columns, entry.about, entry.clips(self.videos, self.path), entry.split, entry.origin)


def exported_recording(
    path: Path, manifests: Sequence[tuple[str, Manifest]], folder: Path, videos: Path, storage: str
) -> ExportedRecording:
    """A recording that our export wrote.

    Args:
        path: what was given: file or folder.
        manifests: of its files, with their names in ``folder``.
        folder: where the files are.
        videos: where the videos are.
        storage: ``mcap`` or ``sqlite3``.

    Raises:
        DatasetError: its files are not of one dataset.
    """
    first = manifests[0][1]
    entries: list[EpisodeEntry] = []
    for name, manifest in manifests:
        if (manifest.fps, manifest.features, manifest.places) != (first.fps, first.features, first.places):
            raise DatasetError(
                f"{folder / name}: has other features or another frame rate than {folder / manifests[0][0]}; import them apart"
            )
        for entry in manifest.episodes:
            try:
                place = {"start_ns": int(entry.place["start_ns"]), "stop_ns": int(entry.place["stop_ns"])}
            except (KeyError, TypeError, ValueError):
                raise DatasetError(f"{folder / name}: its manifest does not say when the episode {entry.key} is") from None
            # A file is read by the name it has now: somebody may have renamed it.
            entries.append(replace(entry, place={**place, "file": name if storage == "mcap" else str(entry.place.get("file", name))}))
    return ExportedRecording(
        path=path,
        fps=first.fps,
        features=first.features,
        robot_type=first.robot_type,
        gaitway=first.gaitway,
        missing_videos=missing_videos(entries, videos, path),
        places=first.places,
        episodes=tuple(entries),
        folder=folder,
        videos=videos,
        storage=storage,
    )
