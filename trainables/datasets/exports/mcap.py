"""MCAP: one file, a channel a feature (``trainables.datasets.messages``), the episodes one after the other in log time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mcap.writer import Writer

from trainables.datasets.exports.episodes import ExportedVideos, episodes_of, features_of, replaced_whole
from trainables.datasets.exports.log import log_episode
from trainables.datasets.messages import channels_of, typestore
from trainables.datasets.sources.base import Source
from trainables.datasets.sources.described import description_of

__all__ = ["METADATA", "export_mcap"]

METADATA = "gaitway"
"""Name of the metadata record of our own files: ``description`` and ``episodes``, both JSON."""


def export_mcap(source: Source, target: Path, overwrite: bool = False) -> dict[str, Any]:
    """Write a source as one MCAP file; its videos are copied to ``<target>.videos/``. Returns and raises as ``export_hdf5``."""
    from dataclasses import replace

    features = features_of(source)
    channels = channels_of(features)
    videos_target = target.with_name(f"{target.name}.videos")
    with replaced_whole(videos_target, overwrite) as videos_folder, replaced_whole(target, overwrite) as partial:
        videos_folder.mkdir()
        videos = ExportedVideos(videos_folder, videos_target)
        with partial.open("wb") as file:
            writer = Writer(file)
            writer.start(profile="ros2", library="gaitway")
            schemas: dict[str, int] = {}
            ids: dict[str, int] = {}
            for channel in channels:
                kind = channel.message_type
                if kind not in schemas:
                    definition, _ = typestore().generate_msgdef(kind, ros_version=2)
                    schemas[kind] = writer.register_schema(kind, "ros2msg", definition.encode())
                ids[channel.topic] = writer.register_channel(channel.topic, "cdr", schemas[kind], {"feature": channel.feature.name})
            log, frames, start_ns = [], 0, 0
            for episode in episodes_of(source):
                entry, messages, start_ns = log_episode(videos.moved(episode), channels, start_ns)
                for topic, time_ns, data in messages:
                    writer.add_message(ids[topic], time_ns, data, time_ns)
                log.append(entry)
                frames += episode.length
            description = description_of(replace(source, features=features))
            writer.add_metadata(METADATA, {"description": description, "episodes": json.dumps(log)})
            writer.finish()
    if not any(videos_target.iterdir()):
        videos_target.rmdir()
    return {"episodes": len(log), "frames": frames, "missing_videos": videos.missing}
