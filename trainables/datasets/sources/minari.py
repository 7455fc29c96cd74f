"""Minari 0.5 datasets: ``<id>/data/main_data.hdf5`` with a group an episode and ``metadata.json`` beside it.

An episode of T actions has T + 1 observations there; row t of ours has the observation that action t answers, and the last one is left
out. Observations that are dictionaries or tuples become one feature each. Discrete actions stay whole numbers.
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
from trainables.datasets.sources.arrays import check_lengths, column_of, feature_of
from trainables.datasets.sources.base import Piece, Source
from trainables.datasets.sources.hdf5 import arrays_of, group_in, open_hdf5, read_array

__all__ = ["DATA_FILE", "MinariSource", "open_minari"]

DATA_FILE = "main_data.hdf5"
EPISODES_A_PIECE = 16


@dataclass(frozen=True)
class MinariSource(Source):
    """See ``open_minari``."""

    format: ClassVar[str] = "minari"
    file: Path = Path()
    names: tuple[str, ...] = ()
    task: str = ""

    def pieces(self) -> Sequence[Piece]:
        """Some episodes each."""
        starts = range(0, len(self.names), EPISODES_A_PIECE)
        return [Piece(self.file, self.names[start : start + EPISODES_A_PIECE]) for start in starts]

    def read(self, piece: Piece) -> Iterator[Episode]:
        """See ``Source.read``; the key is the episode's number."""
        with open_hdf5(piece.file) as file:
            for name in piece.episodes:
                columns = _columns(group_in(file, name, piece.file), piece.file)
                where = f"{piece.file}: {name}"
                for feature in self.features:
                    if feature.name not in columns:
                        raise DatasetError(f"{where}: the feature {feature.name!r} is missing (it has: {', '.join(sorted(columns))})")
                check_lengths(columns, where)
                yield Episode(f"{_number(name):07d}", self.task, columns)


def open_minari(path: Path, fps: int | None = None) -> MinariSource:
    """A Minari dataset: its folder, its ``data`` folder or its HDF5 file.

    Args:
        path: see above.
        fps: control steps a second; Minari does not record them.

    Raises:
        DatasetError: it is none, it is kept as Arrow files, or ``fps`` is missing.
    """
    file = next((place for place in (path, path / DATA_FILE, path / "data" / DATA_FILE) if place.is_file()), None)
    if file is None:
        raise DatasetError(f"{path}: no {DATA_FILE} in it or in its folder data; Minari datasets kept as HDF5 are read")
    metadata = _metadata(file.parent / "metadata.json")
    if fps is None:
        raise DatasetError(f"{path}: Minari does not record how many steps a second an environment takes; give them with --fps")
    with open_hdf5(file) as opened:
        names = tuple(sorted((name for name in opened if name.startswith("episode_")), key=_number))
        if not names:
            raise DatasetError(f"{file}: holds no episode_0, episode_1, ...; Minari's layout is wanted")
        columns = _columns(group_in(opened, names[0], file), file)
    environment = str(metadata.get("env_spec") or "")
    try:
        environment = str(json.loads(environment).get("id", ""))
    except ValueError:
        environment = ""
    identity = str(metadata.get("dataset_id", ""))
    return MinariSource(
        path=path,
        fps=fps,
        features=tuple(feature_of(name, values) for name, values in columns.items()),
        gaitway={"lineage": {"kind": "minari", "dataset": identity, "environment": environment}},
        file=file,
        names=names,
        task=identity.rpartition("/")[2] or environment,
    )


def _columns(episode: h5py.Group, path: Path) -> dict[str, np.ndarray]:
    arrays = {name: array for name, array in arrays_of(episode, path) if not name.startswith("infos")}
    if "actions" not in arrays:
        raise DatasetError(f"{path}: {episode.name}: has no array of actions")
    steps = arrays["actions"].shape[0]
    rows = slice(0, steps)
    columns: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        head, _, rest = name.partition("/")
        if head == "observations":
            columns[f"observation.{rest.replace('/', '.')}" if rest else "observation.state"] = column_of(read_array(array, path, rows))
        elif head == "actions":
            columns[f"action.{rest.replace('/', '.')}" if rest else "action"] = column_of(read_array(array, path))
    if "rewards" in arrays:
        columns["next.reward"] = column_of(read_array(arrays["rewards"], path))
    ends = [read_array(arrays[name], path).astype(bool) for name in ("terminations", "truncations") if name in arrays]
    if ends:
        columns["next.done"] = np.logical_or.reduce(ends)
    return columns


def _metadata(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def _number(name: str) -> int:
    digits = name.rpartition("_")[2]
    return int(digits) if digits.isdigit() else 0
