"""What happens to an episode between its source and the dataset: chosen, renamed, checked, and copied with changes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from cluster.lerobot.episodes import Episode
from cluster.lerobot.errors import DatasetError
from cluster.lerobot.features import Feature
from trainables.datasets.augmentation.augment import augment
from trainables.datasets.augmentation.config import AugmentationConfig
from trainables.datasets.sources.limits import check_rate

__all__ = ["Adapter", "Steps"]


@dataclass(frozen=True)
class Adapter:
    """Makes the episodes of one source episodes of the dataset. Travels to the tasks."""

    source: str
    fps: int
    features: tuple[Feature, ...]
    prefix: str
    task: str | None
    keep_split: bool
    kept: frozenset[str] | None
    """Keys to keep, as the source has them; None: all."""

    def __call__(self, episode: Episode) -> Iterator[Episode]:
        """None or one episode, checked against the features. Raises ``DatasetError`` with source and episode."""
        if self.kept is not None and episode.key not in self.kept:
            return
        names = {feature.name for feature in self.features}
        adapted = replace(
            episode,
            key=f"{self.prefix}{episode.key}",
            task=episode.task if self.task is None else self.task,
            columns={name: values for name, values in episode.columns.items() if name in names},
            videos={name: clip for name, clip in episode.videos.items() if name in names},
            split=episode.split if self.keep_split else "",
            origin=f"{self.prefix}{episode.origin}" if episode.origin else "",
        )
        try:
            adapted.check(self.features)
            if "timestamp" in adapted.columns:
                check_rate(f"episode {episode.key}", adapted.columns["timestamp"], self.fps)
        except DatasetError as error:
            raise DatasetError(f"{self.source}: {error}") from None
        yield adapted


@dataclass(frozen=True)
class Steps:
    """Everything that happens to an episode between its source and the dataset. Travels to the tasks."""

    adapter: Adapter
    augmentation: AugmentationConfig | None
    fps: int
    robot: str

    def __call__(self, episode: Episode) -> Iterator[Episode]:
        """The episode and its copies. Raises ``DatasetError`` with source and episode."""
        for adapted in self.adapter(episode):
            if self.augmentation is None:
                yield adapted
                continue
            try:
                yield from augment(adapted, self.adapter.features, self.fps, self.robot, self.augmentation)
            except DatasetError as error:
                raise DatasetError(f"{self.adapter.source}: {error}") from None
