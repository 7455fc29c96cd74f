"""MCAP files: ROS 2 messages (CDR) and JSON ones, read a chunk at a time; no chunk is decompressed past a limit."""

from __future__ import annotations

import json
import struct
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import lz4.frame
import zstandard
from mcap.exceptions import McapError
from mcap.reader import SeekingReader
from mcap.records import Channel, Chunk, ChunkIndex, Message, Schema
from mcap.stream_reader import StreamReader, breakup_chunk
from mcap.summary import Summary
from mcap_ros2.decoder import DecoderFactory

from cluster.lerobot.errors import DatasetError
from trainables.datasets.sources.limits import MAX_CHUNK_BYTES, MIB, check_not_empty, one_line, unreadable
from trainables.datasets.sources.messages import MessageFile, Record

__all__ = ["McapFile", "is_mcap"]

MAGIC = b"\x89MCAP0\r\n"
BROKEN = (
    McapError,
    struct.error,
    UnicodeDecodeError,
    KeyError,
    IndexError,
    ValueError,
    MemoryError,
    OverflowError,
    RuntimeError,
    zstandard.ZstdError,
)


def is_mcap(file: Path) -> bool:
    """Whether a file begins as MCAP files do."""
    with file.open("rb") as opened:
        return opened.read(len(MAGIC)) == MAGIC


class McapFile(MessageFile):
    """One MCAP file.

    Args:
        path: the file.
        named: what errors call it; None: its path.

    Raises:
        DatasetError: it is none, or is damaged or truncated.
    """

    def __init__(self, path: Path, named: Path | None = None) -> None:
        self.path = named or path
        check_not_empty(path, "mcap")
        if not is_mcap(path):
            raise DatasetError(f"{self.path}: is no MCAP file")
        self._file = path.open("rb")
        self._decoders: dict[int, Any] = {}
        self._factory = DecoderFactory()
        try:
            with unreadable(self.path, "MCAP", *BROKEN):
                self._reader = SeekingReader(self._file, record_size_limit=MAX_CHUNK_BYTES)
                self._summary = self._read_summary()
        except BaseException:
            self._file.close()
            raise
        self._channels = {channel.topic: channel for channel in self._summary.channels.values()}

    @property
    def topics(self) -> Mapping[str, str]:
        """See ``MessageFile``."""
        schemas = self._summary.schemas
        return {topic: schemas[channel.schema_id].name if channel.schema_id else "" for topic, channel in self._channels.items()}

    def metadata(self, name: str) -> dict[str, str] | None:
        """A metadata record; None: the file has none of this name."""
        with unreadable(self.path, "MCAP", *BROKEN):
            for index in self._summary.metadata_indexes:
                if index.name == name:
                    for record in self._reader.iter_metadata():
                        if record.name == name:
                            return dict(record.metadata)
        return None

    def records(self, topics: Collection[str], start_ns: int | None = None, stop_ns: int | None = None) -> Iterator[Record]:
        """See ``MessageFile``."""
        names = {channel.id: channel.topic for channel in self._summary.channels.values() if channel.topic in topics}
        with unreadable(self.path, "MCAP", *BROKEN):
            for message in self._messages(names, start_ns, stop_ns):
                inside = (start_ns is None or message.log_time >= start_ns) and (stop_ns is None or message.log_time < stop_ns)
                if message.channel_id in names and inside:
                    yield Record(names[message.channel_id], message.log_time, message.data)

    def decode(self, record: Record) -> Any:
        """See ``MessageFile``."""
        channel = self._channels[record.topic]
        try:
            if channel.message_encoding == "json":
                return json.loads(record.raw)
            decoder = self._decoders.get(channel.id) or self._decoder(channel)
            return decoder(record.raw)
        except DatasetError:
            raise
        except Exception as error:  # whatever a damaged message makes the decoders do
            raise DatasetError(f"{self.path}: a message of {record.topic} cannot be decoded: {one_line(error)}") from None

    def close(self) -> None:
        """See ``MessageFile``."""
        self._file.close()

    def _decoder(self, channel: Channel) -> Any:
        schema = self._summary.schemas.get(channel.schema_id)
        decoder = self._factory.decoder_for(channel.message_encoding, schema)
        if decoder is None:
            raise DatasetError(
                f"{self.path}: {channel.topic} is encoded as {channel.message_encoding!r} with a schema in "
                f"{schema.encoding if schema else 'none'!r}; cdr with ros2msg and json are read"
            )
        self._decoders[channel.id] = decoder
        return decoder

    def _read_summary(self) -> Summary:
        summary = self._reader.get_summary()
        if summary is not None and (summary.channels or summary.chunk_indexes or summary.metadata_indexes or summary.statistics):
            for index in summary.chunk_indexes:
                _check_size(self.path, index.uncompressed_size)
            return summary
        # A file without a summary is legal: its channels stand among the messages.
        summary = Summary()
        for record in self._stream():
            if isinstance(record, Schema):
                summary.schemas[record.id] = record
            elif isinstance(record, Channel):
                summary.channels[record.id] = record
        return summary

    def _messages(self, names: Mapping[int, str], start_ns: int | None, stop_ns: int | None) -> Iterator[Message]:
        indexes = sorted(self._summary.chunk_indexes, key=lambda index: index.chunk_start_offset)
        if not indexes:
            yield from (record for record in self._stream() if isinstance(record, Message))
            return
        for index in indexes:
            if _may_hold(index, names, start_ns, stop_ns):
                self._file.seek(index.chunk_start_offset)
                stream = StreamReader(self._file, skip_magic=True, emit_chunks=True, record_size_limit=MAX_CHUNK_BYTES)
                chunk = next(iter(stream.records))
                if not isinstance(chunk, Chunk):
                    raise DatasetError(f"{self.path}: no chunk where the index says that one is")
                yield from (record for record in self._open_chunk(chunk) if isinstance(record, Message))

    def _stream(self) -> Iterator[Any]:
        """Every record from the beginning, those of chunks one by one."""
        self._file.seek(0)
        for record in StreamReader(self._file, emit_chunks=True, record_size_limit=MAX_CHUNK_BYTES).records:
            if isinstance(record, Chunk):
                yield from self._open_chunk(record)
            else:
                yield record

    def _open_chunk(self, chunk: Chunk) -> list[Any]:
        """Its records. The sizes that chunk and compressed data declare are checked before, because the libraries trust them."""
        _check_size(self.path, chunk.uncompressed_size)
        data = chunk.data
        if chunk.compression == "zstd":
            declared = zstandard.frame_content_size(data)
            _check_size(self.path, declared)
            data = zstandard.ZstdDecompressor().decompress(data, max_output_size=chunk.uncompressed_size)
        elif chunk.compression == "lz4":
            data = lz4.frame.LZ4FrameDecompressor().decompress(data, max_length=chunk.uncompressed_size + 1)
        elif chunk.compression:
            raise DatasetError(f"{self.path}: a chunk is compressed with {chunk.compression!r}; zstd and lz4 are read")
        if len(data) != chunk.uncompressed_size:
            raise DatasetError(
                f"{self.path}: a chunk says that it holds {chunk.uncompressed_size} bytes and holds "
                f"{'more' if len(data) > chunk.uncompressed_size else len(data)}; the file is damaged"
            )
        plain = Chunk("", data, chunk.message_end_time, chunk.message_start_time, chunk.uncompressed_crc, len(data))
        return breakup_chunk(plain, validate_crc=True)


def _may_hold(index: ChunkIndex, names: Mapping[int, str], start_ns: int | None, stop_ns: int | None) -> bool:
    in_time = (start_ns is None or index.message_end_time >= start_ns) and (stop_ns is None or index.message_start_time < stop_ns)
    return in_time and (not index.message_index_offsets or any(channel in names for channel in index.message_index_offsets))


def _check_size(path: Path, size: int) -> None:
    if size > MAX_CHUNK_BYTES:
        raise DatasetError(
            f"{path}: a chunk declares {size / MIB:.0f} MiB after decompression; up to {MAX_CHUNK_BYTES // MIB} MiB are read"
        )
