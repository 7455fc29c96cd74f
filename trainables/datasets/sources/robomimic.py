"""robomimic HDF5: ``data/demo_i/{obs/*, actions, rewards, dones, ...}``, ``mask/*``; our own HDF5 exports are such files too.

A file of ours carries a manifest (``/gaitway``) and comes back exactly. In one from elsewhere the groups name the features:
``obs/x`` becomes ``observation.x``, ``actions`` ``action``, ``rewards`` ``next.reward``, ``dones`` ``next.done``; ``next_obs``, which
repeats ``obs``, is left out; ``states``, the simulator's, keep their name. The features are the first demo's. The mask ``valid`` is
the validation split; pixels become PNG (``images.py`` says why); the rate is ``control_freq`` in ``env_args`` or given.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np

from cluster.lerobot.episodes import Episode
from cluster.lerobot.errors import DatasetError
from trainables.datasets.sources.base import Piece, Source
from trainables.datasets.sources.hdf5 import Array, child, equal_lengths, leaves, open_hdf5
from trainables.datasets.sources.manifest import EpisodeEntry, Manifest, missing_videos, videos_folder

__all__ = ["MANIFEST", "RobomimicSource", "open_robomimic"]

MANIFEST = "gaitway"
"""Root dataset of our exports: the manifest as UTF-8 bytes (an attribute could not hold more than 64 KiB)."""
NAMES = {"actions": "action", "rewards": "next.reward", "dones": "next.done"}
LEFT_OUT = ("next_obs",)
EPISODES_A_PIECE = 64
PIECE_BYTES = 32 * 2**20


@dataclass(frozen=True)
class RobomimicSource(Source):
    """See ``open_robomimic``."""

    format: ClassVar[str] = "hdf5"
    places: Mapping[str, str] = field(default_factory=dict)
    """Path of each feature within an episode's group."""
    episodes: tuple[EpisodeEntry, ...] = ()

    def pieces(self) -> Sequence[Piece]:
        """Runs of episodes, a piece about ``PIECE_BYTES``."""
        total = max(1, self.path.stat().st_size)
        share = max(1, round(len(self.episodes) * PIECE_BYTES / total))
        size = min(EPISODES_A_PIECE, share)
        runs = [self.episodes[start : start + size] for start in range(0, len(self.episodes), size)]
        return [Piece(self.path, tuple(entry.key for entry in run), sum(entry.length for entry in run)) for run in runs]

    def read(self, piece: Piece) -> Iterator[Episode]:
        """See ``Source.read``."""
        chosen = set(piece.episodes)
        with open_hdf5(piece.file, self.format) as file:
            for entry in self.episodes:
                if not chosen or entry.key in chosen:
                    yield self._episode(file, entry)

    def _episode(self, file: h5py.File, entry: EpisodeEntry) -> Episode:
        name = str(entry.place["group"])
        group = _group(file, ("data", name), self.path)
        where = f"{self.path}: episode {name}"
        columns: dict[str, np.ndarray] = {}
        for feature in self.features:
            if not feature.is_column:
                continue
            array = _array(group, self.places[feature.name], self.path)
            if array is None:
                raise DatasetError(f"{where}: {self.places[feature.name]} is missing; the first episode has it")
            if not feature.is_visual and (array.feature(feature.name).dtype, array.frame_shape) != (feature.dtype, feature.shape):
                found = array.feature(feature.name)
                raise DatasetError(
                    f"{where}: {self.places[feature.name]} is {found.dtype}{list(found.shape)}, "
                    f"in the first episode it is {feature.dtype}{list(feature.shape)}"
                )
            columns[feature.name] = array.read(entry.length)
        videos = entry.clips(videos_folder(self.path, False), self.path)
        return Episode(entry.key, entry.task, columns, entry.about, videos, entry.split, entry.origin)


def open_robomimic(path: Path, fps: int | None = None) -> RobomimicSource:
    """A robomimic HDF5 file, or one that our export wrote.

    Args:
        path: the file.
        fps: frames a second, where the file does not say.

    Raises:
        DatasetError: it is no readable file of that kind, says no frame rate, or its episodes differ.
    """
    with open_hdf5(path, RobomimicSource.format) as file:
        manifest = child(file, MANIFEST, path)
        if isinstance(manifest, h5py.Dataset):
            return _own(path, Manifest.from_json(Array.of(manifest, path).read().tobytes(), path))
        return _foreign(path, file, fps)


def _own(path: Path, manifest: Manifest) -> RobomimicSource:
    return RobomimicSource(
        path=path,
        fps=manifest.fps,
        features=manifest.features,
        robot_type=manifest.robot_type,
        gaitway=manifest.gaitway,
        missing_videos=missing_videos(manifest.episodes, videos_folder(path, False), path),
        places={name: str(place) for name, place in manifest.places.items()},
        episodes=manifest.episodes,
    )


def _foreign(path: Path, file: h5py.File, fps: int | None) -> RobomimicSource:
    data = _group(file, ("data",), path)
    names = sorted((name for name in data.keys() if name.startswith("demo")), key=_number)  # noqa: SIM118
    if not names:
        raise DatasetError(f"{path}: data holds no demo_0, demo_1, ...; it is no robomimic file, or an empty one")
    environment = _environment(data, path)
    found = [(place, array) for place, array in leaves(_group(data, (names[0],), path), path) if place.split("/")[0] not in LEFT_OUT]
    if not found:
        raise DatasetError(f"{path}: episode {names[0]} is empty; obs/* and actions are wanted")
    places = {_feature_name(place): place for place, _ in found}
    if "action" not in places:
        raise DatasetError(f"{path}: episode {names[0]} has no actions; it has: {', '.join(places.values())}")
    features = tuple(array.feature(_feature_name(place)) for place, array in found)
    validation = _masked(file, ("valid", "validation"), path)
    training = _masked(file, ("train",), path)
    entries = []
    numbers = [_number(name)[0] for name in names]
    if len(set(numbers)) < len(names):
        numbers = list(range(len(names)))
    for number, name in zip(numbers, names, strict=True):
        group = _group(data, (name,), path)
        present = [(place, array) for place in places.values() if (array := _array(group, place, path)) is not None]
        length = equal_lengths(present, f"{path}: episode {name}") if present else 0
        split = "validation" if name in validation else "train" if name in training else ""
        task = str(environment.get("env_name", ""))
        entries.append(EpisodeEntry(f"{number:07d}", task, length, split=split, place={"group": name}))
    return RobomimicSource(
        path=path,
        fps=_frame_rate(path, environment, fps),
        features=features,
        robot_type=_robots(environment),
        gaitway={"lineage": {"kind": "robomimic", "environment": str(environment.get("env_name", ""))}},
        places=places,
        episodes=tuple(entries),
    )


def _feature_name(place: str) -> str:
    if place.startswith("obs/"):
        return f"observation.{place.removeprefix('obs/').replace('/', '.')}"
    return NAMES.get(place, place.replace("/", "."))


def _environment(data: h5py.Group, path: Path) -> Mapping[str, Any]:
    text = data.attrs.get("env_args", "{}")
    try:
        given = json.loads(text)
    except (TypeError, ValueError):
        raise DatasetError(f"{path}: the attribute env_args of data is not JSON") from None
    return given if isinstance(given, Mapping) else {}


def _frame_rate(path: Path, environment: Mapping[str, Any], fps: int | None) -> int:
    given = (environment.get("env_kwargs") or {}).get("control_freq") if fps is None else fps
    if given is None:
        raise DatasetError(f"{path}: does not say how many frames a second it has (env_args has no control_freq); give them with --fps")
    if not isinstance(given, (int, float)) or given < 1 or given != int(given):
        raise DatasetError(f"{path}: the frame rate is {given!r}; a whole number of at least 1 is wanted")
    return int(given)


def _robots(environment: Mapping[str, Any]) -> str:
    robots = (environment.get("env_kwargs") or {}).get("robots", "")
    return ", ".join(map(str, robots)) if isinstance(robots, list) else str(robots)


def _masked(file: h5py.File, names: Sequence[str], path: Path) -> frozenset[str]:
    mask = child(file, "mask", path)
    if not isinstance(mask, h5py.Group):
        return frozenset()
    for name in names:
        found = child(mask, name, path)
        if isinstance(found, h5py.Dataset):
            array = Array.of(found, path)
            return frozenset(value.decode() if isinstance(value, bytes) else str(value) for value in array.dataset[:])
    return frozenset()


def _group(group: h5py.Group, names: Sequence[str], path: Path) -> h5py.Group:
    for name in names:
        found = child(group, name, path)
        if not isinstance(found, h5py.Group):
            raise DatasetError(f"{path}: has no group {group.name.rstrip('/')}/{name}; data/demo_0/obs, actions, ... are wanted")
        group = found
    return group


def _array(group: h5py.Group, place: str, path: Path) -> Array | None:
    *above, last = place.split("/")
    for name in above:
        found = child(group, name, path)
        if not isinstance(found, h5py.Group):
            return None
        group = found
    found = child(group, last, path)
    return Array.of(found, path) if isinstance(found, h5py.Dataset) else None


def _number(name: str) -> tuple[int, str]:
    digits = "".join(letter for letter in name if letter.isdigit())
    return (int(digits) if digits else 0, name)
