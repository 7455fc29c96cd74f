"""Where things are inside a LeRobot v3.0 folder."""

from __future__ import annotations

__all__ = [
    "ABOUT",
    "CHUNKS_SIZE",
    "DATA_PATH",
    "EPISODES_FOLDER",
    "EPISODES_PATH",
    "GAITWAY_PATH",
    "INFO_PATH",
    "STATS_PATH",
    "TASKS_PATH",
    "VERSION",
    "VIDEO_PATH",
]

VERSION = "v3.0"
CHUNKS_SIZE = 1000
"""Most files in one chunk folder."""
INFO_PATH = "meta/info.json"
STATS_PATH = "meta/stats.json"
TASKS_PATH = "meta/tasks.parquet"
EPISODES_FOLDER = "meta/episodes"
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
ABOUT = "gaitway/"
"""Ours: prefix of the columns of the episodes table that say what else is known of an episode. LeRobot keeps them."""
GAITWAY_PATH = "meta/gaitway.json"
"""Ours, beside the format's own: digest, split, provenance."""
