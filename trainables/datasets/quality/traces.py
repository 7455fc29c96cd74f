"""Traces of single episodes for the page: joints and commands over time, thinned so that a spike stays."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np

from cluster.lerobot.episodes import Episode
from cluster.lerobot.errors import DatasetError
from trainables.datasets.quality.runs import filled
from trainables.datasets.quality.signals import find_signals, joint_name
from trainables.datasets.sources.base import Piece, Source
from trainables.datasets.sources.lerobot import LeRobotSource

__all__ = ["Trace", "read_traces"]

MOST_POINTS = 900


@dataclass(frozen=True)
class Trace:
    """Of one episode."""

    seconds: np.ndarray
    """Shape (points,)."""
    joints: tuple[str, ...]
    state: dict[str, np.ndarray]
    """Joint -> values, shape (points,)."""
    action: dict[str, np.ndarray]


def read_traces(source: Source, keys: Collection[str]) -> dict[str, Trace]:
    """The episodes called ``keys``, read again; one that cannot be read is left out."""
    signals = find_signals(source.features, str(source.path))
    traces = {}
    for episode in _episodes(source, set(keys)):
        state, action = (
            {} if channel is None else _by_joint(channel.of(episode), channel.names) for channel in (signals.state, signals.action)
        )
        places = _thinned([*state.values(), *action.values()])
        seconds = np.arange(episode.length) / source.fps
        stamps = np.asarray(episode.columns.get("timestamp", seconds), dtype=np.float64).reshape(-1)
        if np.isfinite(stamps).all() and (np.diff(stamps) > 0).all():
            seconds = stamps - stamps[0]
        joints = tuple(dict.fromkeys([*state, *action]))
        parts = ({name: values[places] for name, values in side.items()} for side in (state, action))
        traces[episode.key] = Trace(seconds[places], joints, *parts)
    return traces


def _episodes(source: Source, keys: set[str]) -> Iterator[Episode]:
    if isinstance(source, LeRobotSource):
        pieces = [Piece(item.data_file, (item.index,)) for item in source.episodes if f"{item.index:07d}" in keys]
    else:
        pieces = list(source.pieces())
    for piece in pieces:
        if not keys:
            return
        try:
            for episode in source.read(piece):
                if episode.key in keys:
                    keys.discard(episode.key)
                    yield episode
        except DatasetError:
            continue


def _by_joint(values: np.ndarray, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    short = [joint_name(name) for name in names]
    labels = short if len(set(short)) == len(short) else list(names)
    return dict(zip(labels, filled(values).T, strict=True))


def _thinned(series: list[np.ndarray]) -> np.ndarray:
    """Frames to draw: all of a short episode; of a long one evenly spread ones and the largest steps of each joint."""
    length = len(series[0]) if series else 0
    if length <= MOST_POINTS:
        return np.arange(length)
    even = np.linspace(0, length - 1, MOST_POINTS // 2).astype(int)
    each = max(2, MOST_POINTS // (4 * len(series)))
    steps = [np.argpartition(np.abs(np.diff(values)), -each)[-each:] for values in series]
    large = np.concatenate(steps)
    return np.unique(np.concatenate([even, large, large + 1]))
