"""``export_dataset(source, format, target)``: whichever format it should be."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster.errors import UsageError
from cluster.progress import Progress
from trainables.datasets.exports.episodes import Wrote
from trainables.datasets.sources.base import Source

__all__ = ["EXPORTS", "export_dataset"]

EXPORTS = ("lerobot", "hdf5", "mcap", "rosbag2")


def export_dataset(source: Source, format: str, target: Path, overwrite: bool = False, progress: Progress | None = None) -> dict[str, Any]:
    """Write every episode of a source in a format, in one stream: a process holds one episode at a time.

    Args:
        source: what to write.
        format: one of ``EXPORTS``.
        target: file (``hdf5``, ``mcap`` with a name that ends in ``.mcap``) or folder to make. It appears whole or not at all.
        overwrite: replace an export that is there already.
        progress: where to report; None: nowhere.

    Returns:
        ``target``, ``format``, ``episodes``, ``frames`` and ``missing_videos``, which the export names but does not hold.

    Raises:
        UsageError: there is no such format.
        DatasetError: the target is taken, or an episode cannot be read or does not fit the features.
    """
    if format not in EXPORTS:
        raise UsageError(f"unknown format {format!r}; datasets are written as {', '.join(EXPORTS)}")
    # The libraries of one format are loaded only for it.
    module = importlib.import_module(f"trainables.datasets.exports.{format}")
    write: Callable[[Source, Path, bool, Wrote], dict[str, Any]] = getattr(module, f"export_{format}")
    total = sum(piece.frames for piece in source.pieces())
    with (progress or Progress(mode="quiet")).task("export", float(total) or None, "frames") as task:
        return write(source, Path(target).absolute(), overwrite, lambda frames: task.update(task.completed + frames))
