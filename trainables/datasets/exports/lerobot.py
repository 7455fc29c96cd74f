"""LeRobot v3.0: the dataset itself again, in one stream, for whoever wants a folder elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cluster.lerobot.folder import write_dataset
from cluster.lerobot.metadata import DatasetSpec
from trainables.datasets.exports.episodes import Wrote, checked_episodes, with_timestamp
from trainables.datasets.sources.base import Source

__all__ = ["dataset_spec", "export_lerobot"]

WRITTEN_ANEW = ("schema_version", "digest", "split", "validation_fraction", "split_seed")


def dataset_spec(source: Source) -> DatasetSpec:
    """What a dataset of the episodes of ``source`` is; the split is each episode's own."""
    said = {name: value for name, value in source.gaitway.items() if name not in WRITTEN_ANEW}
    return DatasetSpec(source.fps, source.features, source.robot_type, said)


def export_lerobot(source: Source, target: Path, overwrite: bool, wrote: Wrote) -> dict[str, Any]:
    """Write a LeRobot v3.0 folder. See ``registry.export_dataset``."""
    described = with_timestamp(source)
    info = write_dataset(target, checked_episodes(source, described, wrote), dataset_spec(described), overwrite)
    return {
        "target": str(target),
        "format": "lerobot",
        "episodes": info.num_episodes,
        "frames": info.num_frames,
        "missing_videos": [str(video) for video in source.missing_videos],
    }
