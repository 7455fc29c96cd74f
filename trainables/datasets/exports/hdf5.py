"""robomimic-style HDF5: ``data/demo_i/{obs/*, actions, rewards, dones, ...}`` with ``mask/train`` and ``mask/valid``.

Attributes on the data group, the demos and the arrays say what robomimic has no place for, so that the file comes back as it went.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from cluster.lerobot.episodes import Episode
from cluster.lerobot.features import Feature
from trainables.datasets.exports.episodes import ExportedVideos, episodes_of, features_of, replaced_whole
from trainables.datasets.sources.base import Source
from trainables.datasets.sources.described import description_of, facts_of
from trainables.datasets.sources.hdf5 import VLEN_BYTES
from trainables.datasets.sources.robomimic import DESCRIPTION, FEATURE

__all__ = ["export_hdf5"]

_PLACES = {"action": "actions", "next.reward": "rewards", "next.done": "dones"}


def export_hdf5(source: Source, target: Path, overwrite: bool = False) -> dict[str, Any]:
    """Write a source as one file; its videos are copied to ``<target>.videos/``.

    Returns:
        ``episodes``, ``frames``, ``missing_videos``.

    Raises:
        DatasetError: ``target`` is taken or the source cannot be read; nothing is left.
    """
    features = features_of(source)
    videos_target = target.with_name(f"{target.name}.videos")
    frames, splits = 0, {"train": [], "validation": []}
    with replaced_whole(videos_target, overwrite) as videos_folder, replaced_whole(target, overwrite) as partial:
        videos_folder.mkdir()
        videos = ExportedVideos(videos_folder, videos_target)
        with h5py.File(partial, "w") as file:
            data = file.create_group("data")
            for number, episode in enumerate(episodes_of(source)):
                demo = data.create_group(f"demo_{number}")
                _write(demo, videos.moved(episode), features)
                frames += episode.length
                splits.get(episode.split, []).append(f"demo_{number}")
            data.attrs["total"] = frames
            data.attrs["env_args"] = json.dumps({"env_name": source.robot_type, "type": 3, "env_kwargs": {"control_freq": source.fps}})
            data.attrs[DESCRIPTION] = description_of(_with_features(source, features))
            for name, key in (("train", "train"), ("validation", "valid")):
                if splits[name]:
                    file.create_dataset(f"mask/{key}", data=np.array(splits[name], dtype="S"))
            file.flush()
        episodes = number + 1
    if not any(videos_target.iterdir()):
        videos_target.rmdir()
    return {"episodes": episodes, "frames": frames, "missing_videos": videos.missing}


def _write(demo: h5py.Group, episode: Episode, features: tuple[Feature, ...]) -> None:
    demo.attrs["num_samples"] = episode.length
    demo.attrs["task"] = episode.task
    demo.attrs[DESCRIPTION] = facts_of(episode)
    for feature in features:
        if not feature.is_column:
            continue
        place = _PLACES.get(feature.name) or _place(feature.name)
        values = episode.columns[feature.name]
        if feature.dtype == "image":
            array = demo.create_dataset(place, (len(values),), dtype=VLEN_BYTES)
            for row, image in enumerate(values):
                array[row] = np.frombuffer(image, np.uint8)
        else:
            array = demo.create_dataset(place, data=values, compression="lzf")
        array.attrs[FEATURE] = feature.name


def _place(name: str) -> str:
    """``observation.state`` -> ``obs/state``; anything else keeps its name. A slash in a name would make a group."""
    kept = name.replace("/", ".")
    return f"obs/{kept.removeprefix('observation.')}" if kept.startswith("observation.") else kept


def _with_features(source: Source, features: tuple[Feature, ...]) -> Source:
    from dataclasses import replace

    return replace(source, features=features)
