"""What every export does: all episodes of a source in order, one at a time, into a name beside the target, then one rename."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from cluster.lerobot.episodes import Episode
from cluster.lerobot.errors import DatasetError
from cluster.lerobot.features import INDEX_FEATURES, Feature
from cluster.lerobot.videos import VideoClip
from trainables.datasets.sources.base import Source

__all__ = ["ExportedVideos", "episodes_of", "features_of", "replaced_whole"]

_TIMESTAMP = next(feature for feature in INDEX_FEATURES if feature.name == "timestamp")


def features_of(source: Source) -> tuple[Feature, ...]:
    """The source's features, ``timestamp`` among them."""
    return source.features if any(feature.name == "timestamp" for feature in source.features) else (*source.features, _TIMESTAMP)


def episodes_of(source: Source) -> Iterator[Episode]:
    """Every episode in order, with timestamps."""
    for piece in source.pieces():
        for episode in source.read(piece):
            if "timestamp" in episode.columns:
                yield episode
            else:
                stamps = (np.arange(episode.length) / source.fps).astype(np.float32)
                yield replace(episode, columns={**episode.columns, "timestamp": stamps})


class ExportedVideos:
    """Copies the video files beside an export, each once, and renames the clips to where they are then."""

    def __init__(self, folder: Path, final: Path) -> None:
        self._folder, self._final = folder, final
        self._places: dict[Path, Path] = {}
        self.missing: list[str] = []

    def moved(self, episode: Episode) -> Episode:
        """The episode with the clips of the copies; a missing file keeps its name."""
        return replace(episode, videos={key: replace(clip, file=self._place(key, clip)) for key, clip in episode.videos.items()})

    def _place(self, key: str, clip: VideoClip) -> Path:
        if clip.file not in self._places:
            name = f"{key}/{len(self._places):06d}{clip.file.suffix or '.mp4'}"
            self._places[clip.file] = self._final / name
            if clip.file.is_file():
                (self._folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(clip.file, self._folder / name)
            else:
                self.missing.append(str(clip.file))
                self._places[clip.file] = clip.file
        return self._places[clip.file]


@contextmanager
def replaced_whole(target: Path, overwrite: bool) -> Iterator[Path]:
    """A hidden name beside ``target``, to write a file or folder at; it becomes ``target`` when the block ends well, else it is removed.

    Raises:
        DatasetError: something is at ``target`` and ``overwrite`` is off.
    """
    if target.exists() and not overwrite:
        raise DatasetError(f"{target}: is there already; give another name, or --overwrite to replace it")
    target.parent.mkdir(parents=True, exist_ok=True)
    for leftover in target.parent.glob(f".{target.name}.partial-*"):
        _remove(leftover)
    partial = target.parent / f".{target.name}.partial-{os.getpid()}"
    try:
        yield partial
        old = target.parent / f".{target.name}.partial-old-{os.getpid()}"
        if target.exists():
            os.rename(target, old)
        os.rename(partial, target)
        _remove(old)
    finally:
        _remove(partial)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
