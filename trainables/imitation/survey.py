"""One look at every number before anything is trained: that all are finite and in shape, and how those of the training split are spread.

A file is surveyed by a function of its own; small datasets in this process, large ones by Ray tasks.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cluster.lerobot.errors import DatasetError
from cluster.lerobot.features import Feature, to_numpy
from cluster.lerobot.folder import files_of
from cluster.lerobot.info import DatasetInfo, EpisodeInfo
from cluster.lerobot.parquet import open_parquet
from cluster.lerobot.statistics import Statistics
from cluster.settings import Settings
from trainables.datasets.frames import INDEX_COLUMNS

__all__ = ["Spread", "survey"]

LOCAL_BYTES = 256 * 2**20
"""Numbers up to this are read in this process: sooner done than a Ray is started."""
SAMPLE_ROWS = 20_000
"""Rows of each file that percentiles are taken of."""
QUANTILES = (0.01, 0.99)


@dataclass(frozen=True, eq=False)
class Spread:
    """Of one feature over the training split. Arrays of the feature's components, flat."""

    statistics: Statistics
    low_quantile: np.ndarray
    high_quantile: np.ndarray


def survey(info: DatasetInfo, columns: Sequence[str], train_episodes: Collection[int], settings: Settings) -> dict[str, Spread]:
    """Check every frame of ``columns`` and measure the training split.

    Args:
        info: the dataset.
        columns: features to read.
        train_episodes: episodes that are measured; all are checked.
        settings: where Ray is, for datasets that tasks must read.

    Raises:
        DatasetError: with the file, and the episode and frame where a number is not finite or a shape is wrong.
    """
    features = [info.features[name] for name in columns]
    wanted = frozenset(train_episodes)
    work = [(file, episodes, features, wanted) for file, episodes in files_of(info.episodes).items()]
    numbers = info.num_frames * sum(feature.size for feature in features)
    is_small = numbers * 4 <= LOCAL_BYTES
    parts = [part for part in ([_survey_file(*arguments) for arguments in work] if is_small else _by_tasks(work, settings)) if part]
    return {feature.name: _combined([part[feature.name] for part in parts]) for feature in features} if parts else {}


FilePart = dict[str, tuple[Statistics, np.ndarray]]
"""Statistics of a file's training frames, and a sample of them, by feature."""


def _survey_file(file: Path, episodes: Sequence[EpisodeInfo], features: Sequence[Feature], train_episodes: frozenset[int]) -> FilePart:
    names = list(dict.fromkeys([*(feature.name for feature in features), *INDEX_COLUMNS]))
    with open_parquet(file, names) as parquet:
        table = parquet.read(columns=names)
    of_frame, place = (table[name].to_numpy() for name in INDEX_COLUMNS)
    _check_lengths(file, episodes, of_frame)
    used = np.isin(of_frame, np.fromiter(train_episodes, dtype=np.int64))
    sampled = np.flatnonzero(used)
    if len(sampled) > SAMPLE_ROWS:
        sampled = np.sort(np.random.default_rng(len(sampled)).choice(sampled, SAMPLE_ROWS, replace=False))
    parts = {}
    for feature in features:
        try:
            values = to_numpy(table[feature.name], feature)
        except DatasetError as error:
            raise DatasetError(f"{file}: {error}") from None
        values = values.reshape(len(of_frame), -1)
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            row, component = np.argwhere(~np.isfinite(values))[0]
            name = feature.names[component] if feature.names else component
            raise DatasetError(
                f"{file}: episode {of_frame[row]}: {feature.name} ({name}) of frame {place[row]} holds NaN or infinity; "
                "leave the episode out (`gaitway dataset filter`) or record it again"
            )
        if used.any():
            parts[feature.name] = (Statistics.of(values[used]), values[sampled])
    return parts


def _check_lengths(file: Path, episodes: Sequence[EpisodeInfo], of_frame: np.ndarray) -> None:
    found = dict(zip(*(part.tolist() for part in np.unique(of_frame, return_counts=True)), strict=True))
    for episode in episodes:
        if found.get(episode.index, 0) != episode.length:
            raise DatasetError(
                f"{file}: episode {episode.index} has {found.get(episode.index, 0)} frames of the {episode.length} that the metadata name"
            )


def _by_tasks(work: Sequence[tuple[Path, Sequence[EpisodeInfo], Sequence[Feature], frozenset[int]]], settings: Settings) -> list[FilePart]:
    from cluster.runtime.session import ray_session

    with ray_session(settings):
        import ray

        from trainables.datasets.pipeline import own_errors

        look = ray.remote(num_cpus=1, max_retries=1)(_survey_file)
        with own_errors():
            return ray.get([look.remote(*arguments) for arguments in work])


def _combined(parts: Sequence[tuple[Statistics, np.ndarray]]) -> Spread:
    low, high = np.quantile(np.concatenate([sample for _, sample in parts]).astype(np.float64), QUANTILES, axis=0)
    return Spread(Statistics.combined([statistics for statistics, _ in parts]), low, high)
