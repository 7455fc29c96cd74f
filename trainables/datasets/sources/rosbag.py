"""ROS 1 bags (``.bag``) and ROS 2 bags (a folder with ``metadata.yaml``; SQLite or MCAP inside), without ROS."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from rosbags.highlevel import AnyReader

from cluster.lerobot.errors import DatasetError
from trainables.datasets.exports.rosbag2 import COMPANION
from trainables.datasets.messages import typestore
from trainables.datasets.sources.described import features_from, read_description
from trainables.datasets.sources.mapping import Mapping
from trainables.datasets.sources.recorded import RecordedSource, mapped_features, own_episodes

__all__ = ["RosbagSource", "is_rosbag", "open_rosbag"]


@dataclass(frozen=True)
class RosbagSource(RecordedSource):
    """See ``open_rosbag``."""

    format: ClassVar[str] = "rosbag"

    def raw(self, file: Path, topics: Sequence[str], start_ns: int, end_ns: int) -> Iterator[tuple[str, int, bytes]]:
        """See ``RecordedSource.raw``."""
        with _opened(file) as reader:
            for connection, time_ns, data in reader.messages(_connections(reader, topics), start_ns, end_ns + 1):
                yield connection.topic, time_ns, data

    def decoded(self, file: Path, topics: Sequence[str]) -> Iterator[tuple[str, int, Any]]:
        """See ``RecordedSource.decoded``."""
        with _opened(file) as reader:
            for connection, time_ns, data in reader.messages(_connections(reader, topics)):
                yield connection.topic, time_ns, reader.deserialize(data, connection.msgtype)


def is_rosbag(path: Path) -> bool:
    """Whether a path looks like a bag of either kind."""
    return path.suffix == ".bag" or (path / "metadata.yaml").is_file()


def open_rosbag(path: Path, mapping: Mapping | None = None) -> RosbagSource:
    """A bag, or a folder of bags that one mapping fits.

    Args:
        path: see above.
        mapping: topics and fields; None: of our own exports, which need none.

    Raises:
        DatasetError: a bag cannot be read, or is not ours and no mapping is given.
    """
    files = (path,) if is_rosbag(path) else tuple(sorted(entry for entry in path.iterdir() if is_rosbag(entry)))
    if not files:
        raise DatasetError(f"{path}: holds no ROS bag")
    with _opened(files[0]) as reader:
        if mapping is None:
            companion = path / COMPANION
            if not companion.is_file():
                topics = ", ".join(sorted(reader.topics)) or "none"
                raise DatasetError(f"{path}: is no export of ours; give a mapping file that names topics and fields (topics: {topics})")
            try:
                said = json.loads(companion.read_text(encoding="utf-8"))
                description = read_description(said["description"], str(path))
                entries = said["episodes"]
            except (OSError, ValueError, KeyError, TypeError):
                raise DatasetError(f"{companion}: is not readable") from None
            features = features_from(description.pop("features"), str(path))
            return RosbagSource(path=path, features=features, files=files, own=own_episodes(entries, path), **description)
        first: dict[str, Any] = {}
        for topic in sorted({given.topic for given in mapping.features.values()}):
            for connection, _, data in reader.messages(_connections(reader, [topic])) if topic in reader.topics else ():
                first[topic] = reader.deserialize(data, connection.msgtype)
                break
    return RosbagSource(
        path=path,
        fps=mapping.fps,
        features=mapped_features(mapping, first, files[0]),
        robot_type=mapping.robot_type,
        gaitway={"lineage": {"kind": "rosbag", "mapping": mapping.model_dump(mode="json")}},
        files=files,
        mapping=mapping,
    )


@contextmanager
def _opened(path: Path) -> Iterator[AnyReader]:
    try:
        with AnyReader([path], default_typestore=typestore()) as reader:
            yield reader
    except DatasetError:
        raise
    except Exception as error:  # rosbags has an exception of its own for each storage, and lets SQLite's and struct's through
        if isinstance(error, (KeyboardInterrupt, MemoryError)):
            raise
        raise DatasetError(f"{path}: not a readable ROS bag: {' '.join(str(error).split())[:120] or type(error).__name__}") from None


def _connections(reader: AnyReader, topics: Sequence[str]) -> list[Any]:
    # An empty list would mean all of them.
    found = [connection for connection in reader.connections if connection.topic in set(topics)]
    if not found:
        raise DatasetError(f"no message on {', '.join(topics)}; topics: {', '.join(sorted(reader.topics))}")
    return found
