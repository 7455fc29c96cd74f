"""Hindsight relabelling (Andrychowicz et al. 2017, for commands instead of goals): what was done is what had been commanded."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cluster.errors import ConfigError
from cluster.lerobot.episodes import Episode
from cluster.lerobot.errors import DatasetError
from trainables.datasets.augmentation.components import Layout, in_rows, with_rows
from trainables.datasets.augmentation.config import RelabelStep
from trainables.datasets.augmentation.odometry import check_odometry, forward_velocity_m_s
from trainables.robots.base import RobotSpec

__all__ = ["check_relabel", "relabel"]


def check_relabel(step: RelabelStep, layout: Layout, robot: RobotSpec | None) -> None:
    """Raise ``ConfigError`` where there is no command, or nothing that tells what was achieved."""
    for name in (step.component, step.velocity_component):
        if name is None:
            continue
        try:
            layout.find(name)
        except DatasetError as error:
            raise ConfigError(f"relabel_command: {error}") from None
    if step.velocity_component is None:
        check_odometry(layout, robot)


def relabel(episode: Episode, step: RelabelStep, layout: Layout, robot: RobotSpec | None, fps: float) -> Episode:
    """The commanded forward velocity becomes the mean achieved one. ``about`` gets ``achieved_velocity_m_s`` of the whole episode."""
    if step.velocity_component is not None:
        recorded = layout.find(step.velocity_component)
        achieved = in_rows(episode, layout.features[recorded.feature])[:, recorded.index]
    else:
        assert robot is not None  # ``check`` has seen to it
        achieved = forward_velocity_m_s(episode, layout, robot, fps)
    command = layout.find(step.component)
    rows = in_rows(episode, layout.features[command.feature])
    rows[:, command.index] = _window_mean(achieved, None if step.window_s is None else max(1, round(step.window_s * fps)))
    about = {**episode.about, "achieved_velocity_m_s": round(float(achieved.mean()), 6)}
    return replace(with_rows(episode, {command.feature: rows}, layout.features), about=about)


def _window_mean(values: np.ndarray, frames: int | None) -> np.ndarray:
    """Centred moving mean, over fewer frames at both ends; None: the mean of all."""
    if frames is None or frames >= len(values):
        return np.full(len(values), values.mean())
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    low = np.maximum(index - frames // 2, 0)
    high = np.minimum(low + frames, len(values))
    low = np.maximum(high - frames, 0)
    return (sums[high] - sums[low]) / (high - low)
