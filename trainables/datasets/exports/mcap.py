"""MCAP: ROS 2 messages in CDR with their definitions, so that any reader of MCAP shows them, and the manifest as a metadata record.

A target that ends in ``.mcap`` is one file with the episodes after one another; any other is a folder with one file an episode.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mcap.writer import Writer

from cluster.lerobot.episodes import Episode
from trainables.datasets.exports.episodes import Wrote, checked_episodes, with_timestamp
from trainables.datasets.exports.messages import GAP_NS, Clock, frame_messages
from trainables.datasets.exports.target import publishing
from trainables.datasets.sources.base import Source
from trainables.datasets.sources.carriers import Carrier, carriers_of, typestore
from trainables.datasets.sources.exported import MANIFEST_RECORD
from trainables.datasets.sources.manifest import EpisodeEntry, Manifest

__all__ = ["export_mcap"]


class _Output:
    """One MCAP file in the making."""

    def __init__(self, writer: Writer, carriers: dict[str, Carrier]) -> None:
        self._writer, self._carriers = writer, carriers
        schemas = {
            kind: writer.register_schema(kind, "ros2msg", typestore().generate_msgdef(kind, ros_version=2)[0].encode())
            for kind in dict.fromkeys(carrier.type for carrier in carriers.values())
        }
        self._channels = {
            name: writer.register_channel(carrier.topic, "cdr", schemas[carrier.type], {"feature": name, "unit": carrier.feature.unit})
            for name, carrier in carriers.items()
        }

    def write(self, episode: Episode, clock: Clock) -> dict[str, Any]:
        """Append an episode. Returns its place."""
        times = clock.times_ns(episode)
        for number, (name, time_ns, raw) in enumerate(frame_messages(episode, self._carriers, times)):
            self._writer.add_message(self._channels[name], time_ns, raw, time_ns, number // len(self._carriers))
        return {"start_ns": int(times[0]), "stop_ns": clock.next_ns - GAP_NS}


def export_mcap(source: Source, target: Path, overwrite: bool, wrote: Wrote) -> dict[str, Any]:
    """Write MCAP files. See ``registry.export_dataset``."""
    described = with_timestamp(source)
    carriers = carriers_of(described.features)
    places = {name: carrier.to_json() for name, carrier in carriers.items()}
    one_file = target.suffix == ".mcap"
    clock = Clock(source.fps)
    entries: list[EpisodeEntry] = []
    with publishing(target, overwrite, is_folder=not one_file) as (partial, videos):

        def entry_of(episode: Episode, output: _Output, name: str) -> EpisodeEntry:
            entry = EpisodeEntry.of(episode, videos.take(episode), {**output.write(episode, clock), "file": name})
            entries.append(entry)
            return entry

        if one_file:
            with _writing(partial) as writer:
                output = _Output(writer, carriers)
                for episode in checked_episodes(source, described, wrote):
                    entry_of(episode, output, target.name)
                _describe(writer, Manifest.of(described, places, entries))
        else:
            for number, episode in enumerate(checked_episodes(source, described, wrote)):
                name = f"episode_{number:07d}.mcap"
                with _writing(partial / name) as writer:
                    entry = entry_of(episode, _Output(writer, carriers), name)
                    _describe(writer, Manifest.of(described, places, [entry]))
    return {
        "target": str(target),
        "format": "mcap",
        "episodes": len(entries),
        "frames": sum(entry.length for entry in entries),
        "missing_videos": [str(video) for video in videos.missing],
    }


def _describe(writer: Writer, manifest: Manifest) -> None:
    writer.add_metadata(MANIFEST_RECORD, {"manifest": manifest.to_json()})


@contextmanager
def _writing(path: Path) -> Iterator[Writer]:
    with path.open("wb") as file:
        writer = Writer(file)
        writer.start(profile="ros2", library="gaitway")
        yield writer
        writer.finish()
