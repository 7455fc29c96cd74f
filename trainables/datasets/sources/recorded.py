"""Recordings of messages (MCAP files, ROS bags) as a source: our own exports by what they say of themselves, others by a mapping."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.lerobot.episodes import Episode
from cluster.lerobot.errors import DatasetError
from cluster.lerobot.features import Feature
from trainables.datasets.messages import Channel, channels_of
from trainables.datasets.sources.alignment import Series, aligned, numbers_of
from trainables.datasets.sources.base import Piece, Source
from trainables.datasets.sources.described import episode_facts
from trainables.datasets.sources.mapping import Mapping

__all__ = ["OwnEpisode", "RecordedSource", "mapped_features", "own_episodes"]

EPISODES_A_PIECE = 8


@dataclass(frozen=True)
class OwnEpisode:
    """Where one episode of our own export is."""

    start_ns: int
    end_ns: int
    facts: str


@dataclass(frozen=True)
class RecordedSource(Source):
    """Subclasses read the messages; this makes episodes of them."""

    files: tuple[Path, ...] = ()
    """Recordings that a mapping is applied to; each is at least one episode."""
    mapping: Mapping | None = None
    own: tuple[OwnEpisode, ...] = field(default=(), repr=False)

    @abstractmethod
    def raw(self, file: Path, topics: Sequence[str], start_ns: int, end_ns: int) -> Iterator[tuple[str, int, bytes]]:
        """Messages of our own exports as (topic, time, CDR bytes), from ``start_ns`` to ``end_ns``, both included."""

    @abstractmethod
    def decoded(self, file: Path, topics: Sequence[str]) -> Iterator[tuple[str, int, Any]]:
        """Messages of some topics as (topic, time, message), in the order of time."""

    def pieces(self) -> Sequence[Piece]:
        """Some episodes of our own, or a file."""
        if self.mapping is None:
            starts = range(0, len(self.own), EPISODES_A_PIECE)
            return [Piece(self.files[0], tuple(range(start, min(start + EPISODES_A_PIECE, len(self.own))))) for start in starts]
        return [Piece(file) for file in self.files]

    def read(self, piece: Piece) -> Iterator[Episode]:
        """See ``Source.read``."""
        if self.mapping is None:
            channels = channels_of(self.features)
            for number in piece.episodes:
                yield self._own_episode(piece.file, self.own[number], channels)
        else:
            yield from self._mapped_episodes(piece.file, self.mapping)

    def _own_episode(self, file: Path, own: OwnEpisode, channels: Sequence[Channel]) -> Episode:
        facts = episode_facts(own.facts, str(file))
        where = f"{file}: episode {facts['key']}"
        by_topic = {channel.topic: channel for channel in channels}
        rows: dict[str, list[Any]] = {topic: [] for topic in by_topic}
        for topic, _, data in self.raw(file, list(by_topic), own.start_ns, own.end_ns):
            try:
                rows[topic].append(by_topic[topic].parse(data))
            except (ValueError, IndexError, KeyError, TypeError) as error:  # what a CDR reader says of damaged bytes
                raise DatasetError(f"{where}: a message on {topic} is damaged: {' '.join(str(error).split())[:100]}") from None
        length = facts.pop("length")
        for topic, found in rows.items():
            if len(found) != length:
                raise DatasetError(f"{where}: {topic} has {len(found)} messages, {length} frames were written")
        return Episode(columns={channel.feature.name: channel.column(rows[channel.topic], where) for channel in channels}, **facts)

    def _mapped_episodes(self, file: Path, mapping: Mapping) -> Iterator[Episode]:
        by_topic: dict[str, list[str]] = {}
        for name, given in mapping.features.items():
            by_topic.setdefault(given.topic, []).append(name)
        series = {name: Series() for name in mapping.features}
        last_ns, number = None, 0
        for topic, time_ns, message in self.decoded(file, list(by_topic)):
            gap_s = mapping.episodes.gap_s
            if gap_s is not None and last_ns is not None and time_ns - last_ns > gap_s * 1e9:
                yield from self._finished(series, mapping, file, number)
                series, number = {name: Series() for name in mapping.features}, number + 1
            last_ns = time_ns
            for name in by_topic[topic]:
                series[name].times_ns.append(time_ns)
                series[name].rows.append(numbers_of(message, mapping.features[name], f"{file}: episode {number}"))
        yield from self._finished(series, mapping, file, number)

    def _finished(self, series: dict[str, Series], mapping: Mapping, file: Path, number: int) -> Iterator[Episode]:
        where = f"{file}: episode {number}"
        columns = aligned(series, mapping.features, mapping.fps, where)
        if len(columns["timestamp"]) < mapping.episodes.least_frames:
            return
        for feature in self.features:
            if feature.name == "timestamp":
                continue
            wide = columns[feature.name].shape[1:] or (1,)
            if wide != feature.shape:
                raise DatasetError(f"{where}: the feature {feature.name!r} has {wide[0]} components, the first message has {feature.size}")
        yield Episode(f"{self.files.index(file):05d}-{number:05d}", mapping.task, columns)


def mapped_features(mapping: Mapping, first: dict[str, Any], source: Path) -> tuple[Feature, ...]:
    """The features that a mapping makes, given one message of each topic.

    Raises:
        DatasetError: a topic has no message, or a message no such field.
    """
    features = []
    for name, given in mapping.features.items():
        if given.topic not in first:
            raise DatasetError(f"{source}: no message on {given.topic}, which the feature {name!r} comes from")
        values = numbers_of(first[given.topic], given, str(source))
        names = given.names or _own_names(first[given.topic], given, len(values))
        features.append(Feature(name, given.dtype, (len(values),), names or None, given.unit))
    return (*features, Feature("timestamp", "float32", (1,)))


def own_episodes(entries: Any, source: Path) -> tuple[OwnEpisode, ...]:
    """The list of an export's episodes. Raises ``DatasetError`` when it is not one."""
    try:
        return tuple(OwnEpisode(int(entry["start_ns"]), int(entry["end_ns"]), str(entry["facts"])) for entry in entries)
    except (KeyError, TypeError, ValueError):
        raise DatasetError(f"{source}: its list of episodes is not readable") from None


def _own_names(message: Any, given: Any, count: int) -> tuple[str, ...]:
    if not isinstance(given.field, str):
        return tuple(given.field)
    names = message.get(given.names_field) if isinstance(message, dict) else getattr(message, given.names_field, None)
    return tuple(map(str, names)) if isinstance(names, (list, tuple)) and len(names) == count else ()
