"""What our exports say of themselves, so that they come back without a mapping file: features, rate, robot, and facts of the episodes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from cluster.lerobot.episodes import Episode
from cluster.lerobot.errors import DatasetError
from cluster.lerobot.features import Feature
from cluster.lerobot.videos import clips_from_json, clips_to_json
from trainables.datasets.sources.base import Source

__all__ = ["description_of", "episode_facts", "facts_of", "features_from", "read_description"]

FORMAT_VERSION = 1


def description_of(source: Source) -> str:
    """JSON that stands in the export beside the frames."""
    return json.dumps(
        {
            "gaitway_export": FORMAT_VERSION,
            "fps": source.fps,
            "robot_type": source.robot_type,
            "features": {feature.name: feature.to_json() for feature in source.features},
            "gaitway": dict(source.gaitway),
        }
    )


def read_description(text: str | bytes, source: str) -> dict[str, Any]:
    """The reverse. Raises ``DatasetError`` that begins with ``source``."""
    try:
        data = json.loads(text)
        if data["gaitway_export"] != FORMAT_VERSION:
            raise DatasetError(f"{source}: was exported as version {data['gaitway_export']}; version {FORMAT_VERSION} is read")
        return {
            "fps": int(data["fps"]),
            "robot_type": str(data["robot_type"]),
            "features": dict(data["features"]),
            "gaitway": dict(data["gaitway"]),
        }
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(f"{source}: its description of the export is not readable: {' '.join(str(error).split())[:120]}") from None


def features_from(entries: Mapping[str, Any], source: str) -> tuple[Feature, ...]:
    """Features of a description."""
    return tuple(Feature.from_json(name, entry, source) for name, entry in entries.items())


def facts_of(episode: Episode) -> str:
    """JSON of all that an episode is beside its frames."""
    return json.dumps(
        {
            "key": episode.key,
            "task": episode.task,
            "length": episode.length,
            "about": dict(episode.about),
            "videos": clips_to_json(episode.videos),
            "split": episode.split,
            "origin": episode.origin,
        }
    )


def episode_facts(text: str | bytes, source: str) -> dict[str, Any]:
    """Arguments of an ``Episode`` beside its columns, and its ``length``. Raises ``DatasetError`` that begins with ``source``."""
    try:
        facts = json.loads(text)
        return {
            "key": str(facts["key"]),
            "task": str(facts["task"]),
            "length": int(facts["length"]),
            "about": dict(facts["about"]),
            "videos": clips_from_json(facts["videos"]),
            "split": str(facts["split"]),
            "origin": str(facts["origin"]),
        }
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(f"{source}: an episode's facts are not readable: {' '.join(str(error).split())[:120]}") from None
