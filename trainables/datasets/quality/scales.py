"""The range of each component in a dataset, by which steps, noise and stillness become comparable between joints and units."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from cluster.lerobot.episodes import Episode
from cluster.lerobot.errors import DatasetError
from trainables.datasets.quality.limits import Limits
from trainables.datasets.quality.runs import filled, noise
from trainables.datasets.quality.signals import Channel, Signals
from trainables.datasets.sources.base import Source

__all__ = ["Scales", "first_episodes", "probe"]

PROBED_EPISODES = 12
FLOOR_OF_MEDIAN = 0.1
"""Least range, as a share of the median of the others: a joint that nobody moves has one too, or its noise would be motion."""
FLOOR_OF_NOISE = 25.0
"""Least range in standard deviations of the component's noise, for the same reason."""
FLOOR_OF_LIMITS = 0.05
"""Least range, as a share of the distance between known limits."""


@dataclass(frozen=True)
class Scales:
    """Ranges, all above 0."""

    state: np.ndarray | None
    """Shape (state components,)."""
    action: np.ndarray | None
    """Shape (action components,)."""

    @property
    def position(self) -> np.ndarray:
        """Of ``Signals.position``."""
        scale = self.state if self.state is not None else self.action
        assert scale is not None
        return scale


def probe(source: Source, signals: Signals, state_limits: Limits | None, action_limits: Limits | None) -> Scales:
    """Ranges from the first episodes of a dozen pieces, spread over the dataset: between the 0.5th and 99.5th percentile of their frames.

    A spike or a broken sensor in one of them moves a percentile little. Raises ``DatasetError`` when no piece can be read.
    """
    found = list(first_episodes(source, PROBED_EPISODES))
    return Scales(_range(found, signals.state, state_limits), _range(found, signals.action, action_limits))


def first_episodes(source: Source, count: int) -> Iterator[Episode]:
    """One episode of each of some pieces, or several of one where there are fewer pieces. Pieces that cannot be read are passed over."""
    pieces = source.pieces()
    if not pieces:
        raise DatasetError(f"{source.path}: there are no episodes")
    chosen = [pieces[index] for index in np.unique(np.linspace(0, len(pieces) - 1, min(count, len(pieces))).astype(int))]
    each, given, problem = -(-count // len(chosen)), 0, None
    for piece in chosen:
        try:
            for number, episode in enumerate(source.read(piece)):
                given += 1
                yield episode
                if number + 1 >= each:
                    break
        except DatasetError as error:
            problem = problem or error
    if not given:
        raise problem or DatasetError(f"{source.path}: there are no episodes")


def _range(episodes: list[Episode], channel: Channel | None, limits: Limits | None) -> np.ndarray | None:
    if channel is None:
        return None
    parts = [filled(channel.of(episode)) for episode in episodes]
    low, high = np.quantile(np.concatenate(parts), [0.005, 0.995], axis=0)
    found = high - low
    moving = found[found > 0]
    floor = np.full(len(channel), FLOOR_OF_MEDIAN * np.median(moving) if len(moving) else 1.0)
    if limits is not None:
        floor = np.where(np.isfinite(limits.span), np.maximum(floor, FLOOR_OF_LIMITS * limits.span), floor)
    scatter = np.median([noise(part) for part in parts], axis=0)
    return np.maximum(np.maximum(found, floor), FLOOR_OF_NOISE * scatter)
