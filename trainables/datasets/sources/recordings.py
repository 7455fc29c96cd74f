"""Recordings of topics (MCAP, ROS 1 and ROS 2 bags) as episodes of features, by a mapping; our own exports need none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cluster.lerobot.episodes import Episode
from cluster.lerobot.errors import DatasetError
from cluster.lerobot.features import Feature
from trainables.datasets.sources.alignment import Track, aligned, frame_times_ns
from trainables.datasets.sources.base import Piece, Source
from trainables.datasets.sources.boundaries import Window, windows
from trainables.datasets.sources.compression import decompressed
from trainables.datasets.sources.exported import MANIFEST_FILE, MANIFEST_RECORD, ExportedRecording, exported_recording
from trainables.datasets.sources.fields import FeatureReader
from trainables.datasets.sources.limits import MAX_EPISODE_BYTES, MIB
from trainables.datasets.sources.manifest import Manifest, videos_folder
from trainables.datasets.sources.mapping import Mapping, load_mapping
from trainables.datasets.sources.mcap import McapFile
from trainables.datasets.sources.messages import MessageFile, stamp_ns
from trainables.datasets.sources.rosbag import Bag1File, Compression, SqliteFile, bag_files

__all__ = ["RecordingSource", "open_mcap", "open_rosbag"]


@dataclass(frozen=True)
class Storage:
    """How to open the files of a recording again, in a task."""

    kind: str
    """``mcap``, ``sqlite3`` or ``bag`` (ROS 1)."""
    compression: Compression = ""

    def open(self, file: Path) -> MessageFile:
        """One of its files."""
        if self.compression == "file":
            with decompressed(file) as plain:  # which an open file outlives
                return self._open(plain, file)
        return self._open(file, None)

    def _open(self, file: Path, named: Path | None) -> MessageFile:
        if self.kind == "mcap":
            return McapFile(file, named)
        return Bag1File(file) if self.kind == "bag" else SqliteFile(file, self.compression == "message", named)


@dataclass(frozen=True)
class RecordingSource(Source):
    """See ``open_mcap`` and ``open_rosbag``."""

    files: tuple[Path, ...] = ()
    storage: Storage = Storage("mcap")
    mapping: Mapping | None = None
    readers: tuple[FeatureReader, ...] = ()

    @property
    def format(self) -> str:  # type: ignore[override]
        """``mcap`` or ``rosbag``."""
        return "mcap" if self.storage.kind == "mcap" else "rosbag"

    def pieces(self) -> Sequence[Piece]:
        """Its files."""
        return [Piece(file, (number,)) for number, file in enumerate(self.files)]

    def read(self, piece: Piece) -> Iterator[Episode]:
        """See ``Source.read``; the key is the number of the file and the episode's in it."""
        mapping = self._mapping
        with self.storage.open(piece.file) as file:
            file.check_topics(mapping.topics)
            for number, window in enumerate(windows(file, mapping)):
                key = f"{piece.episodes[0]:06d}-{number:06d}"
                episode = self._episode(file, window, key)
                if episode.length >= mapping.episodes.least_frames:
                    yield episode

    @property
    def _mapping(self) -> Mapping:
        assert self.mapping is not None
        return self.mapping

    def _episode(self, file: MessageFile, window: Window, key: str) -> Episode:
        mapping, where = self._mapping, f"{file.path}: episode {key}"
        times: dict[str, list[int]] = {reader.name: [] for reader in self.readers}
        values: dict[str, list[np.ndarray | bytes]] = {reader.name: [] for reader in self.readers}
        size = 0
        for record in file.records(mapping.topics, window.start_ns, window.stop_ns):
            message = file.decode(record)
            time_ns = (stamp_ns(message) if mapping.clock == "header" else None) or record.time_ns
            for reader in self.readers:
                if reader.mapping.topic == record.topic:
                    value = reader.values(message, where, file.topics[record.topic])
                    times[reader.name].append(time_ns)
                    values[reader.name].append(value)
                    size += len(value) if isinstance(value, bytes) else value.nbytes
            if size > MAX_EPISODE_BYTES:
                raise DatasetError(f"{where} is larger than {MAX_EPISODE_BYTES // MIB} MiB; split it (episodes.gap_s) or map fewer fields")
        for reader in self.readers:
            if not values[reader.name]:
                raise DatasetError(f"{where}: {reader.mapping.topic} has no messages in it; {reader.name} needs some")
        tracks = {reader.name: Track.of(times.pop(reader.name), values.pop(reader.name)) for reader in self.readers}
        for reader in self.readers:
            tracks[reader.name].check(reader.mapping, mapping.fps, where)
        frames = frame_times_ns([(reader.mapping, tracks[reader.name]) for reader in self.readers], mapping.fps)
        if not len(frames):
            raise DatasetError(f"{where}: its topics do not overlap in time; are they on one clock? (clock: log)")
        columns: dict[str, np.ndarray] = {}
        for reader in self.readers:
            column = aligned(tracks.pop(reader.name), reader.mapping, frames, where)
            columns[reader.name] = column[:, 0] if reader.feature.shape == (1,) and column.ndim == 2 else column
        return Episode(key, window.task or mapping.task, columns)


def open_mcap(path: Path, mapping: Mapping | Path | None = None) -> RecordingSource | ExportedRecording:
    """An MCAP file, or a folder of them.

    Args:
        path: file or folder.
        mapping: topics and fields, or the file that has them; None: the files are our own exports.

    Raises:
        DatasetError: a file cannot be read, has not what the mapping names, or is no export of ours and no mapping is given.
        ConfigError: the mapping file is not valid.
    """
    files = sorted(path.glob("*.mcap")) if path.is_dir() else [path]
    if not files:
        raise DatasetError(f"{path}: holds no .mcap file")
    if mapping is not None:
        return _mapped(path, files, Storage("mcap"), mapping)
    manifests = []
    for file in files:
        with McapFile(file) as opened:
            record = opened.metadata(MANIFEST_RECORD)
            if record is None:
                raise _needs_mapping(opened)
            manifests.append((file.name, Manifest.from_json(record.get("manifest", ""), file)))
    folder = path if path.is_dir() else path.parent
    return exported_recording(path, manifests, folder, videos_folder(path, path.is_dir()), "mcap")


def open_rosbag(path: Path, mapping: Mapping | Path | None = None) -> RecordingSource | ExportedRecording:
    """A ROS 1 ``.bag``, a ROS 2 bag's folder or its ``.db3``, or a folder of such bags.

    Arguments and errors are those of ``open_mcap``.
    """
    if (path / MANIFEST_FILE).is_file() and mapping is None:
        manifest = Manifest.from_json((path / MANIFEST_FILE).read_bytes(), path / MANIFEST_FILE)
        _, files, _ = bag_files(path)
        return exported_recording(path, [(files[0].name, manifest)], path, videos_folder(path, True), "sqlite3")
    storage, files = _bags(path)
    if mapping is None:
        with storage.open(files[0]) as opened:
            raise _needs_mapping(opened)
    return _mapped(path, files, storage, mapping)


def _bags(path: Path) -> tuple[Storage, list[Path]]:
    if path.is_file():
        return Storage("bag" if path.suffix == ".bag" else "sqlite3"), [path]
    if (path / "metadata.yaml").is_file():
        kind, files, compression = bag_files(path)
        return Storage(kind, compression), files
    if bags := sorted(path.glob("*.bag")):
        return Storage("bag"), bags
    found = [bag_files(metadata.parent) for metadata in sorted(path.glob("*/metadata.yaml"))]
    if not found:
        raise DatasetError(f"{path}: holds no ROS bag (*.bag, metadata.yaml, or folders with one)")
    kinds = {(kind, compression) for kind, _, compression in found}
    if len(kinds) > 1:
        raise DatasetError(f"{path}: its bags have different storages; import them apart")
    return Storage(*kinds.pop()), [file for _, files, _ in found for file in files]


def _mapped(path: Path, files: Sequence[Path], storage: Storage, given: Mapping | Path) -> RecordingSource:
    mapping = given if isinstance(given, Mapping) else load_mapping(given)
    first: dict[str, Any] = {}
    with storage.open(files[0]) as file:
        file.check_topics([*mapping.topics, *([mapping.episodes.topic] if mapping.episodes.topic else [])])
        for topic in mapping.topics:
            record = next(iter(file.records([topic])), None)
            if record is None:
                raise DatasetError(f"{file.path}: {topic} has no messages")
            first[topic] = file.decode(record)
        readers = tuple(
            FeatureReader.of(name, entry, first[entry.topic], f"{file.path}: {entry.topic}", file.topics[entry.topic])
            for name, entry in mapping.features.items()
        )
    features: tuple[Feature, ...] = tuple(reader.feature for reader in readers)
    return RecordingSource(
        path=path,
        fps=mapping.fps,
        features=features,
        robot_type=mapping.robot_type,
        files=tuple(files),
        storage=storage,
        gaitway={"lineage": {"kind": storage.kind, "mapping": mapping.model_dump(mode="json")}},
        mapping=mapping,
        readers=readers,
    )


def _needs_mapping(file: MessageFile) -> DatasetError:
    topics = ", ".join(f"{topic} ({kind})" for topic, kind in sorted(file.topics.items())) or "none"
    return DatasetError(f"{file.path}: is no export of ours; a mapping file must name topics and fields. Its topics: {topics}"[:600])
