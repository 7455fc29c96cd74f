"""Minari 0.5 HDF5: ``episode_i/{observations, actions, rewards, terminations, truncations}``.

Nested ``Dict`` and ``Tuple`` spaces become one feature a leaf: ``observation.camera.rgb``, ``observation.0``; a plain space is
``observation.state`` or ``action``. An episode of T steps has T + 1 observations; the last, after which nothing was done, is left out.
``infos`` are left out. Minari stores no frame rate: it has to be given.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import h5py
import numpy as np

from cluster.lerobot.episodes import Episode
from cluster.lerobot.errors import DatasetError
from cluster.lerobot.features import Feature
from trainables.datasets.sources.base import Piece, Source
from trainables.datasets.sources.hdf5 import Array, child, leaves, open_hdf5

__all__ = ["DATA_FILE", "MinariSource", "minari_file", "open_minari"]

DATA_FILE = "main_data.hdf5"
STEPS = {"rewards": "next.reward", "terminations": "next.terminated", "truncations": "next.truncated"}
EPISODES_A_PIECE = 32
DONE = Feature("next.done", "bool", (1,))


@dataclass(frozen=True)
class MinariSource(Source):
    """See ``open_minari``."""

    format: ClassVar[str] = "minari"
    places: Mapping[str, str] = field(default_factory=dict)
    """Path of each feature within an episode's group."""
    episodes: tuple[tuple[int, int], ...] = ()
    """Number and steps of each episode."""
    task: str = ""

    def pieces(self) -> Sequence[Piece]:
        """Runs of episodes."""
        runs = [self.episodes[start : start + EPISODES_A_PIECE] for start in range(0, len(self.episodes), EPISODES_A_PIECE)]
        return [Piece(self.path, run, sum(steps for _, steps in run)) for run in runs]

    def read(self, piece: Piece) -> Iterator[Episode]:
        """See ``Source.read``; the key is the episode's number."""
        with open_hdf5(piece.file, self.format) as file:
            for number, steps in piece.episodes or self.episodes:
                yield self._episode(file, number, steps)

    def _episode(self, file: h5py.File, number: int, steps: int) -> Episode:
        where = f"{self.path}: episode {number}"
        present = dict(_leaves(_episode_group(file, number, self.path), self.path))
        columns: dict[str, np.ndarray] = {}
        for feature in self.features:
            if feature.name == DONE.name:
                continue
            array = present.get(self.places[feature.name])
            if array is None:
                raise DatasetError(f"{where}: {self.places[feature.name]} is missing; the first episode has it")
            found = array.feature(feature.name)
            if (found.dtype, found.shape) != (feature.dtype, feature.shape):
                raise DatasetError(
                    f"{where}: {self.places[feature.name]} is {found.dtype}{list(found.shape)}, "
                    f"in the first episode it is {feature.dtype}{list(feature.shape)}"
                )
            columns[feature.name] = array.read(steps)
        columns[DONE.name] = columns["next.terminated"].astype(bool) | columns["next.truncated"].astype(bool)
        return Episode(f"{number:07d}", self.task, columns)


def minari_file(path: Path) -> Path | None:
    """The data file of a Minari dataset given as that file, its ``data`` folder, or the folder above; None: it is none."""
    candidates = [path] if path.is_file() else [path / DATA_FILE, path / "data" / DATA_FILE]
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def open_minari(path: Path, fps: int | None = None) -> MinariSource:
    """A Minari dataset.

    Args:
        path: the dataset's folder, its ``data`` folder, or ``main_data.hdf5`` itself.
        fps: frames a second; the format does not say.

    Raises:
        DatasetError: it is no readable dataset, or no ``fps`` is given.
    """
    file = minari_file(path)
    if file is None:
        raise DatasetError(f"{path}: not a Minari dataset in HDF5: {DATA_FILE} is missing")
    if fps is None:
        raise DatasetError(f"{path}: Minari does not record how many steps a second an environment takes; give them with --fps")
    identity, environment = _identity(file.with_name("metadata.json"))
    with open_hdf5(file, MinariSource.format) as opened:
        numbers = sorted(int(name.removeprefix("episode_")) for name in opened.keys() if name.removeprefix("episode_").isdigit())  # noqa: SIM118
        if not numbers:
            raise DatasetError(f"{file}: holds no episode_0, episode_1, ...; it is no Minari file, or an empty one")
        first = _leaves(_episode_group(opened, numbers[0], file), file)
        places = {_feature_name(place): place for place, _ in first}
        for needed in ("next.reward", "next.terminated", "next.truncated"):
            if needed not in places:
                raise DatasetError(f"{file}: episode {numbers[0]}: {_place_of(needed)} is missing (it has: {', '.join(places.values())})")
        features = [array.feature(_feature_name(place)) for place, array in first]
        for kind in ("observation", "action"):
            if not any(feature.name.split(".")[0] == kind for feature in features):
                raise DatasetError(f"{file}: episode {numbers[0]} has no {kind}s")
        episodes = tuple((number, _steps(_episode_group(opened, number, file), number, file)) for number in numbers)
    return MinariSource(
        path=file,
        fps=fps,
        features=(*features, DONE),
        gaitway={"lineage": {"kind": "minari", "dataset": identity, "environment": environment}},
        places=places,
        episodes=episodes,
        task=identity.rpartition("/")[2] or environment,
    )


def _leaves(group: h5py.Group, file: Path) -> list[tuple[str, Array]]:
    found = []
    for name in ("observations", "actions", *STEPS):
        part = child(group, name, file)
        if isinstance(part, h5py.Dataset):
            found.append((name, Array.of(part, file)))
        elif isinstance(part, h5py.Group):
            found += [(f"{name}/{place}", array) for place, array in leaves(part, file) if not array.is_text]
    return found


def _feature_name(place: str) -> str:
    kind, *parts = place.split("/")
    if kind in STEPS:
        return STEPS[kind]
    name = "observation" if kind == "observations" else "action"
    if not parts:
        return "observation.state" if name == "observation" else name
    return ".".join([name, *(part.removeprefix("_index_") for part in parts)])


def _place_of(name: str) -> str:
    return next(place for place, feature in STEPS.items() if feature == name)


def _episode_group(file: h5py.File, number: int, path: Path) -> h5py.Group:
    group = child(file, f"episode_{number}", path)
    if not isinstance(group, h5py.Group):
        raise DatasetError(f"{path}: episode_{number} is no group")
    return group


def _steps(group: h5py.Group, number: int, file: Path) -> int:
    rewards = child(group, "rewards", file)
    if not isinstance(rewards, h5py.Dataset):
        raise DatasetError(f"{file}: episode {number}: rewards is missing")
    return Array.of(rewards, file).length


def _identity(file: Path) -> tuple[str, str]:
    """Names of the dataset and of its environment, which nothing else needs; empty where they are not said."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        identity = str(found.get("dataset_id") or "")
        specification = found.get("env_spec")
        environment = json.loads(specification) if isinstance(specification, str) else {}
        return identity, str(environment.get("id") or "")
    except (OSError, ValueError, AttributeError):
        return "", ""
