"""``augment(episode, ...)``: the copies of one episode. ``check(...)``: refuse beforehand what could not be made."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cluster.errors import ConfigError
from cluster.lerobot.episodes import Episode
from cluster.lerobot.errors import DatasetError
from cluster.lerobot.features import Feature
from trainables.datasets.augmentation.components import Layout
from trainables.datasets.augmentation.config import (
    AugmentationConfig,
    CropStep,
    LatencyStep,
    MirrorStep,
    NoiseStep,
    RelabelStep,
    ScaleSpeedStep,
    Step,
    TimeWarpStep,
    Variant,
)
from trainables.datasets.augmentation.mirror import mirror
from trainables.datasets.augmentation.relabel import check_relabel, relabel
from trainables.datasets.augmentation.resample import random_warp, resample, uniform_warp
from trainables.datasets.augmentation.sensors import add_noise, check_noise, crop, delay
from trainables.datasets.augmentation.symmetry import symmetry_map
from trainables.robots.base import RobotSpec
from trainables.robots.registry import ROBOTS, get_robot

__all__ = ["augment", "augmented_features", "check"]


def augmented_features(features: Sequence[Feature], config: AugmentationConfig) -> tuple[Feature, ...]:
    """Features of the episodes after ``augment``: the same, or with ``drop_images`` those that are no images or videos."""
    return tuple(feature for feature in features if not (config.drop_images and feature.is_visual))


def check(config: AugmentationConfig, features: Sequence[Feature], robot: str = "") -> None:
    """Everything about ``augment`` that can be known before an episode is read.

    Args:
        config: which copies.
        features: of the dataset.
        robot: whose recordings they are; empty, or a robot that is none of ours: only what the configuration itself names is known.

    Raises:
        ConfigError: naming the variant, what is wrong and what is allowed.
    """
    after = augmented_features(features, config)
    try:
        layout = Layout(after, config.names)
    except DatasetError as error:
        raise ConfigError(str(error)) from None
    for variant in config.variants:
        for step in variant.steps:
            try:
                _check_step(step, layout, after, _robot(robot))
            except ConfigError as error:
                raise ConfigError(f"variant {variant.name}: {error}") from None


def augment(episode: Episode, features: Sequence[Feature], fps: float, robot: str, config: AugmentationConfig) -> list[Episode]:
    """The recorded episode (where it is kept) and its copies, in the order of the variants.

    A copy depends on the episode, its key, the variant, the seed and the copy's number, and on nothing else. Its key is
    ``KEY.VARIANT.NUMBER``, its ``origin`` the recorded episode's key, and ``about`` says ``augmented_from``, ``variant`` (``original``
    for the recorded one), ``keeps_physics``, and what the steps found or drew.

    Args:
        episode: as recorded.
        features: of the dataset, before (``augmented_features`` are those after).
        fps: frames a second.
        robot: see ``check``, which must have passed.
        config: which copies.

    Raises:
        DatasetError: a copy of this episode cannot be made; names it and the variant.
    """
    after = augmented_features(features, config)
    layout = Layout(after, config.names)
    kept = {feature.name for feature in features} - {feature.name for feature in after}
    columns = {name: values for name, values in episode.columns.items() if name not in kept}
    plain = replace(episode, columns=columns, videos={name: clip for name, clip in episode.videos.items() if name not in kept})
    made = []
    if config.keep_original:
        made.append(replace(plain, about={**episode.about, "augmented_from": "", "variant": "original", "keeps_physics": True}))
    for variant in config.variants:
        for copy in range(variant.copies):
            try:
                made.append(_copy(plain, variant, copy, layout, fps, _robot(robot), config.seed))
            except (DatasetError, ConfigError) as error:
                raise DatasetError(f"episode {episode.key}: variant {variant.name}: {error}") from None
    return made


def _copy(plain: Episode, variant: Variant, copy: int, layout: Layout, fps: float, robot: RobotSpec | None, seed: int) -> Episode:
    changed = plain
    for number, step in enumerate(variant.steps):
        changed = _apply(changed, step, layout, fps, robot, _random(seed, plain.key, variant.name, copy, number))
    facts = {"augmented_from": plain.key, "variant": variant.name, "keeps_physics": variant.keeps_physics}
    key = f"{plain.key}.{variant.name}.{copy:03d}"
    return replace(changed, key=key, origin=plain.origin or plain.key, about={**changed.about, **facts})


def _apply(episode: Episode, step: Step, layout: Layout, fps: float, robot: RobotSpec | None, random: np.random.Generator) -> Episode:
    match step:
        case MirrorStep():
            return mirror(episode, step, layout, robot)
        case TimeWarpStep():
            return resample(episode, random_warp(episode.length, fps, step.strength, step.period_s, random), layout, fps)
        case ScaleSpeedStep():
            return resample(episode, uniform_warp(episode.length, random.uniform(*step.factor)), layout, fps)
        case NoiseStep():
            return add_noise(episode, step, layout, random)
        case LatencyStep():
            return delay(episode, step, layout, fps, random)
        case RelabelStep():
            return relabel(episode, step, layout, robot, fps)
        case CropStep():
            return crop(episode, step, fps, random)


def _check_step(step: Step, layout: Layout, features: Sequence[Feature], robot: RobotSpec | None) -> None:
    visual = [feature.name for feature in features if feature.is_visual]
    # An image can be shown at another time as it is; a video is one file for all frames, and a mirror changes every pixel.
    refused = visual if isinstance(step, MirrorStep) else [feature.name for feature in features if feature.dtype == "video"]
    if refused and isinstance(step, (MirrorStep, TimeWarpStep, ScaleSpeedStep)):
        raise ConfigError(f"{step.kind}: {refused[0]} is not decoded, so it cannot be changed; set drop_images: true to leave it out")
    match step:
        case MirrorStep():
            symmetry_map(layout, step, robot)
        case NoiseStep():
            check_noise(step, layout)
        case RelabelStep():
            check_relabel(step, layout, robot)


def _robot(name: str) -> RobotSpec | None:
    return get_robot(name) if name in ROBOTS else None


def _random(seed: int, key: str, variant: str, copy: int, step: int) -> np.random.Generator:
    """The same draws on any node and in any order of the episodes."""
    text = "\0".join((str(seed), key, variant, str(copy), str(step)))
    return np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "big"))
