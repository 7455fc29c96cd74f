"""One feature out of a message: its fields joined, elements in the order that the mapping wants, whatever order the message has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cluster.lerobot.errors import DatasetError
from cluster.lerobot.features import Feature
from trainables.datasets.sources.images import image_shape
from trainables.datasets.sources.mapping import FieldMapping
from trainables.datasets.sources.messages import field_values

__all__ = ["FeatureReader"]

JOINT_STATES = ("sensor_msgs/msg/JointState", "sensor_msgs/JointState", "JointState")
MAX_NAMED = 8


@dataclass(frozen=True)
class FeatureReader:
    """Reads one feature from messages of its topic. Travels to the tasks."""

    name: str
    mapping: FieldMapping
    feature: Feature
    names_field: str | None
    """Field that names the elements; None: they are told by their place."""
    wanted: tuple[str, ...] = ()
    """Elements in order, where a field names them."""

    @classmethod
    def of(cls, name: str, mapping: FieldMapping, message: Any, where: str, kind: str) -> FeatureReader:
        """For messages like ``message``, the first of the topic.

        Args:
            name: of the feature.
            mapping: of the feature.
            message: decoded.
            where: file and topic, for messages.
            kind: message type.

        Raises:
            DatasetError: a field is not there, or the names do not fit.
        """
        where = f"{where} ({kind})" if kind else where
        if mapping.dtype == "image":
            image = _image(message, mapping, where)
            feature = Feature(name, "image", image_shape(image, where), ("height", "width", "channels"))
            return cls(name, mapping, feature, None)
        names_field = mapping.names_field or ("name" if kind in JOINT_STATES else None)
        if names_field:
            wanted = mapping.names or _names(message, names_field, where)
            reader = cls(name, mapping, Feature(name, mapping.dtype, (1,)), names_field, wanted)
            size = len(reader.values(message, where, kind))
            parts = wanted if len(mapping.fields) == 1 else tuple(f"{field}.{part}" for field in mapping.fields for part in wanted)
            return cls(name, mapping, Feature(name, mapping.dtype, (size,), parts, mapping.unit), names_field, wanted)
        found = [_numbers(message, field, where) for field in mapping.fields]
        parts_found: list[str] = []
        named = True
        for field, (values, own) in zip(mapping.fields, found, strict=True):
            named = named and (bool(own) or len(values) == 1)
            parts_found += [f"{field}.{one}" for one in own] if own else [field]
        size = sum(len(values) for values, _ in found)
        names = mapping.names or (tuple(parts_found) if named else ())
        if names and len(names) != size:
            raise DatasetError(f"{where}: names has {len(names)} names, {', '.join(mapping.fields)} {size} components")
        if size == 0:
            raise DatasetError(f"{where}: {', '.join(mapping.fields)} has no values in the first message")
        return cls(name, mapping, Feature(name, mapping.dtype, (size,), names or None, mapping.unit), None)

    def values(self, message: Any, where: str, kind: str) -> np.ndarray | bytes:
        """Of one message. Shape (components,), or an encoded image.

        Raises:
            DatasetError: joints are missing, or there are more or fewer values than in the first message.
        """
        where = f"{where}: {self.mapping.topic} ({kind})"
        if self.mapping.dtype == "image":
            return _image(message, self.mapping, where)
        parts = [_numbers(message, field, where)[0] for field in self.mapping.fields]
        if self.names_field is None:
            joined = np.concatenate(parts)
            if len(joined) != self.feature.size:
                raise DatasetError(f"{where}: {self.name} has {len(joined)} components, in the first message it has {self.feature.size}")
            return joined
        places = {name: place for place, name in enumerate(_names(message, self.names_field, where))}
        missing = [name for name in self.wanted if name not in places]
        if missing:
            raise DatasetError(
                f"{where}: {self.names_field} lacks {', '.join(missing[:MAX_NAMED])} (it has: {', '.join(list(places)[:MAX_NAMED])})"
            )
        order = [places[name] for name in self.wanted]
        for field, part in zip(self.mapping.fields, parts, strict=True):
            if len(part) != len(places):
                raise DatasetError(f"{where}: {field} has {len(part)} values for {len(places)} names")
        return np.concatenate([part[order] for part in parts])


def _numbers(message: Any, field: str, where: str) -> tuple[np.ndarray, tuple[str, ...]]:
    found, names = field_values(message, field, where)
    if isinstance(found, str):
        raise DatasetError(f"{where}: the field {field!r} holds text; numbers are wanted")
    return (np.frombuffer(found, np.uint8) if isinstance(found, bytes) else found), names


def _names(message: Any, field: str, where: str) -> tuple[str, ...]:
    found = message
    for part in field.split("."):
        found = found.get(part) if isinstance(found, dict) else getattr(found, part, None)
    if not isinstance(found, (list, tuple)) or not found or not all(isinstance(name, str) for name in found):
        raise DatasetError(f"{where}: {field} is no list of names")
    if len(set(found)) != len(found):
        raise DatasetError(f"{where}: {field} has a name twice: {', '.join(found[:MAX_NAMED])}")
    return tuple(found)


def _image(message: Any, mapping: FieldMapping, where: str) -> bytes:
    found, _ = field_values(message, mapping.fields[0], where)
    if isinstance(found, str):
        raise DatasetError(f"{where}: the field {mapping.fields[0]!r} holds text; an encoded image is wanted")
    return found if isinstance(found, bytes) else found.astype(np.uint8).tobytes()
