"""ROS 2 bag: a folder with ``metadata.yaml`` and an SQLite file, as ``ros2 bag play`` takes it, and the manifest beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rosbags.rosbag2 import StoragePlugin, Writer

from trainables.datasets.exports.episodes import Wrote, checked_episodes, with_timestamp
from trainables.datasets.exports.messages import GAP_NS, Clock, frame_messages
from trainables.datasets.exports.target import publishing
from trainables.datasets.sources.base import Source
from trainables.datasets.sources.carriers import carriers_of, typestore
from trainables.datasets.sources.exported import MANIFEST_FILE
from trainables.datasets.sources.manifest import EpisodeEntry, Manifest

__all__ = ["export_rosbag2"]


def export_rosbag2(source: Source, target: Path, overwrite: bool, wrote: Wrote) -> dict[str, Any]:
    """Write one bag. See ``registry.export_dataset``."""
    described = with_timestamp(source)
    carriers = carriers_of(described.features)
    clock = Clock(source.fps)
    entries: list[EpisodeEntry] = []
    with publishing(target, overwrite, is_folder=True) as (partial, videos):
        # The writer makes its own folder and names the database after it.
        made = partial / target.name
        with Writer(made, version=9, storage_plugin=StoragePlugin.SQLITE3) as writer:
            connections = {
                name: writer.add_connection(carrier.topic, carrier.type, typestore=typestore()) for name, carrier in carriers.items()
            }
            for episode in checked_episodes(source, described, wrote):
                times = clock.times_ns(episode)
                for name, time_ns, raw in frame_messages(episode, carriers, times):
                    writer.write(connections[name], time_ns, raw)
                place = {"file": f"{target.name}.db3", "start_ns": int(times[0]), "stop_ns": clock.next_ns - GAP_NS}
                entries.append(EpisodeEntry.of(episode, videos.take(episode), place))
        for file in sorted(made.iterdir()):
            file.rename(partial / file.name)
        made.rmdir()
        places = {name: carrier.to_json() for name, carrier in carriers.items()}
        (partial / MANIFEST_FILE).write_text(Manifest.of(described, places, entries).to_json(), encoding="utf-8")
    return {
        "target": str(target),
        "format": "rosbag2",
        "episodes": len(entries),
        "frames": sum(entry.length for entry in entries),
        "missing_videos": [str(video) for video in videos.missing],
    }
