"""``.npz`` demonstrations: a file an episode, or one file with ``episode_ends`` (or ``dones`` / ``terminals`` and ``timeouts``).

The arrays have a row a frame. ``obs``, ``observations``, ``state`` are ``observation.state``; ``actions``, ``rewards``, ``dones`` what they
say; any other array keeps its name. ``fps`` in the file, timestamps, or ``--fps`` tell the rate. Timestamps begin at 0 in each episode.
Pictures (uint8, height x width x channels) become PNG. Files are read an episode at a time; pickled objects never.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from cluster.lerobot.episodes import Episode
from cluster.lerobot.errors import DatasetError
from cluster.lerobot.features import Feature
from trainables.datasets.sources.arrays import STANDARD_NAMES, column_of, rate_hz
from trainables.datasets.sources.base import Piece, Source
from trainables.datasets.sources.images import encode_png, is_pixels
from trainables.datasets.sources.limits import check_rate
from trainables.datasets.sources.npy import Member, open_npz_file, read_small

__all__ = ["NpzSource", "open_npz"]

FACTS = frozenset({"fps", "episode_ends", "timeouts", "joint_names", "names", "task"})
"""Entries that are not a row a frame of a feature."""
FIRST_ROWS = 256
"""Of the timestamps, to tell the rate by."""


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
        file = piece.file
        with open_npz_file(file) as (archive, members), ExitStack() as stack:
            own = _columns_of(members)
            for feature in self.features:
                if feature.name not in own:
                    raise DatasetError(f"{file}: the feature {feature.name!r} is missing (it has: {', '.join(sorted(own))})")
                found = _feature(feature.name, own[feature.name])
                if (found.dtype, found.shape) != (feature.dtype, feature.shape):
                    raise DatasetError(
                        f"{file}: {feature.name} is {found.dtype}{list(found.shape)}, in {self.files[0].name} it is "
                        f"{feature.dtype}{list(feature.shape)}"
                    )
            used = {feature.name: own[feature.name] for feature in self.features}
            frames = _frames(used, file)
            ends = _ends(archive, members, own, frames, file)
            place, task = self.files.index(file), self._task(archive, members, file)
            rows = {name: stack.enter_context(member.opened(archive)) for name, member in used.items()}
            start = 0
            for number, end in enumerate(ends):
                columns = {name: _column(rows[name].read(end - start), name) for name in rows}
                if "timestamp" in columns:
                    times_s = columns["timestamp"].astype(np.float64)
                    check_rate(f"{file}: episode {number}", times_s, self.fps)
                    columns["timestamp"] = (times_s - times_s[0]).astype(np.float32)
                yield Episode(f"{place:05d}-{number:05d}", task, columns)
                start = end

    def _task(self, archive: zipfile.ZipFile, members: Mapping[str, Member], file: Path) -> str:
        if "task" in members and members["task"].shape == () and members["task"].dtype.kind == "U":
            return str(read_small(archive, members["task"]))
        return file.stem if len(self.files) > 1 else ""


def open_npz(path: Path, fps: int | None = None) -> NpzSource:
    """One ``.npz`` file, or a folder of them.

    Args:
        path: see above.
        fps: frames a second, where no file says.

    Raises:
        DatasetError: there is none, one cannot be read, or the rate is not known.
    """
    files = (path,) if path.is_file() else tuple(sorted(path.glob("*.npz")))
    if not files:
        raise DatasetError(f"{path}: holds no .npz file")
    file = files[0]
    with open_npz_file(file) as (archive, members):
        own = _columns_of(members)
        frames = _frames(own, file)
        if fps is None and "fps" in members and np.prod(members["fps"].shape) == 1:
            fps = int(read_small(archive, members["fps"]).reshape(-1)[0])
        if fps is None and "timestamp" in own:
            with own["timestamp"].opened(archive) as rows:
                fps = rate_hz(rows.read(min(frames, FIRST_ROWS)), str(file))
        joints: tuple[str, ...] = ()
        for name in ("joint_names", "names"):
            if name in members and members[name].dtype.kind == "U" and not joints:
                joints = tuple(str(joint) for joint in read_small(archive, members[name]).reshape(-1))
    if fps is None or fps < 1:
        raise DatasetError(f"{path}: does not say how many frames a second it has; give them with --fps")
    features = []
    for name, member in own.items():
        feature = _feature(name, member)
        fits = len(joints) == feature.size and feature.shape != (1,) and name in ("action", "observation.state")
        features.append(replace(feature, names=joints) if fits else feature)
    return NpzSource(path=path, fps=fps, features=tuple(features), files=files)


def _columns_of(members: Mapping[str, Member]) -> dict[str, Member]:
    """The arrays with a row a frame, by the name of the feature."""
    found: dict[str, Member] = {}
    for name, member in members.items():
        if name in FACTS or not member.shape or member.dtype.kind not in "biuf":
            continue
        feature = STANDARD_NAMES.get(name, name.replace("/", "."))
        if feature in found:
            raise DatasetError(f"{member.file}: {found[feature].name} and {name} would both be {feature}; rename one")
        found[feature] = member
    return found


def _feature(name: str, member: Member) -> Feature:
    if name == "timestamp":
        return Feature(name, "float32", (1,))
    if is_pixels(member.dtype, member.shape[1:]):
        return Feature(name, "image", member.shape[1:], ("height", "width", "channels"))
    return Feature(name, member.dtype.newbyteorder("=").name, member.shape[1:] or (1,))


def _column(rows: np.ndarray, name: str) -> np.ndarray:
    if name != "timestamp" and is_pixels(rows.dtype, rows.shape[1:]):
        images = np.empty(len(rows), dtype=object)
        images[:] = [encode_png(pixels) for pixels in rows]
        return images
    return column_of(rows)


def _frames(columns: Mapping[str, Member], file: Path) -> int:
    lengths = {name: member.shape[0] for name, member in columns.items()}
    if not lengths:
        raise DatasetError(f"{file}: has no arrays with a row a frame")
    if len(set(lengths.values())) > 1:
        raise DatasetError(f"{file}: its arrays have different numbers of frames: {', '.join(f'{n} {k}' for n, k in lengths.items())}")
    frames = next(iter(lengths.values()))
    if not frames:
        raise DatasetError(f"{file}: has no frames")
    return frames


def _ends(archive: zipfile.ZipFile, members: Mapping[str, Member], columns: Mapping[str, Member], frames: int, file: Path) -> list[int]:
    """Row after the last of each episode."""
    if "episode_ends" in members:
        ends = [int(end) for end in read_small(archive, members["episode_ends"]).reshape(-1)]
        if ends != sorted(set(ends)) or not ends or ends[0] < 1 or ends[-1] != frames:
            raise DatasetError(f"{file}: episode_ends must rise to the {frames} frames that there are, given {ends[:5]}")
        return ends
    done = np.zeros(frames, dtype=bool)
    for member in (columns.get("next.done"), members.get("timeouts")):
        if member is not None and member.row_bytes <= 8 and member.shape[0] == frames:
            done |= read_small(archive, member).reshape(-1).astype(bool)
    return sorted({*(np.flatnonzero(done) + 1).tolist(), frames})
