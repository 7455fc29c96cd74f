"""AWD JSON (Adversarial Waddle Dynamics reference walks): frames whose columns the file itself describes.

``Joints`` names the joints, however many they are; ``Frame_offset`` and ``Frame_size`` say which columns hold what. Root quaternions
are ``(x, y, z, w)`` in the file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from trainables.motions.files import field, frame_rate_hz, frame_table, joint_names, loop_mode, read_json
from trainables.motions.motion import Motion, MotionError

__all__ = ["load_awd", "parse_awd"]

SIZES = {"root_pos": 3, "root_quat": 4}


def load_awd(path: str | Path, name: str = "") -> Motion:
    """Read an AWD clip. Raises ``MotionError`` naming the file and what is wrong."""
    path = Path(path)
    return parse_awd(path, read_json(path), name)


def parse_awd(path: Path, data: dict[str, Any], name: str = "") -> Motion:
    """The clip in ``data``, which came from ``path``."""
    joints = joint_names(path, field(path, data, "Joints"))
    frames = frame_table(path, data)
    columns = _columns(path, data, len(joints), frames.shape[1])
    return Motion(
        name=name or path.stem,
        joint_names=joints,
        joint_position_rad=frames[:, columns["joints_pos"]],
        root_position_m=frames[:, columns["root_pos"]],
        root_quaternion_wxyz=np.roll(frames[:, columns["root_quat"]], 1, axis=1),
        frame_rate_hz=frame_rate_hz(path, data.get("FPS"), data.get("FrameDuration")),
        loop=loop_mode(path, data.get("LoopMode", "Clamp")),
        offsets_position=bool(data.get("EnableCycleOffsetPosition", False)),
        offsets_rotation=bool(data.get("EnableCycleOffsetRotation", False)),
        source=str(path),
    )


def _columns(path: Path, data: dict[str, Any], num_joints: int, width: int) -> dict[str, slice]:
    """Which columns hold the root position, the root quaternion and the joint positions."""
    offsets, sizes = (_table(path, data, key) for key in ("Frame_offset", "Frame_size"))
    if set(offsets) != set(sizes):
        raise MotionError(f"{path}: Frame_offset and Frame_size name different groups: {', '.join(sorted(set(offsets) ^ set(sizes)))}")
    for group, size in {**SIZES, "joints_pos": num_joints}.items():
        if group not in sizes:
            raise MotionError(f"{path}: Frame_offset and Frame_size do not name {group!r} (they name: {', '.join(sorted(sizes))})")
        if sizes[group] != size:
            why = f"Joints names {size}" if group == "joints_pos" else f"it has {size} components"
            raise MotionError(f"{path}: Frame_size of {group} is {sizes[group]}, but {why}")
    described = max(offsets[group] + sizes[group] for group in sizes)
    if described != width:
        raise MotionError(f"{path}: every frame has {width} numbers, but Frame_offset and Frame_size describe {described}")
    return {group: slice(offsets[group], offsets[group] + sizes[group]) for group in (*SIZES, "joints_pos")}


def _table(path: Path, data: dict[str, Any], key: str) -> dict[str, int]:
    """``[{group: number}]``, as files write it, or the mapping alone."""
    value = field(path, data, key)
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, dict) or not value or not all(type(number) is int and number >= 0 for number in value.values()):
        raise MotionError(f"{path}: {key} must map each group of columns to a whole number of at least 0")
    return value
