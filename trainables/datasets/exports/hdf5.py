"""robomimic-style HDF5: one file, a group an episode, and a manifest that makes it come back exactly.

``observation.x`` is ``obs/x``, ``action`` ``actions``, ``next.reward`` ``rewards``, ``next.done`` ``dones``, any other feature
``other/...``. Element types are kept as they are; encoded images are variable-length bytes, one file a frame, not decoded.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from cluster.lerobot.episodes import Episode
from cluster.lerobot.features import Feature
from trainables.datasets.exports.episodes import Wrote, checked_episodes, with_timestamp
from trainables.datasets.exports.target import publishing
from trainables.datasets.sources.base import Source
from trainables.datasets.sources.manifest import EpisodeEntry, Manifest
from trainables.datasets.sources.robomimic import MANIFEST

__all__ = ["export_hdf5"]

PLACES = {"action": "actions", "next.reward": "rewards", "next.done": "dones"}
MASKS = {"train": "train", "validation": "valid"}


def export_hdf5(source: Source, target: Path, overwrite: bool, wrote: Wrote) -> dict[str, Any]:
    """Write one HDF5 file. See ``registry.export_dataset``."""
    described = with_timestamp(source)
    places = _places(described.features)
    entries: list[EpisodeEntry] = []
    with publishing(target, overwrite, is_folder=False) as (partial, videos), h5py.File(partial, "w") as file:
        data = file.create_group("data")
        for number, episode in enumerate(checked_episodes(source, described, wrote)):
            name = f"demo_{number}"
            _write(data.create_group(name), episode, described.features, places)
            entries.append(EpisodeEntry.of(episode, videos.take(episode), {"group": name}))
        data.attrs["total"] = sum(entry.length for entry in entries)
        data.attrs["env_args"] = json.dumps(_environment(source))
        manifest = Manifest.of(described, places, entries).to_json().encode()
        file.create_dataset(MANIFEST, data=np.frombuffer(manifest, np.uint8))
        for split, mask in MASKS.items():
            names = [str(entry.place["group"]) for entry in entries if entry.split == split]
            if names:
                file.create_dataset(f"mask/{mask}", data=np.array(names, dtype="S"))
    return {
        "target": str(target),
        "format": "hdf5",
        "episodes": len(entries),
        "frames": sum(entry.length for entry in entries),
        "missing_videos": [str(video) for video in videos.missing],
    }


def _write(group: h5py.Group, episode: Episode, features: tuple[Feature, ...], places: dict[str, str]) -> None:
    group.attrs["num_samples"] = episode.length
    group.attrs["task"] = episode.task
    for feature in features:
        if not feature.is_column:
            continue
        values = episode.columns[feature.name]
        if feature.dtype == "image":
            dataset = group.create_dataset(places[feature.name], (episode.length,), dtype=h5py.vlen_dtype(np.uint8))
            for frame, image in enumerate(values):
                dataset[frame] = np.frombuffer(image, np.uint8)
        else:
            dataset = group.create_dataset(places[feature.name], data=values)
        dataset.attrs["feature"] = feature.name
        if feature.unit:
            dataset.attrs["unit"] = feature.unit
        # HDF5 keeps attributes in 64 KiB; the manifest has the names of a feature of thousands of components.
        if feature.names and sum(map(len, feature.names)) < 16_384:
            dataset.attrs["names"] = list(feature.names)


def _places(features: tuple[Feature, ...]) -> dict[str, str]:
    """A path within an episode's group for each feature; different ones, whatever the names hold."""
    places: dict[str, str] = {}
    for feature in features:
        if not feature.is_column:
            continue
        name, group = feature.name, "other"
        if name.startswith("observation.") and name != "observation.":
            name, group = name.removeprefix("observation."), "obs"
        safe = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name).strip(".") or "feature"
        place = PLACES.get(feature.name, f"{group}/{safe}")
        while place in places.values():
            place += "_"
        places[feature.name] = place
    return places


def _environment(source: Source) -> dict[str, Any]:
    """As robomimic's readers want it; the type is theirs for an environment that is none of their own."""
    return {
        "env_name": str(source.gaitway.get("task") or source.robot_type),
        "type": 2,
        "env_kwargs": {"control_freq": source.fps, "robots": [source.robot_type]},
    }
