"""ROS 2 bags: a folder with ``metadata.yaml`` and a SQLite file, read by ``ros2 bag``; ``gaitway.json`` says the rest."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from rosbags.rosbag2 import Writer

from trainables.datasets.exports.episodes import ExportedVideos, episodes_of, features_of, replaced_whole
from trainables.datasets.exports.log import log_episode
from trainables.datasets.messages import channels_of, typestore
from trainables.datasets.sources.base import Source
from trainables.datasets.sources.described import description_of

__all__ = ["COMPANION", "export_rosbag2"]

COMPANION = "gaitway.json"
"""Beside the bag's own files: ``description`` and ``episodes``."""
BAG_VERSION = 9


def export_rosbag2(source: Source, target: Path, overwrite: bool = False) -> dict[str, Any]:
    """Write a source as a bag's folder; its videos are in ``<target>/videos/``. Returns and raises as ``export_hdf5``."""
    features = features_of(source)
    channels = channels_of(features)
    with replaced_whole(target, overwrite) as partial:
        with Writer(partial, version=BAG_VERSION) as writer:
            connections = {
                channel.topic: writer.add_connection(channel.topic, channel.message_type, typestore=typestore()) for channel in channels
            }
            videos = ExportedVideos(partial / "videos", target / "videos")
            log, frames, start_ns = [], 0, 0
            for episode in episodes_of(source):
                entry, messages, start_ns = log_episode(videos.moved(episode), channels, start_ns)
                for topic, time_ns, data in messages:
                    writer.write(connections[topic], time_ns, data)
                log.append(entry)
                frames += episode.length
        # The bag's files are named after its folder, which still has its hidden name.
        _rename(partial, target.name)
        description = description_of(replace(source, features=features))
        (partial / COMPANION).write_text(json.dumps({"description": description, "episodes": log}), encoding="utf-8")
    return {"episodes": len(log), "frames": frames, "missing_videos": videos.missing}


def _rename(folder: Path, name: str) -> None:
    metadata = folder / "metadata.yaml"
    text = metadata.read_text(encoding="utf-8")
    for file in list(folder.glob(f"{folder.name}*")):
        new = f"{name}{file.name.removeprefix(folder.name)}"
        text = text.replace(file.name, new)
        file.rename(folder / new)
    metadata.write_text(text, encoding="utf-8")
