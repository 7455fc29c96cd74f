"""Preparation: sources that fit together, one pipeline over their episodes, the dataset that comes out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.bundle import sha256_file
from cluster.errors import GaitwayError
from cluster.lerobot.episodes import Episode
from cluster.lerobot.errors import DatasetError
from cluster.lerobot.features import Feature
from cluster.lerobot.folder import write_dataset
from cluster.lerobot.info import DatasetInfo
from cluster.lerobot.metadata import DatasetSpec
from cluster.lerobot.shards import count_staged_episodes
from cluster.runtime.session import ray_session
from cluster.settings import Settings
from cluster.stage import StageContext
from trainables.datasets.augmentation.augment import augmented_features
from trainables.datasets.augmentation.augment import check as check_augmentation
from trainables.datasets.catalogue import find_dataset
from trainables.datasets.joints import check_joints
from trainables.datasets.pipeline import episode_rows, map_episodes, own_errors, polled
from trainables.datasets.quality.grading import grade_source
from trainables.datasets.sources.base import Source
from trainables.datasets.sources.lerobot import LeRobotSource, open_lerobot
from trainables.datasets.steps import Adapter, Steps
from trainables.datasets.versions import publish_version

if TYPE_CHECKING:
    from trainables.prepare import Config, SourceConfig

__all__ = ["open_sources", "prepare"]

DEFAULT_VALIDATION_FRACTION = 0.1
INLINE_BYTES = 16 * 2**20
"""Sources of no more bytes are read and written here and now: a second of work needs no cluster, which takes five to start."""
HASHED_BYTES = 2**30
"""A source file up to this size is told by its SHA-256 in the lineage, a larger one by its size: the episodes have digests anyway."""
OF_TASK = ("task", "task_config", "robot", "references", "control_dt_s", "contract")
"""What a dataset says of itself that stays true for its episodes in another dataset."""


def open_sources(config: Config, settings: Settings, collected: str | None = None) -> list[Source]:
    """Every source, opened and checked against the others and the robot.

    Args:
        config: what to read.
        settings: where named datasets are.
        collected: the dataset of the stage collect.

    Raises:
        GaitwayError: one cannot be read, or they do not fit together.
    """
    sources = [_open(source, settings, collected) for source in config.sources]
    first = sources[0]
    for source in sources:
        if source.fps != first.fps:
            raise DatasetError(f"{source.path}: has {source.fps} frames a second, {first.path} has {first.fps}; sources must have one rate")
        _check_same_features(first, source, config)
        if config.robot:
            check_joints(source.features, config.robot, str(source.path))
    known = {feature.name for feature in first.features}
    for label, names in (("leave_out", config.leave_out), ("units", tuple(config.units))):
        if unknown := sorted(set(names) - known):
            raise DatasetError(f"{label}: {first.path} has no feature {unknown[0]!r}; it has: {', '.join(sorted(known))}")
    _of_task(sources)
    if config.augmentation:
        check_augmentation(config.augmentation, _features(first, config), _robot(first, config))
    return sources


def prepare(config: Config, context: StageContext) -> dict[str, Any]:
    """See ``trainables.prepare.run``."""
    collected = "collect" in context.results
    sources = open_sources(config, context.settings, context.result("collect", "dataset") if collected else None)

    def make(folder: Path) -> dict[str, Any]:
        return _write(config, sources, folder, context)

    if config.name is None:
        return make(context.folder / ("prepared_data" if collected else "data"))
    identity = hashlib.sha256(config.model_dump_json().encode()).hexdigest()[:16]
    version, result, is_new = publish_version(context.settings, config.name, identity, make)
    return {**result, "dataset": str(version.path), "version": version.label, "is_new": is_new}


def _write(config: Config, sources: Sequence[Source], folder: Path, context: StageContext) -> dict[str, Any]:
    features = _features(sources[0], config)
    after = augmented_features(features, config.augmentation) if config.augmentation else features
    spec = _spec(config, sources, after)
    is_small = sum(_bytes(source.path) for source in sources) <= INLINE_BYTES
    with nullcontext() if is_small else ray_session(context.settings):  # one for grading and writing
        kept, dropped = _filtered(config, sources, context)
        steps = []
        for number, source in enumerate(sources):
            prefix = f"{number:03d}-" if len(sources) > 1 else ""
            adapter = Adapter(str(source.path), source.fps, features, prefix, config.task, config.validation_fraction is None, kept[number])
            steps.append(Steps(adapter, config.augmentation, source.fps, _robot(source, config)))
        with context.progress.task("prepare", None, "episodes") as task:
            if is_small:
                episodes = (changed for source, step in zip(sources, steps, strict=True) for one in _read(source) for changed in step(one))
                info = write_dataset(folder, episodes, spec, overwrite=True)
            else:
                info = _write_in_tasks(sources, steps, spec, folder, context.settings.shared_path / "staging", task.update)
            task.update(info.num_episodes, frames=float(info.num_frames))
    return {
        "dataset": str(folder),
        "digest": info.digest,
        "episodes": info.num_episodes,
        "frames": info.num_frames,
        "dropped": dropped,
        "missing_videos": [str(video) for source in sources for video in source.missing_videos],
    }


def _write_in_tasks(
    sources: Sequence[Source],
    steps: Sequence[Steps],
    spec: DatasetSpec,
    folder: Path,
    staging: Path,
    update: Callable[[float], None],
) -> DatasetInfo:
    """The pipeline: every piece is read, changed and written by one task, on whatever node is free."""
    # Ray reads how to authenticate when it is imported, and the session chooses that: nothing imports Ray before.
    from trainables.datasets.sink import LeRobotSink

    sink = LeRobotSink(folder, spec, staging, overwrite=True)
    with polled(lambda: update(count_staged_episodes(sink.staging))), own_errors():
        rows = [
            map_episodes(episode_rows(source), source.features, step, spec.features) for source, step in zip(sources, steps, strict=True)
        ]
        (rows[0].union(*rows[1:]) if len(rows) > 1 else rows[0]).write_datasink(sink)
    return sink.info()


def _read(source: Source) -> Iterator[Episode]:
    return (episode for piece in source.pieces() for episode in source.read(piece))


def _bytes(path: Path) -> int:
    return path.stat().st_size if path.is_file() else sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _filtered(config: Config, sources: Sequence[Source], context: StageContext) -> tuple[list[frozenset[str] | None], dict[str, str]]:
    """Keys to keep of each source (None: all), and why the others are left out, by key in the dataset.

    Raises:
        DatasetError: no episode reaches the grade.
    """
    if config.min_grade is None:
        return [None] * len(sources), {}
    kept: list[frozenset[str] | None] = []
    dropped: dict[str, str] = {}
    for number, source in enumerate(sources):
        grade = grade_source(source, config.quality, context.settings, context.progress, config.robot)
        keys = grade.kept(config.min_grade)
        kept.append(keys)
        prefix = f"{number:03d}-" if len(sources) > 1 else ""
        dropped |= {f"{prefix}{one.key}": f"grade {one.letter}: {one.reason}" for one in grade.episodes if one.key not in keys}
    if not any(kept):
        worst = next(iter(dropped.items()))
        raise DatasetError(f"no episode is of grade {config.min_grade} or better; {worst[0]} is of {worst[1]}")
    return kept, dropped


def _robot(source: Source, config: Config) -> str:
    return config.robot or str(source.gaitway.get("robot") or source.robot_type)


def _features(source: Source, config: Config) -> tuple[Feature, ...]:
    kept = [feature for feature in source.features if feature.name not in config.leave_out]
    return tuple(replace(feature, unit=config.units.get(feature.name, feature.unit)) for feature in kept)


def _spec(config: Config, sources: Sequence[Source], features: tuple[Feature, ...]) -> DatasetSpec:
    fraction = DEFAULT_VALIDATION_FRACTION if config.validation_fraction is None else config.validation_fraction
    lineage = {
        "kind": "prepared",
        "config": config.model_dump(mode="json"),
        "sources": [_lineage(source, given) for source, given in zip(sources, config.sources, strict=True)],
    }
    robot = config.robot or sources[0].robot_type
    own = _of_task(sources)
    if config.robot:
        own["robot"] = config.robot
    return DatasetSpec(sources[0].fps, features, robot, {**own, "lineage": lineage}, fraction, config.seed)


def _of_task(sources: Sequence[Source]) -> dict[str, Any]:
    """What all sources say alike. Raises ``DatasetError`` where two name different tasks or robots."""
    said: dict[str, Any] = {}
    for name in OF_TASK:
        values = [source.gaitway.get(name) for source in sources]
        if name in ("task", "robot"):
            for source, value in zip(sources, values, strict=True):
                if value != values[0]:
                    raise DatasetError(
                        f"{source.path}: belongs to the {name} {value!r}, {sources[0].path} to {values[0]!r}; prepare them apart"
                    )
        if name == "references" and any(values):
            said[name] = {key: reference for value in values for key, reference in (value or {}).items()}
        elif values[0] is not None and all(value == values[0] for value in values):
            said[name] = values[0]
    return said


def _lineage(source: Source, given: SourceConfig) -> dict[str, Any]:
    entry: dict[str, Any] = {"given": given.dataset, "path": str(source.path), "format": source.format}
    if isinstance(source, LeRobotSource):
        entry["digest"] = source.digest
    elif source.path.is_file():
        size = source.path.stat().st_size
        entry |= {"size_bytes": size, **({"sha256": sha256_file(source.path)} if size <= HASHED_BYTES else {})}
    return entry | ({"lineage": source.gaitway["lineage"]} if source.gaitway.get("lineage") else {})


def _open(given: SourceConfig, settings: Settings, collected: str | None) -> Source:
    name = given.dataset or collected
    if name is None:
        raise GaitwayError("a source without a dataset is what the stage collect made, which has not run here; give sources[].dataset")
    path = Path(name)
    if not path.exists():
        path = find_dataset(settings, name)
    if given.episodes is not None:
        return open_lerobot(path.resolve(), given.episodes)
    from trainables.datasets.sources.detect import open_source

    return open_source(path.resolve(), given.format, given.mapping, given.fps)


def _check_same_features(first: Source, source: Source, config: Config) -> None:
    left, right = ({feature.name: feature for feature in one.features if feature.name not in config.leave_out} for one in (first, source))
    for name in [*left, *right]:
        if name not in right or name not in left:
            lacking, having = (source, first) if name not in right else (first, source)
            raise DatasetError(f"{lacking.path}: the feature {name!r} is missing, {having.path} has it; put it into leave_out or add it")
        if (left[name].dtype, left[name].shape, left[name].names) != (right[name].dtype, right[name].shape, right[name].names):
            raise DatasetError(f"{source.path}: the feature {name!r} is {_say(right[name])}, in {first.path} it is {_say(left[name])}")


def _say(feature: Feature) -> str:
    return f"{feature.dtype}{list(feature.shape)} ({', '.join(feature.names) if feature.names else 'unnamed'})"
