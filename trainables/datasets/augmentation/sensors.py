"""Imperfect sensing and sending: white noise, late sensors, late actuators, and a part of an episode."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cluster.errors import ConfigError
from cluster.lerobot.episodes import Episode
from cluster.lerobot.errors import DatasetError
from cluster.lerobot.videos import VideoClip
from trainables.datasets.augmentation.columns import choose_frames, mark_end, with_clock
from trainables.datasets.augmentation.components import Component, Layout, in_rows, with_rows
from trainables.datasets.augmentation.config import CropStep, LatencyStep, NoiseStep

__all__ = ["add_noise", "check_noise", "crop", "delay"]


def check_noise(step: NoiseStep, layout: Layout) -> None:
    """Raise ``ConfigError`` for a pattern that means nothing, or a command or previous action by name."""
    for pattern in {**step.absolute, **step.relative, **step.limits}:
        found = [component for component in layout.every() if component.is_observation and component.matches(pattern)]
        if not found:
            raise ConfigError(f"observation_noise: {pattern!r} is no observed component, field or pattern; {layout.near(pattern)}")
        if not any(component.is_sensed for component in found):
            raise ConfigError(
                f"observation_noise: {pattern!r} is a command or the previous action, which the controller knows exactly; "
                "noise goes on sensors"
            )


def add_noise(episode: Episode, step: NoiseStep, layout: Layout, random: np.random.Generator) -> Episode:
    """White noise on what was sensed: never on commands, previous actions or the action. Whole numbers and booleans stay."""
    rows: dict[str, np.ndarray] = {}
    for name, components in layout.components.items():
        feature = layout.features[name]
        sensed = [component for component in components if component.is_sensed]
        if not sensed or np.dtype(feature.dtype).kind != "f":
            continue
        values = in_rows(episode, feature)
        deviation = np.array([_deviation(component, values[:, component.index], step) for component in sensed])
        places = [component.index for component in sensed]
        # Every component draws, so that a deviation that is set to 0 does not change the draws of the others.
        values[:, places] += random.standard_normal((len(values), len(places))) * deviation
        for component in sensed:
            for pattern, (low, high) in step.limits.items():
                if component.matches(pattern):
                    np.clip(values[:, component.index], low, high, out=values[:, component.index])
        rows[name] = values
    return with_rows(episode, rows, layout.features)


def _deviation(component: Component, values: np.ndarray, step: NoiseStep) -> float:
    """The last pattern that means a component counts; absolute and relative noise add as independent ones do."""
    absolute = [deviation for pattern, deviation in step.absolute.items() if component.matches(pattern)]
    relative = [share for pattern, share in step.relative.items() if component.matches(pattern)]
    return float(np.hypot(absolute[-1] if absolute else 0.0, (relative[-1] if relative else 0.0) * values.std()))


def delay(episode: Episode, step: LatencyStep, layout: Layout, fps: float, random: np.random.Generator) -> Episode:
    """Late by k control steps, k drawn from ``step.steps``; the k frames for which one side is missing are left out.

    Late sensors: frame t shows what was sensed at t - k beside the command, previous action and action of t. Late actuators:
    frame t shows what was observed at t beside the action of t + k, which had to be sent then to arrive in time, and the
    previous action is the one sent just before. ``about`` gets ``latency_steps``.

    Raises:
        DatasetError: the episode is too short for the delay.
    """
    late = int(random.integers(step.steps[0], step.steps[1] + 1))
    about = {**episode.about, "latency_steps": late}
    if episode.length <= late + 1:
        raise DatasetError(f"it has {episode.length} frames, too few for a delay of {late}")
    length = episode.length - late
    sensors = step.target == "observations"
    early = choose_frames(episode, 0, length, fps)
    columns = {name: np.asarray(values)[late:] for name, values in episode.columns.items()}
    rows: dict[str, np.ndarray] = {}
    for name, feature in layout.features.items():
        if name not in episode.columns:
            continue
        if feature.is_visual or name not in layout.components:
            # Images are sensors. What follows a step (next.*) belongs to the state that the step was taken in.
            if feature.is_visual or not sensors:
                columns[name] = early.columns[name]
            continue
        values = in_rows(episode, feature, None)
        moved = values[late:].copy()
        for component in layout.components[name]:
            of_sensors = component.is_sensed if sensors else not (component.is_previous_action or name == "action")
            if of_sensors:
                moved[:, component.index] = values[:length, component.index]
        rows[name] = moved
    videos = {
        key: VideoClip(clip.file, clip.from_timestamp_s, clip.from_timestamp_s + length / fps) for key, clip in episode.videos.items()
    }
    shifted = with_rows(replace(episode, columns=columns, videos=videos, about=about), rows, layout.features)
    return mark_end(episode, with_clock(shifted, fps))


def crop(episode: Episode, step: CropStep, fps: float, random: np.random.Generator) -> Episode:
    """A part of the episode; where it leaves out the end, it is not marked as ended. ``about`` gets ``crop_start``.

    Raises:
        DatasetError: the episode is shorter than ``min_frames``.
    """
    if episode.length < step.min_frames:
        raise DatasetError(f"it has {episode.length} frames, fewer than min_frames {step.min_frames}")
    frames = min(episode.length, max(step.min_frames, round(random.uniform(*step.share) * episode.length)))
    start = int(random.integers(0, episode.length - frames + 1))
    part = choose_frames(episode, start, start + frames, fps)
    return replace(part, about={**episode.about, "crop_start": start})
