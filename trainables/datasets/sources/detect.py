"""Which format something is in, and the source that reads it."""

from __future__ import annotations

import json
from pathlib import Path

from cluster.errors import UsageError
from cluster.lerobot.errors import DatasetError
from cluster.lerobot.layout import INFO_PATH
from trainables.datasets.sources.base import Source

__all__ = ["FORMATS", "detect_format", "open_source"]

FORMATS = {
    "lerobot": "a LeRobot v3.0 folder",
    "lerobot_v21": "a LeRobot v2.0 or v2.1 folder",
    "hdf5": "a robomimic-style HDF5 file",
    "minari": "a Minari dataset's folder",
    "npz": "a .npz file, or a folder of them",
    "mcap": "an MCAP file, or a folder of them",
    "rosbag": "a ROS 1 .bag file, a ROS 2 bag's folder or .db3 file, or a folder of bags",
    "motion": "an AWD or DeepMimic motion file",
}
"""Name of a format -> what it is."""
_SUFFIXES = {
    ".hdf5": "hdf5", ".h5": "hdf5", ".npz": "npz", ".mcap": "mcap", ".bag": "rosbag", ".db3": "rosbag", ".json": "motion", ".txt": "motion",
}  # fmt: skip
_MAGIC = {b"\x89HDF\r\n\x1a\n": "hdf5", b"\x89MCAP0\r\n": "mcap", b"#ROSBAG": "rosbag", b"SQLite format 3": "rosbag"}
_MINARI_FILE = "main_data.hdf5"


def detect_format(path: Path) -> str:
    """Name of the format that a file or folder is in. Raises ``DatasetError`` when it is none that is known."""
    if not path.exists():
        raise DatasetError(f"{path}: there is nothing here")
    if (path / INFO_PATH).is_file():
        return "lerobot_v21" if _codebase_version(path).startswith("v2") else "lerobot"
    if path.name == _MINARI_FILE or (path / _MINARI_FILE).is_file() or (path / "data" / _MINARI_FILE).is_file():
        return "minari"
    if path.is_file():
        # What a file is named decides: an empty or damaged one is then reported as what it should be.
        kind = _SUFFIXES.get(path.suffix.lower()) or _kind_by_content(path)
        if kind:
            return "minari" if kind == "hdf5" and _is_minari(path) else kind
    if path.is_dir():
        if (path / "metadata.yaml").is_file():
            return "rosbag"
        inside = {_SUFFIXES.get(entry.suffix.lower()) for entry in path.iterdir() if entry.is_file()} & {"npz", "mcap", "rosbag"}
        if any((entry / "metadata.yaml").is_file() for entry in path.iterdir() if entry.is_dir()):
            inside.add("rosbag")
        if len(inside) == 1:
            return str(inside.pop())
    known = "; ".join(f"{name}: {words}" for name, words in FORMATS.items())
    raise DatasetError(f"{path}: is in no format that is known ({known}); name it with --format")


def open_source(path: Path, format: str | None = None, mapping: Path | None = None, fps: int | None = None) -> Source:
    """A source for what is at ``path``.

    Args:
        path: a file or folder.
        format: one of ``FORMATS``; None: recognised.
        mapping: mapping file, for MCAP files and ROS bags.
        fps: frames a second, where the format does not record them.

    Raises:
        UsageError: the format is not known, or takes no mapping.
        DatasetError: it cannot be read.
    """
    if format is not None and format not in FORMATS:
        raise UsageError(f"unknown format {format!r}; known: {', '.join(FORMATS)}")
    if not path.exists():
        raise DatasetError(f"{path}: there is nothing here")
    kind = format or detect_format(path)
    if mapping is not None and kind not in ("mcap", "rosbag"):
        raise UsageError(f"{path}: a mapping is for MCAP files and ROS bags; this is {FORMATS[kind]}")
    if kind == "lerobot":
        from trainables.datasets.sources.lerobot import open_lerobot

        return open_lerobot(path)
    if kind == "lerobot_v21":
        from trainables.datasets.sources.lerobot_v21 import open_lerobot_v21

        return open_lerobot_v21(path)
    if kind == "hdf5":
        from trainables.datasets.sources.robomimic import open_robomimic

        return open_robomimic(path, fps)
    if kind == "minari":
        from trainables.datasets.sources.minari import open_minari

        return open_minari(path, fps)
    if kind == "npz":
        from trainables.datasets.sources.npz import open_npz

        return open_npz(path, fps)
    if kind == "motion":
        from trainables.datasets.sources.motion import open_motion

        return open_motion(path)
    from trainables.datasets.sources.recordings import open_mcap, open_rosbag

    return open_mcap(path, mapping) if kind == "mcap" else open_rosbag(path, mapping)


def _kind_by_content(path: Path) -> str | None:
    with path.open("rb") as file:
        start = file.read(16)
    return next((kind for magic, kind in _MAGIC.items() if start.startswith(magic)), None)


def _is_minari(path: Path) -> bool:
    """Whether an HDF5 file has a group an episode at its root; one that cannot be read is none."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            return "data" not in file and "episode_0" in file
    except (OSError, RuntimeError):
        return False


def _codebase_version(path: Path) -> str:
    try:
        return str(json.loads((path / INFO_PATH).read_text(encoding="utf-8"))["codebase_version"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
