"""``load_motion(path)``: whichever format the file is in."""

from __future__ import annotations

from pathlib import Path

from trainables.motions.awd import parse_awd
from trainables.motions.deepmimic import parse_deepmimic
from trainables.motions.files import read_json
from trainables.motions.motion import Motion, MotionError

__all__ = ["load_motion"]


def load_motion(path: str | Path, name: str = "") -> Motion:
    """Read an AWD JSON or a DeepMimic-style text clip, told apart by their keys.

    Args:
        path: the file.
        name: name of the motion; empty: the file's stem.

    Raises:
        MotionError: one line: the file, what is wrong, what is allowed.
    """
    path = Path(path)
    data = read_json(path)
    if "Frames" not in data:
        raise MotionError(f"{path}: has no Frames: not a motion file (AWD JSON and DeepMimic-style text are read)")
    parse = parse_awd if "Frame_offset" in data or "Frame_size" in data else parse_deepmimic
    return parse(path, data, name)
