"""Messages at their own times -> rows on one frame clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cluster.lerobot.errors import DatasetError
from trainables.datasets.sources.mapping import FieldMapping

__all__ = ["Series", "aligned", "numbers_of"]


@dataclass
class Series:
    """What arrived of one feature, in the order of time."""

    times_ns: list[int] = field(default_factory=list)
    rows: list[np.ndarray] = field(default_factory=list)


def numbers_of(message: Any, given: FieldMapping, where: str) -> np.ndarray:
    """The numbers of one message. Shape (components,).

    Raises:
        DatasetError: it has no such field, or lacks a component that the mapping names.
    """
    if isinstance(given.field, str):
        values = np.atleast_1d(_array(_field(message, given.field, where), given.field, where))
        if not given.names:
            return values
        present = [str(name) for name in _field(message, given.names_field, where)]
        missing = [name for name in given.names if name not in present]
        if missing:
            raise DatasetError(f"{where}: {given.topic} has no component {missing[0]!r}; it has: {', '.join(present)}")
        if len(values) != len(present):
            raise DatasetError(f"{where}: {given.topic} names {len(present)} components and has {len(values)} in {given.field}")
        return values[[present.index(name) for name in given.names]]
    return np.concatenate([np.atleast_1d(_array(_field(message, name, where), name, where)) for name in given.field])


def aligned(series: Mapping[str, Series], features: Mapping[str, FieldMapping], fps: int, where: str) -> dict[str, np.ndarray]:
    """Rows of every feature at the same instants, ``1 / fps`` apart, as long as all of them last; and ``timestamp`` (s, from 0).

    Raises:
        DatasetError: a feature has no message, has rows of different sizes, or is older than allowed at some frame.
    """
    for name, one in series.items():
        if not one.times_ns:
            raise DatasetError(f"{where}: no message on {features[name].topic}, which the feature {name!r} comes from")
    start = max(one.times_ns[0] for one in series.values())
    end = min(one.times_ns[-1] for one in series.values())
    frames = int((end - start) * fps // 10**9) + 1 if end >= start else 0
    clock = start + np.arange(frames, dtype=np.int64) * 10**9 // fps
    columns = {name: _on_clock(one, features[name], clock, name, where) for name, one in series.items()}
    columns["timestamp"] = (np.arange(frames) / fps).astype(np.float32)
    return columns


def _on_clock(series: Series, given: FieldMapping, clock: np.ndarray, name: str, where: str) -> np.ndarray:
    times = np.asarray(series.times_ns, dtype=np.int64)
    if (sizes := {len(row) for row in series.rows}) and len(sizes) > 1:
        raise DatasetError(f"{where}: {given.topic} has {sorted(sizes)} components; the feature {name!r} needs as many in every message")
    rows = np.stack(series.rows)
    order = np.argsort(times, kind="stable")
    times, rows = times[order], rows[order]
    before = np.clip(np.searchsorted(times, clock, side="right") - 1, 0, len(times) - 1)
    after = np.minimum(before + 1, len(times) - 1)
    used = before
    if given.align == "nearest":
        used = np.where(np.abs(times[after] - clock) < np.abs(clock - times[before]), after, before)
    age_s = np.abs(clock - times[used]) / 1e9
    if len(clock) and age_s.max() > given.max_age_s:
        frame = int(age_s.argmax())
        raise DatasetError(
            f"{where}: {given.topic} is silent for {age_s.max():.3g} s at frame {frame} (max_age_s: {given.max_age_s:g}); "
            "split the episode there with episodes.gap_s, or allow more"
        )
    if given.align == "linear":
        span = np.maximum(times[after] - times[before], 1)
        share = np.clip((clock - times[before]) / span, 0.0, 1.0)[:, None]
        values = rows[before] * (1 - share) + rows[after] * share
    else:
        values = rows[used]
    values = values.astype(given.dtype)
    return values[:, 0] if values.shape[1] == 1 else values


def _field(message: Any, path: str, where: str) -> Any:
    value = message
    for part in path.split("."):
        try:
            if isinstance(value, dict):
                value = value[part]
            elif part.isdigit() and not hasattr(value, part):
                value = value[int(part)]
            else:
                value = getattr(value, part)
        except (AttributeError, KeyError, IndexError, TypeError):
            raise DatasetError(f"{where}: a message has no field {part!r} of {path!r}; it has: {', '.join(_names(value))}") from None
    return value


def _names(value: Any) -> Sequence[str]:
    if isinstance(value, dict):
        return sorted(map(str, value))
    return sorted(
        getattr(value, "__slots__", None) or [name for name in vars(value) if not name.startswith("_")]
        if hasattr(value, "__dict__") or hasattr(value, "__slots__")
        else [type(value).__name__]
    )


def _array(value: Any, path: str, where: str) -> np.ndarray:
    try:
        return np.asarray(value, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError):
        raise DatasetError(f"{where}: the field {path!r} holds {type(value).__name__}; numbers are wanted") from None
