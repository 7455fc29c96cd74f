"""Where the episodes of one file are: all of it, between pauses, or where a topic marks them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cluster.lerobot.errors import DatasetError
from trainables.datasets.sources.mapping import Mapping
from trainables.datasets.sources.messages import MessageFile, field_values

__all__ = ["Window", "windows"]

NANOSECONDS = 10**9


@dataclass(frozen=True)
class Window:
    """A stretch of a file, by the time at which messages were logged."""

    start_ns: int | None
    stop_ns: int | None
    """The first time that is not in it."""
    task: str = ""


def windows(file: MessageFile, mapping: Mapping) -> Iterator[Window]:
    """The episodes of a file, in order. Raises ``DatasetError`` for a marking topic that is absent or holds no marks."""
    rule = mapping.episodes
    if rule.topic is not None:
        yield from _by_topic(file, rule.topic, rule.field)
    elif rule.gap_s is not None:
        yield from _by_gap(file, mapping.topics, rule.gap_s)
    else:
        yield Window(None, None)


def _by_gap(file: MessageFile, topics: tuple[str, ...], gap_s: float) -> Iterator[Window]:
    begun, last = None, None
    for record in file.records(topics):
        if last is not None and record.time_ns - last > gap_s * NANOSECONDS:
            # Half way: the file is in the order of time only nearly.
            middle = (last + record.time_ns) // 2
            yield Window(begun, middle)
            begun = middle
        last = record.time_ns if last is None else max(last, record.time_ns)
    yield Window(begun, None)


def _by_topic(file: MessageFile, topic: str, field: str) -> Iterator[Window]:
    file.check_topics([topic])
    where = f"{file.path}: {topic} ({file.topics[topic]})"
    begun: int | None = None
    task = ""
    for record in sorted(file.records([topic]), key=lambda record: record.time_ns):
        value, _ = field_values(file.decode(record), field, where)
        if isinstance(value, bytes) or (not isinstance(value, str) and len(value) != 1):
            raise DatasetError(f"{where}: the field {field!r} is no text, number or boolean; it cannot mark episodes")
        if isinstance(value, str):
            if begun is not None:
                yield Window(begun, record.time_ns, task)
            begun, task = (record.time_ns, value) if value else (None, "")
        elif bool(value[0]) and begun is None:
            begun = record.time_ns
        elif not bool(value[0]) and begun is not None:
            yield Window(begun, record.time_ns)
            begun = None
    if begun is not None:
        yield Window(begun, None, task)
