"""Formats that a dataset can be written in."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster.errors import UsageError
from cluster.lerobot.folder import write_dataset
from cluster.lerobot.metadata import DatasetSpec
from trainables.datasets.exports.episodes import episodes_of, features_of, replaced_whole
from trainables.datasets.exports.hdf5 import export_hdf5
from trainables.datasets.exports.mcap import export_mcap
from trainables.datasets.exports.rosbag2 import export_rosbag2
from trainables.datasets.sources.base import Source

__all__ = ["EXPORTS", "export_dataset"]


def export_lerobot(source: Source, target: Path, overwrite: bool = False) -> dict[str, Any]:
    """Write a source as a LeRobot v3.0 folder. Returns and raises as ``export_hdf5``."""
    own = {name: value for name, value in source.gaitway.items() if name not in ("digest", "split", "schema_version")}
    with replaced_whole(target, overwrite) as partial:
        shutil.rmtree(partial, ignore_errors=True)
        info = write_dataset(partial, episodes_of(source), DatasetSpec(source.fps, features_of(source), source.robot_type, own))
    return {"episodes": info.num_episodes, "frames": info.num_frames, "missing_videos": [str(file) for file in source.missing_videos]}


EXPORTS: dict[str, Callable[[Source, Path, bool], dict[str, Any]]] = {
    "lerobot": export_lerobot,
    "hdf5": export_hdf5,
    "mcap": export_mcap,
    "rosbag2": export_rosbag2,
}
"""Name of the format -> how it is written."""


def export_dataset(source: Source, format: str, target: Path, overwrite: bool = False) -> dict[str, Any]:
    """Write a source in another format, whole or not at all.

    Args:
        source: what to write.
        format: one of ``EXPORTS``.
        target: the file or folder to make.
        overwrite: replace what is there.

    Returns:
        ``target``, ``format``, ``episodes``, ``frames``, ``missing_videos``.

    Raises:
        UsageError: the format is not known.
        DatasetError: ``target`` is taken, or the source cannot be read.
    """
    if format not in EXPORTS:
        raise UsageError(f"unknown format {format!r}; datasets are written as {', '.join(EXPORTS)}")
    return {"target": str(target), "format": format, **EXPORTS[format](source, target.absolute(), overwrite)}
