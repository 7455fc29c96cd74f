"""``.npz`` demonstrations: a file an episode, or one file with ``episode_ends`` (or ``dones`` / ``terminals`` and ``timeouts``).

The arrays have a row a frame. ``obs``, ``observations``, ``state`` are ``observation.state``; ``actions``, ``rewards``, ``dones`` what they
say; any other array keeps its name. ``fps`` in the file, timestamps, or ``--fps`` tell the rate. Pickled objects are never read.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from cluster.lerobot.episodes import Episode
from cluster.lerobot.errors import DatasetError
from trainables.datasets.sources.arrays import STANDARD_NAMES, check_lengths, column_of, feature_of, rate_hz
from trainables.datasets.sources.base import Piece, Source

__all__ = ["NpzSource", "open_npz"]

MOST_BYTES = 8 * 2**30
MOST_RATIO, FREE_BYTES = 1000, 64 * 2**20
"""As for HDF5: what is declared must be in proportion to what is stored."""
FACTS = frozenset({"fps", "episode_ends", "timeouts", "joint_names", "names", "task"})
"""Entries that are not a row a frame."""


@dataclass(frozen=True)
class NpzSource(Source):
    """See ``open_npz``."""

    format: ClassVar[str] = "npz"
    files: tuple[Path, ...] = ()

    def pieces(self) -> Sequence[Piece]:
        """A file each."""
        return [Piece(file) for file in self.files]

    def read(self, piece: Piece) -> Iterator[Episode]:
        """See ``Source.read``; the key is the file's place and the episode's number in it."""
        arrays = _load(piece.file)
        columns = _columns(arrays)
        for feature in self.features:
            if feature.name not in columns:
                raise DatasetError(f"{piece.file}: the feature {feature.name!r} is missing (it has: {', '.join(sorted(columns))})")
        own = {feature.name: columns[feature.name] for feature in self.features}
        frames = check_lengths(own, str(piece.file))
        place = self.files.index(piece.file)
        task = str(arrays["task"]) if "task" in arrays and arrays["task"].ndim == 0 else piece.file.stem if len(self.files) > 1 else ""
        start = 0
        for number, end in enumerate(_ends(arrays, columns, frames, piece.file)):
            episode = {name: values[start:end] for name, values in own.items()}
            if "timestamp" in episode:
                episode["timestamp"] = (episode["timestamp"] - episode["timestamp"][0]).astype(np.float32)
                found = rate_hz(episode["timestamp"], f"{piece.file}: episode {number}") if end - start > 1 else self.fps
                if abs(found - self.fps) > 0.1 * self.fps:
                    raise DatasetError(
                        f"{piece.file}: episode {number}: its timestamps are {found} a second, the first episode's {self.fps}"
                    )
            yield Episode(f"{place:05d}-{number:05d}", task, episode)
            start = end


def open_npz(path: Path, fps: int | None = None) -> NpzSource:
    """One ``.npz`` file, or a folder of them.

    Raises:
        DatasetError: there is none, one cannot be read, or the rate is not known.
    """
    files = (path,) if path.is_file() else tuple(sorted(path.glob("*.npz")))
    if not files:
        raise DatasetError(f"{path}: holds no .npz file")
    arrays = _load(files[0])
    columns = _columns(arrays)
    check_lengths(columns, str(files[0]))
    if fps is None and "fps" in arrays and arrays["fps"].size == 1:
        fps = int(arrays["fps"].reshape(-1)[0])
    if fps is None and "timestamp" in columns:
        fps = rate_hz(columns["timestamp"], str(files[0]))
    if fps is None or fps < 1:
        raise DatasetError(f"{path}: does not say how many frames a second it has; give them with --fps")
    names = arrays.get("joint_names", arrays.get("names"))
    joints = tuple(str(name) for name in names.reshape(-1)) if names is not None else ()
    features = []
    for name, values in columns.items():
        feature = feature_of(name, values.astype(np.float32) if name == "timestamp" else values)
        named = joints if len(joints) == feature.size and feature.shape != (1,) and name in ("action", "observation.state") else None
        features.append(type(feature)(feature.name, feature.dtype, feature.shape, named))
    return NpzSource(path=path, fps=fps, features=tuple(features), files=files)


def _columns(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {
        STANDARD_NAMES.get(name, name): column_of(values)
        for name, values in arrays.items()
        if name not in FACTS and values.ndim > 0 and values.dtype.kind in "biuf"
    }


def _ends(arrays: dict[str, np.ndarray], columns: dict[str, np.ndarray], frames: int, file: Path) -> list[int]:
    """Row after the last of each episode."""
    if "episode_ends" in arrays:
        ends = [int(end) for end in arrays["episode_ends"].reshape(-1)]
        if ends != sorted(set(ends)) or not ends or ends[0] < 1 or ends[-1] != frames:
            raise DatasetError(f"{file}: episode_ends must rise to the {frames} frames that there are, given {ends[:5]}")
        return ends
    done = columns["next.done"].astype(bool).copy() if "next.done" in columns else np.zeros(frames, dtype=bool)
    if "timeouts" in arrays and len(arrays["timeouts"]) == frames:
        done |= arrays["timeouts"].reshape(-1).astype(bool)
    return sorted({*(np.flatnonzero(done) + 1).tolist(), frames})


def _load(file: Path) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(file) as archive:
            for member in archive.infolist():
                declared, stored = member.file_size, member.compress_size
                if declared > MOST_BYTES or (declared > FREE_BYTES and declared > MOST_RATIO * stored):
                    raise DatasetError(f"{file}: {member.filename} declares {declared:,} bytes and stores {stored:,}; refused")
        with np.load(file, allow_pickle=False) as opened:
            return {name: opened[name] for name in opened.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        words = "it holds pickled objects, which are never read" if "allow_pickle" in str(error) else " ".join(str(error).split())[:120]
        raise DatasetError(f"{file}: not a readable .npz file: {words}") from None
