"""Where an export goes: written under a hidden name beside the target and moved into place at the end.

A failed export leaves nothing. A killed one leaves hidden files, which the next export to the same target removes. The videos of an
export that is one file are in a folder beside it, which is moved into place first: the file appears last.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cluster.lerobot.episodes import Episode
from cluster.lerobot.errors import DatasetError
from trainables.datasets.sources.manifest import videos_folder

__all__ = ["Videos", "publishing"]

MARK = ".gaitway-export"
"""In every folder that an export makes, so that ``--overwrite`` never replaces a folder of somebody else's."""


@dataclass
class Videos:
    """The video files of an export: each source file is copied once, under a name that tells its feature and its number."""

    folder: Path
    names: dict[Path, str] = field(default_factory=dict)
    """Name within the folder of each source file."""
    missing: list[Path] = field(default_factory=list)
    _counts: dict[str, int] = field(default_factory=dict)

    def take(self, episode: Episode) -> dict[Path, str]:
        """Copy the files of an episode's clips that are not there yet. Returns the names so far. A missing one keeps its name."""
        for feature, clip in episode.videos.items():
            if clip.file in self.names:
                continue
            safe = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in feature).lstrip(".") or "video"
            count = self._counts[safe] = self._counts.get(safe, -1) + 1
            name = self.names[clip.file] = f"{safe}/{count:06d}{clip.file.suffix}"
            if not clip.file.is_file():
                self.missing.append(clip.file)
                continue
            target = self.folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            (self.folder / MARK).touch()
            shutil.copyfile(clip.file, target)
            _make_durable(target)
        return self.names


@contextmanager
def publishing(target: Path, overwrite: bool, is_folder: bool) -> Iterator[tuple[Path, Videos]]:
    """A place to write to, and one for the videos; both become the target when the block ends without an error.

    Args:
        target: file or folder to make.
        overwrite: replace an export that is there already.
        is_folder: whether it is a folder.

    Raises:
        DatasetError: ``target`` is taken, or is something that no export made.
    """
    beside = None if is_folder else videos_folder(target, False)
    _check(target, overwrite, is_folder)
    if beside is not None and beside.exists() and not (beside / MARK).is_file():
        raise DatasetError(f"{beside}: exists and no export made it; give another name or remove it")
    target.parent.mkdir(parents=True, exist_ok=True)
    for leftover in target.parent.glob(f".{_escaped(target.name)}.partial-*"):
        _remove(leftover)
    partial = target.parent / f".{target.name}.partial-{uuid.uuid4().hex}"
    videos = Videos(videos_folder(partial, is_folder))
    try:
        if is_folder:
            partial.mkdir()
            (partial / MARK).touch()
        yield partial, videos
        if beside is not None:
            _replace(videos.folder, beside)
        for file in partial.rglob("*") if is_folder else [partial]:
            if file.is_file():
                _make_durable(file)
        _replace(partial, target)
    except OSError as error:
        raise DatasetError(f"{target}: cannot be written: {error.strerror or error}") from None
    finally:
        _remove(partial)
        if beside is not None:
            _remove(videos.folder)


def _check(target: Path, overwrite: bool, is_folder: bool) -> None:
    if not target.exists() or (is_folder and target.is_dir() and not any(target.iterdir())):
        return
    if not overwrite:
        raise DatasetError(f"{target}: is there already; give another name, or --overwrite to replace it")
    if target.is_dir() != is_folder or (is_folder and not (target / MARK).is_file()):
        raise DatasetError(f"{target}: exists and is nothing that this export made; it is not replaced: give another name or remove it")


def _replace(made: Path, place: Path) -> None:
    """Move ``made``, which may be absent, to ``place``; what was there is removed."""
    if place.is_dir():
        old = place.parent / f".{place.name}.partial-{uuid.uuid4().hex}"
        os.rename(place, old)
        if made.exists():
            os.rename(made, place)
        _remove(old)
    elif made.exists():
        os.replace(made, place)


def _make_durable(file: Path) -> None:
    with file.open("rb") as opened:
        os.fsync(opened.fileno())


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _escaped(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)
