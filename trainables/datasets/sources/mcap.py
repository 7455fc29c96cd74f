"""MCAP files: ROS 2 messages (CDR) and JSON messages; our own exports without a mapping."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from mcap.exceptions import McapError
from mcap.reader import McapReader, make_reader
from mcap.records import Channel, Schema

from cluster.lerobot.errors import DatasetError
from trainables.datasets.exports.mcap import METADATA
from trainables.datasets.sources.described import features_from, read_description
from trainables.datasets.sources.mapping import Mapping
from trainables.datasets.sources.recorded import RecordedSource, mapped_features, own_episodes

__all__ = ["McapSource", "open_mcap"]

MOST_CHUNK_BYTES = 512 * 2**20
"""A chunk is decompressed in memory; writers make chunks of one or a few MiB."""


@dataclass(frozen=True)
class McapSource(RecordedSource):
    """See ``open_mcap``."""

    format: ClassVar[str] = "mcap"

    def raw(self, file: Path, topics: Sequence[str], start_ns: int, end_ns: int) -> Iterator[tuple[str, int, bytes]]:
        """See ``RecordedSource.raw``."""
        with _opened(file) as reader:
            for _, channel, message in reader.iter_messages(topics, starting_at=start_ns, ending_at=end_ns):
                yield channel.topic, message.log_time, message.data

    def decoded(self, file: Path, topics: Sequence[str]) -> Iterator[tuple[str, int, Any]]:
        """See ``RecordedSource.decoded``."""
        with _opened(file) as reader:
            decoders: dict[int, Any] = {}
            for schema, channel, message in reader.iter_messages(topics):
                if channel.id not in decoders:
                    decoders[channel.id] = _decoder(schema, channel, file)
                try:
                    decoded = decoders[channel.id](message.data)
                except (ValueError, IndexError, KeyError, TypeError) as error:
                    words = " ".join(str(error).split())[:100]
                    raise DatasetError(f"{file}: a message on {channel.topic} at {message.log_time} ns is damaged: {words}") from None
                yield channel.topic, message.log_time, decoded


def open_mcap(path: Path, mapping: Mapping | None = None) -> McapSource:
    """An MCAP file, or a folder of them that one mapping fits.

    Args:
        path: see above.
        mapping: topics and fields; None: of our own exports, which need none.

    Raises:
        DatasetError: a file cannot be read, or is not ours and no mapping is given.
    """
    files = (path,) if path.is_file() else tuple(sorted(path.glob("*.mcap")))
    if not files:
        raise DatasetError(f"{path}: holds no .mcap file")
    with _opened(files[0]) as reader:
        if mapping is None:
            said = next((record.metadata for record in reader.iter_metadata() if record.name == METADATA), None)
            if said is None or len(files) > 1:
                topics = ", ".join(sorted(channel.topic for channel in _summary(reader, files[0]).channels.values())) or "none"
                raise DatasetError(f"{path}: is no export of ours; give a mapping file that names topics and fields (topics: {topics})")
            description = read_description(said.get("description", ""), str(path))
            features = features_from(description.pop("features"), str(path))
            try:
                entries = json.loads(said.get("episodes", ""))
            except ValueError:
                entries = None
            return McapSource(path=path, features=features, files=files, own=own_episodes(entries, path), **description)
        first = _first_messages(reader, {given.topic for given in mapping.features.values()}, files[0])
    return McapSource(
        path=path,
        fps=mapping.fps,
        features=mapped_features(mapping, first, files[0]),
        robot_type=mapping.robot_type,
        gaitway={"lineage": {"kind": "mcap", "mapping": mapping.model_dump(mode="json")}},
        files=files,
        mapping=mapping,
    )


@contextmanager
def _opened(file: Path) -> Iterator[McapReader]:
    try:
        with file.open("rb") as stream:
            reader = make_reader(stream)
            for index in _summary(reader, file).chunk_indexes:
                if index.uncompressed_size > MOST_CHUNK_BYTES:
                    raise DatasetError(
                        f"{file}: a chunk declares {index.uncompressed_size:,} bytes decompressed; at most {MOST_CHUNK_BYTES:,} are read"
                    )
            yield reader
    except (McapError, OSError) as error:
        raise DatasetError(f"{file}: not readable MCAP: {' '.join(str(error).split())[:120] or type(error).__name__}") from None


def _summary(reader: McapReader, file: Path) -> Any:
    summary = reader.get_summary()
    if summary is None:
        raise DatasetError(f"{file}: has no summary at its end: its writer did not finish; recover it with `mcap recover`")
    return summary


def _first_messages(reader: McapReader, topics: set[str], file: Path) -> dict[str, Any]:
    first: dict[str, Any] = {}
    for topic in sorted(topics):
        for schema, channel, message in reader.iter_messages([topic]):
            first[topic] = _decoder(schema, channel, file)(message.data)
            break
    return first


def _decoder(schema: Schema | None, channel: Channel, file: Path) -> Any:
    if channel.message_encoding == "json":
        return json.loads
    from mcap_ros2.decoder import DecoderFactory

    decoder = DecoderFactory().decoder_for(channel.message_encoding, schema)
    if decoder is None:
        kind = schema.encoding if schema else "no schema"
        raise DatasetError(f"{file}: {channel.topic} is {channel.message_encoding} with {kind}; ROS 2 (cdr, ros2msg) and JSON are read")
    return decoder
