"""robomimic-style HDF5: ``data/demo_i/{actions, rewards, dones, obs/*}``, filter keys under ``mask/``; and our own export of that shape.

Names: ``obs/x`` becomes ``observation.x``, ``actions`` ``action``, ``rewards`` ``next.reward``, ``dones`` ``next.done``; ``states`` (the
simulator's) stays ``states``. Camera images are arrays of pixels there and stay numeric features: to encode them would change them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np

from cluster.lerobot.episodes import Episode
from cluster.lerobot.errors import DatasetError
from cluster.lerobot.features import Feature
from trainables.datasets.sources.arrays import check_lengths, column_of, feature_of
from trainables.datasets.sources.base import Piece, Source
from trainables.datasets.sources.described import episode_facts, features_from, read_description
from trainables.datasets.sources.hdf5 import arrays_of, group_in, open_hdf5, read_array

__all__ = ["DESCRIPTION", "FEATURE", "RobomimicSource", "open_robomimic"]

DESCRIPTION, FEATURE = "gaitway", "gaitway_feature"
"""Attributes of our own exports: of the data group and each demo, and of each array."""
DEMOS_A_PIECE = 16
_NAMES = {"actions": "action", "rewards": "next.reward", "dones": "next.done"}


@dataclass(frozen=True)
class RobomimicSource(Source):
    """See ``open_robomimic``."""

    format: ClassVar[str] = "hdf5"
    demos: tuple[str, ...] = ()
    is_own: bool = False
    validation: frozenset[str] = frozenset()
    has_split: bool = False

    def pieces(self) -> Sequence[Piece]:
        """Some demos each."""
        return [Piece(self.path, self.demos[start : start + DEMOS_A_PIECE]) for start in range(0, len(self.demos), DEMOS_A_PIECE)]

    def read(self, piece: Piece) -> Iterator[Episode]:
        """See ``Source.read``; the key is the demo's number."""
        with open_hdf5(piece.file) as file:
            data = group_in(file, "data", piece.file)
            for name in piece.episodes:
                yield self._episode(group_in(data, name, piece.file), name)

    def _episode(self, demo: h5py.Group, name: str) -> Episode:
        where = f"{self.path}: episode {name}"
        columns = {feature: column_of(read_array(array, self.path)) for feature, array in _arrays(demo, self.path)}
        for feature in self.features:
            if feature.is_column and feature.name not in columns:
                raise DatasetError(f"{where}: the feature {feature.name!r} is missing (it has: {', '.join(sorted(columns))})")
        known = {feature.name: feature for feature in self.features}
        if surplus := sorted(set(columns) - set(known)):
            raise DatasetError(f"{where}: has {surplus[0]!r}, which the first episode lacks")
        check_lengths(columns, where)
        for feature, values in columns.items():
            columns[feature] = _shaped(values, known[feature])
        if self.is_own:
            facts = episode_facts(demo.attrs.get(DESCRIPTION, "{}"), where)
            if facts.pop("length") != len(next(iter(columns.values()))):
                raise DatasetError(f"{where}: has another number of frames than it was written with")
            return Episode(columns=columns, **facts)
        split = ("validation" if name in self.validation else "train") if self.has_split else ""
        task = demo.attrs.get("task", demo.attrs.get("language_instruction", ""))
        return Episode(f"{_number(name):07d}", task if isinstance(task, str) else "", columns, split=split)


def open_robomimic(path: Path, fps: int | None = None) -> RobomimicSource:
    """A robomimic-style file, ours or anybody's.

    Args:
        path: the file.
        fps: frames a second; None: as the file says (``control_freq`` in its ``env_args``).

    Raises:
        DatasetError: it is no such file, holds no demo, or its rate is not known.
    """
    with open_hdf5(path) as file:
        data = group_in(file, "data", path)
        demos = tuple(sorted((name for name in data if name.startswith("demo")), key=_number))
        if not demos:
            raise DatasetError(f"{path}: data holds no demo_0, demo_1, ...; robomimic's layout is wanted")
        validation, has_split = _mask(file, path)
        if DESCRIPTION in data.attrs:
            said = read_description(data.attrs[DESCRIPTION], str(path))
            features = features_from(said.pop("features"), str(path))
            return RobomimicSource(path=path, features=features, demos=demos, is_own=True, **said)
        first = group_in(data, demos[0], path)
        features = tuple(_first_feature(name, array, path) for name, array in _arrays(first, path))
        rate, task = _environment(data)
        fps = fps or rate
        if fps is None:
            raise DatasetError(f"{path}: does not say how many frames a second it has; give them with --fps")
        gaitway = {"lineage": {"kind": "robomimic", "environment": task}} if task else {}
        return RobomimicSource(
            path=path, fps=fps, features=features, gaitway=gaitway, demos=demos, validation=validation, has_split=has_split
        )


def _arrays(demo: h5py.Group, path: Path) -> Iterator[tuple[str, h5py.Dataset]]:
    """Arrays of a demo with the feature's name; what comes after the action (``next_obs``) is the next row's and left out."""
    for place, array in arrays_of(demo, path):
        if FEATURE in array.attrs:
            yield str(array.attrs[FEATURE]), array
        elif not place.startswith("next_obs/"):
            yield (
                _NAMES.get(place, place.replace("obs/", "observation.", 1) if place.startswith("obs/") else place).replace("/", "."),
                array,
            )


def _first_feature(name: str, array: h5py.Dataset, path: Path) -> Feature:
    # One row tells type and shape, and refuses what must not be read at all.
    values = read_array(array, path, slice(0, 1))
    return feature_of(name, column_of(values))


def _shaped(values: np.ndarray, feature: Feature) -> np.ndarray:
    return values.reshape(len(values), *feature.shape) if feature.dtype != "image" and feature.shape != (1,) else values


def _mask(file: h5py.File, path: Path) -> tuple[frozenset[str], bool]:
    if "mask" not in file:
        return frozenset(), False
    names: dict[str, set[str]] = {}
    for name, array in arrays_of(group_in(file, "mask", path), path):
        names[name] = {item.decode() if isinstance(item, bytes) else str(item) for item in array[:]} if array.size < 10**6 else set()
    return frozenset(names.get("valid", ())), "valid" in names


def _environment(data: h5py.Group) -> tuple[int | None, str]:
    try:
        arguments: Any = json.loads(data.attrs.get("env_args", "{}"))
        rate = arguments.get("env_kwargs", {}).get("control_freq")
        return (int(rate) if rate else None), str(arguments.get("env_name", ""))
    except (AttributeError, TypeError, ValueError):
        return None, ""


def _number(name: str) -> int:
    digits = name.rpartition("_")[2]
    return int(digits) if digits.isdigit() else 0
