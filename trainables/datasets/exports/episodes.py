"""The episodes of a source, one at a time, in the shapes and element types that its features say: what an export writes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from cluster.lerobot.episodes import Episode
from cluster.lerobot.errors import DatasetError
from cluster.lerobot.features import INDEX_FEATURES, Feature, with_index_features
from trainables.datasets.sources.base import Source

__all__ = ["Wrote", "checked_episodes", "with_timestamp"]

TIMESTAMP = INDEX_FEATURES[0]
Wrote = Callable[[int], None]
"""Told the frames of each episode."""


def with_timestamp(source: Source) -> Source:
    """The same source, with the feature ``timestamp`` where it has none: LeRobot has one, so a round trip must."""
    if any(feature.name == TIMESTAMP.name for feature in source.features):
        return source
    return replace(source, features=(*source.features, TIMESTAMP))


def checked_episodes(source: Source, described: Source, wrote: Wrote) -> Iterator[Episode]:
    """Episodes of ``source`` as ``described`` (``with_timestamp`` of it) says. NaN passes: an export changes nothing.

    ``wrote`` is told when the next episode is asked for, so when the one before it has been written.

    Raises:
        DatasetError: naming file and episode: a column is missing or has another shape; two episodes have one key; there is none.
    """
    with_index_features(described.features)
    keys: set[str] = set()
    for piece in source.pieces():
        for episode in source.read(piece):
            if episode.key in keys:
                raise DatasetError(f"{piece.file}: two episodes have the key {episode.key!r}")
            keys.add(episode.key)
            columns = dict(episode.columns)
            if TIMESTAMP.name not in columns:
                columns[TIMESTAMP.name] = (np.arange(episode.length) / source.fps).astype(np.float32)
            where = f"{piece.file}: episode {episode.key}"
            stored = {feature.name: _stored(columns, feature, where) for feature in described.features if feature.is_column}
            yield replace(episode, columns=stored)
            wrote(episode.length)
    if not keys:
        raise DatasetError(f"{source.path}: there are no episodes to write")


def _stored(columns: dict[str, np.ndarray], feature: Feature, where: str) -> np.ndarray:
    if feature.name not in columns:
        raise DatasetError(f"{where}: the column {feature.name!r} is missing (columns: {', '.join(columns)})")
    values = np.asarray(columns[feature.name], dtype=object if feature.dtype == "image" else feature.dtype)
    frames = len(columns[TIMESTAMP.name])
    wanted = (frames,) if feature.shape == (1,) or feature.dtype == "image" else (frames, *feature.shape)
    if values.shape != wanted or not frames:
        raise DatasetError(f"{where}: {feature.name} has shape {values.shape}, {wanted} is wanted")
    return values
