"""Files of messages (MCAP, ROS bags): which topics there are, their messages in a time range, one field of a message."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from cluster.lerobot.errors import DatasetError

__all__ = ["MessageFile", "Record", "field_values", "stamp_ns"]

NANOSECONDS = 10**9
MAX_PARTS = 64


class Record(NamedTuple):
    """One message, not decoded."""

    topic: str
    time_ns: int
    """When it was logged."""
    raw: bytes


class MessageFile(AbstractContextManager["MessageFile"], ABC):
    """One recording, opened for reading with ``with``. Whatever is wrong with it is a ``DatasetError`` that names the file."""

    path: Path

    @property
    @abstractmethod
    def topics(self) -> Mapping[str, str]:
        """Message type by topic; empty where the file does not say."""

    @abstractmethod
    def records(self, topics: Collection[str], start_ns: int | None = None, stop_ns: int | None = None) -> Iterator[Record]:
        """Messages of some topics, in the order of the file, which is nearly that of time.

        Args:
            topics: which ones.
            start_ns: none before this time.
            stop_ns: none at or after this time.
        """

    @abstractmethod
    def decode(self, record: Record) -> Any:
        """The message: an object with attributes, or a dictionary where it is JSON."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the file."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def check_topics(self, topics: Collection[str]) -> None:
        """Raise ``DatasetError`` for a topic that is not there."""
        for topic in topics:
            if topic not in self.topics:
                raise DatasetError(f"{self.path}: has no topic {topic!r}; it has: {', '.join(sorted(self.topics)) or 'none'}")


def field_values(message: Any, path: str, where: str) -> tuple[np.ndarray | bytes | str, tuple[str, ...]]:
    """Values of one field, flat, and a name for each component where the message's type has them (``x``, ``y``, ``z``).

    Args:
        message: as ``MessageFile.decode`` gives it.
        path: names of fields with dots between; a number is a place in an array.
        where: file, topic and type, for messages.

    Raises:
        DatasetError: there is no such field, or it holds no numbers.
    """
    found = message
    for part in path.split("."):
        if part.lstrip("-").isdigit() and isinstance(found, (Sequence, np.ndarray)):
            try:
                found = found[int(part)]
            except IndexError:
                raise DatasetError(f"{where}: {path!r}: there are {len(found)} elements") from None
            continue
        members = _members(found)
        if part not in members:
            raise DatasetError(f"{where} has no field {path!r}; it has: {', '.join(sorted(members)) or 'no fields'}")
        found = members[part]
    if isinstance(found, (str, bytes, bytearray, memoryview)):
        return (found if isinstance(found, str) else bytes(found)), ()
    values, names = _flat(found, path, where)
    return np.asarray(values), names


def stamp_ns(message: Any) -> int | None:
    """Time in the header of a message; None: it has none. ROS 1 calls the parts ``secs`` and ``nsecs``, ROS 2 ``sec`` and ``nanosec``."""
    header = _members(message).get("header")
    stamp = _members(_members(header).get("stamp")) if header is not None else {}
    seconds, rest = stamp.get("sec", stamp.get("secs")), stamp.get("nanosec", stamp.get("nsecs", stamp.get("nsec")))
    return None if seconds is None or rest is None else int(seconds) * NANOSECONDS + int(rest)


def _members(value: Any) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return {str(name): part for name, part in value.items()}
    if is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in fields(value) if not field.name.startswith("__")}
    slots = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
    return {name: part for name, part in getattr(value, "__dict__", {}).items() if not name.startswith("_")} | {
        name: getattr(value, name) for name in slots if not name.startswith("_") and hasattr(value, name)
    }


def _flat(value: Any, path: str, where: str, depth: int = 0) -> tuple[list[Any] | np.ndarray, tuple[str, ...]]:
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return value.reshape(-1), ()
    if isinstance(value, (bool, int, float, np.generic)):
        return [value], ()
    if isinstance(value, (list, tuple)) and all(isinstance(part, (bool, int, float)) for part in value):
        return list(value), ()
    members = _members(value)
    if members and len(members) <= MAX_PARTS and depth < 4:
        flat: list[Any] = []
        names: list[str] = []
        for name, part in members.items():
            below, own = _flat(part, f"{path}.{name}", where, depth + 1)
            flat += list(below)
            names += [f"{name}.{one}" for one in own] if own else [name] if len(below) == 1 else [f"{name}.{i}" for i in range(len(below))]
        return flat, tuple(names)
    raise DatasetError(f"{where}: the field {path!r} holds no numbers")
