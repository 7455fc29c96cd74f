"""LeRobot v3.0 folders in training: read through Ray Data in a stream, with all that ``cluster.lerobot`` can do to them.

``read_dataset(path, split="train")`` streams; ``load_frames(path)`` is for data that fit; ``LeRobotSink`` (``sink.py``) writes from a
Ray Data pipeline, ``write_dataset`` from one process. The names of ``cluster.lerobot`` are here too: this is the module to import.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from cluster.lerobot.episodes import Episode
from cluster.lerobot.errors import DatasetError
from cluster.lerobot.features import Feature, to_numpy
from cluster.lerobot.folder import compute_digest, load_frames, write_dataset
from cluster.lerobot.info import DatasetInfo, load_info
from cluster.lerobot.metadata import DatasetSpec
from trainables.datasets.frames import frame_tables

if TYPE_CHECKING:
    import ray.data

__all__ = [
    "DatasetError",
    "DatasetInfo",
    "DatasetSpec",
    "Episode",
    "Feature",
    "compute_digest",
    "load_frames",
    "load_info",
    "read_dataset",
    "write_dataset",
]


def read_dataset(
    path: str | Path, split: str | None = None, episodes: Sequence[int] | None = None, columns: Sequence[str] | None = None
) -> ray.data.Dataset:
    """Frames as a Ray Data dataset, read in a stream by tasks; vector columns are tensors.

    Arguments and errors are those of ``load_frames``. The order of the frames is not promised: sort by ``index`` where it matters.
    The folder must be visible to every node (on one machine it is).
    """
    import ray.data

    info = load_info(path)
    names = info.check_columns(columns)
    chosen = info.select(split, episodes)
    features = {name: info.features[name] for name in names}
    if not chosen:
        return ray.data.from_arrow(pa.schema([(name, feature.arrow_type) for name, feature in features.items()]).empty_table())

    def to_tensors(table: pa.Table) -> dict[str, np.ndarray]:
        return {name: to_numpy(table[name], feature) for name, feature in features.items()}

    tables = frame_tables(info, [episode.index for episode in chosen], names)
    return tables.map_batches(to_tensors, batch_format="pyarrow", zero_copy_batch=True)
