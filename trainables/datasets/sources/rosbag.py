"""ROS bags: ``.bag`` files of ROS 1, and bags of ROS 2 (a folder with ``metadata.yaml``, or one ``.db3`` file)."""

from __future__ import annotations

import bz2
import sqlite3
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import lz4.frame
import yaml
import zstandard
from rosbags.rosbag1 import Reader as Reader1
from rosbags.rosbag1 import ReaderError
from rosbags.typesys import Stores, TypesysError, get_types_from_idl, get_types_from_msg, get_typestore

from cluster.lerobot.errors import DatasetError
from trainables.datasets.sources.carriers import typestore
from trainables.datasets.sources.limits import MAX_CHUNK_BYTES, MIB, check_not_empty, one_line, path_inside, unreadable
from trainables.datasets.sources.messages import MessageFile, Record

__all__ = ["Bag1File", "Compression", "SqliteFile", "bag_files"]

Compression = Literal["", "message", "file"]
"""Of a ROS 2 bag: each message, or each file as a whole."""

METADATA = "metadata.yaml"
MAX_METADATA_BYTES = 64 * MIB
BROKEN = (ReaderError, TypesysError, AssertionError, ValueError, KeyError, IndexError, EOFError, MemoryError, RuntimeError)


class Bag1File(MessageFile):
    """A ``.bag`` file of ROS 1."""

    def __init__(self, path: Path) -> None:
        check_not_empty(path, "ROS 1 bag")
        self.path = path
        self._store = get_typestore(Stores.EMPTY)
        with unreadable(path, "ROS 1 bag", *BROKEN):
            self._reader = Reader1(path)
            self._reader.open()
            try:
                for place, chunk in self._reader.chunks.items():
                    self._reader.chunks[place] = chunk._replace(decompressor=_bounded(path, chunk.decompressor))
                for connection in self._reader.connections:
                    self._store.register(get_types_from_msg(connection.msgdef.data, connection.msgtype))
            except BaseException:
                self._reader.close()
                raise

    @property
    def topics(self) -> Mapping[str, str]:
        """See ``MessageFile``."""
        return {connection.topic: connection.msgtype for connection in self._reader.connections}

    def records(self, topics: Collection[str], start_ns: int | None = None, stop_ns: int | None = None) -> Iterator[Record]:
        """See ``MessageFile``."""
        chosen = [connection for connection in self._reader.connections if connection.topic in topics]
        if not chosen:
            return
        with unreadable(self.path, "ROS 1 bag", *BROKEN):
            for connection, time_ns, raw in self._reader.messages(chosen, start_ns, stop_ns):
                yield Record(connection.topic, time_ns, bytes(raw))

    def decode(self, record: Record) -> Any:
        """See ``MessageFile``."""
        try:
            return self._store.deserialize_ros1(record.raw, self.topics[record.topic])
        except Exception as error:  # whatever a damaged message makes the decoders do
            raise DatasetError(f"{self.path}: a message of {record.topic} cannot be decoded: {one_line(error)}") from None

    def close(self) -> None:
        """See ``MessageFile``."""
        self._reader.close()


class SqliteFile(MessageFile):
    """A ``.db3`` file of ROS 2.

    Args:
        path: the file.
        is_compressed: whether each message is compressed with zstd, as the bag's metadata say.
        named: what errors call it; None: its path.
    """

    def __init__(self, path: Path, is_compressed: bool = False, named: Path | None = None) -> None:
        self.path = named or path
        check_not_empty(path, "ROS 2 bag (sqlite3)")
        self._is_compressed = is_compressed
        # immutable: no lock is taken and no journal looked for, so a bag on a read-only or shared disk can be read.
        self._database = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
        try:
            with unreadable(self.path, "ROS 2 bag (sqlite3)", sqlite3.Error, *BROKEN):
                rows = self._database.execute("SELECT id, name, type, serialization_format FROM topics").fetchall()
                self._topics = {int(number): str(name) for number, name, _, _ in rows}
                self._types = {str(name): str(kind) for _, name, kind, _ in rows}
                for _, name, _, encoding in rows:
                    if encoding != "cdr":
                        raise DatasetError(f"{self.path}: {name} is serialised as {encoding!r}; cdr is read")
                self._store = self._read_types()
        except BaseException:
            self._database.close()
            raise

    @property
    def topics(self) -> Mapping[str, str]:
        """See ``MessageFile``."""
        return self._types

    def records(self, topics: Collection[str], start_ns: int | None = None, stop_ns: int | None = None) -> Iterator[Record]:
        """See ``MessageFile``."""
        chosen = [number for number, topic in self._topics.items() if topic in topics]
        marks = ", ".join("?" for _ in chosen)
        query = f"SELECT topic_id, timestamp, data FROM messages WHERE topic_id IN ({marks})"  # only question marks are put in
        given: list[int] = list(chosen)
        for condition, value in ((" AND timestamp >= ?", start_ns), (" AND timestamp < ?", stop_ns)):
            if value is not None:
                query += condition
                given.append(value)
        with (
            unreadable(self.path, "ROS 2 bag (sqlite3)", sqlite3.Error, *BROKEN),
            closing(self._database.execute(f"{query} ORDER BY timestamp, id", given)) as rows,
        ):
            for number, time_ns, raw in rows:
                data = _decompressed(self.path, raw) if self._is_compressed else raw
                yield Record(self._topics[number], int(time_ns), bytes(data))

    def decode(self, record: Record) -> Any:
        """See ``MessageFile``."""
        kind = self._types[record.topic]
        if kind not in self._store.fielddefs:
            raise DatasetError(
                f"{self.path}: the message type {kind} of {record.topic} is not defined in the bag and is none of ROS 2's own"
            )
        try:
            return self._store.deserialize_cdr(record.raw, kind)
        except Exception as error:  # whatever a damaged message makes the decoders do
            raise DatasetError(f"{self.path}: a message of {record.topic} cannot be decoded: {one_line(error)}") from None

    def close(self) -> None:
        """See ``MessageFile``."""
        self._database.close()

    def _read_types(self) -> Any:
        """The message types that the bag defines, above those of ROS 2; bags before ROS 2 Iron define none."""
        has_table = self._database.execute("SELECT count(*) FROM sqlite_master WHERE name = 'message_definitions'").fetchone()[0]
        if not has_table:
            return typestore()
        store = get_typestore(Stores.ROS2_JAZZY)
        rows = self._database.execute("SELECT topic_type, encoding, encoded_message_definition FROM message_definitions")
        for kind, encoding, text in rows:
            if kind in store.fielddefs or not text:
                continue
            types = get_types_from_msg(text, kind) if encoding == "ros2msg" else get_types_from_idl(text)
            store.register({name: definition for name, definition in types.items() if name not in store.fielddefs})
        return store


def bag_files(path: Path) -> tuple[str, list[Path], Compression]:
    """Of a ROS 2 bag's folder: its storage (``sqlite3`` or ``mcap``), its files in order, what of them is compressed.

    Raises:
        DatasetError: it is no bag that can be read, or names a file outside its folder.
    """
    metadata = path / METADATA
    check_not_empty(metadata, "ROS 2 bag")
    if metadata.stat().st_size > MAX_METADATA_BYTES:
        raise DatasetError(f"{metadata}: is larger than {MAX_METADATA_BYTES // MIB} MiB; bag metadata are kilobytes")
    try:
        found = yaml.safe_load(metadata.read_text(encoding="utf-8"))["rosbag2_bagfile_information"]
        storage, names = str(found["storage_identifier"]), [str(name) for name in found["relative_file_paths"]]
        compression, mode = str(found.get("compression_format") or ""), str(found.get("compression_mode") or "").lower()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise DatasetError(f"{metadata}: not readable metadata of a ROS 2 bag: {one_line(error)}") from None
    if storage not in ("sqlite3", "mcap"):
        raise DatasetError(f"{metadata}: the storage is {storage!r}; sqlite3 and mcap are read")
    if mode in ("file", "message") and compression != "zstd":
        raise DatasetError(f"{metadata}: {mode}s are compressed with {compression!r}; zstd is read")
    files = [path_inside(path, name, metadata) for name in names]
    for file in files:
        if not file.is_file():
            raise DatasetError(f"{metadata}: the bag's file {file.name} is missing")
    return storage, files, "file" if mode == "file" else "message" if mode == "message" else ""


def _bounded(path: Path, decompressor: Any) -> Any:
    """The same decompression, which ends with an error at a limit."""

    def decompress(data: bytes) -> bytes:
        if decompressor is bz2.decompress:
            plain = bz2.BZ2Decompressor().decompress(data, MAX_CHUNK_BYTES + 1)
        elif decompressor is lz4.frame.decompress:
            plain = lz4.frame.LZ4FrameDecompressor().decompress(data, max_length=MAX_CHUNK_BYTES + 1)
        else:
            plain = data
        if len(plain) > MAX_CHUNK_BYTES:
            raise DatasetError(f"{path}: a chunk is larger than {MAX_CHUNK_BYTES // MIB} MiB after decompression; no more is read")
        return plain

    return decompress


def _decompressed(path: Path, data: bytes) -> bytes:
    try:
        size = zstandard.frame_content_size(data)
    except zstandard.ZstdError as error:
        raise DatasetError(f"{path}: a message cannot be decompressed: {one_line(error)}") from None
    if size > MAX_CHUNK_BYTES:
        raise DatasetError(
            f"{path}: a message declares {size / MIB:.0f} MiB after decompression; up to {MAX_CHUNK_BYTES // MIB} MiB are read"
        )
    try:
        return zstandard.ZstdDecompressor().decompress(data, max_output_size=MAX_CHUNK_BYTES)
    except zstandard.ZstdError as error:
        raise DatasetError(f"{path}: a message cannot be decompressed: {one_line(error)}") from None
