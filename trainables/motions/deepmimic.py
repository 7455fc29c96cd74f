"""DeepMimic-style text: two variants of one idea.

- Newer (motion_imitation): ``LoopMode``, ``FrameDuration``; a frame is root position 3, root quaternion ``(x, y, z, w)``, joints; z up.
- Older (DeepMimic's own ``data/motions``, layout from its README): ``Loop: wrap | none``; a frame begins with its duration, then root
  position 3, root quaternion ``(w, x, y, z)``, joints; y up. The humanoid's spherical joints are quaternions; they become three
  angles each (rotation vector, rad).

``save_motion`` writes the newer variant with the joint names beside it, and ``load_motion`` reads that back.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from cluster.config import write_text_atomic
from trainables.motions.files import frame_rate_hz, frame_table, joint_names, loop_mode, read_json
from trainables.motions.motion import MAX_NORM_ERROR, Motion, MotionError
from trainables.motions.rotation import conjugate, multiply, rotate, rotation_vector

__all__ = ["QUADRUPED_JOINTS", "load_deepmimic", "parse_deepmimic", "save_motion"]

QUADRUPED_JOINTS = tuple(f"{leg}_{joint}" for leg in ("FR", "FL", "RR", "RL") for joint in ("abduction", "hip", "knee"))
"""Order of a 12-joint clip: front right, front left, rear right, rear left."""

HUMANOID_JOINTS = (
    *(("chest", 4), ("neck", 4), ("right_hip", 4), ("right_knee", 1), ("right_ankle", 4), ("right_shoulder", 4), ("right_elbow", 1)),
    *(("left_hip", 4), ("left_knee", 1), ("left_ankle", 4), ("left_shoulder", 4), ("left_elbow", 1)),
)
"""Joint and number of components, in the order of DeepMimic's README: 36 numbers, 28 degrees of freedom."""

# Quarter turn about x: a world with y up becomes one with z up.
Y_UP_TO_Z_UP = np.array([np.sqrt(0.5), np.sqrt(0.5), 0.0, 0.0])
# A root frame with z forward, y up and x left (Laikago's description) seen from one with x forward, y left and z up.
Z_FORWARD_TO_X_FORWARD = np.array([0.5, 0.5, 0.5, 0.5])


def load_deepmimic(path: str | Path, name: str = "") -> Motion:
    """Read either variant. Raises ``MotionError`` naming the file and what is wrong."""
    path = Path(path)
    return parse_deepmimic(path, read_json(path), name)


def parse_deepmimic(path: Path, data: dict[str, Any], name: str = "") -> Motion:
    """The clip in ``data``, which came from ``path``."""
    frames = frame_table(path, data)
    # The older files have their duration inside the frames; the newer ones always say FrameDuration.
    older = "FrameDuration" not in data and "FPS" not in data
    if older and "Loop" not in data:
        raise MotionError(f"{path}: says neither FrameDuration (seconds) nor Loop: not a DeepMimic-style motion")
    lead = 1 if older else 0
    if frames.shape[1] <= lead + 7:
        raise MotionError(
            f"{path}: a frame has {frames.shape[1]} numbers; more than {lead + 7} are wanted (root position 3, quaternion 4, joints)"
        )
    position, quaternion, joints = np.split(frames[:, lead:], (3, 7), axis=1)
    quaternion = quaternion if older else np.roll(quaternion, 1, axis=1)
    _check_unit(path, quaternion, "root")
    names, joints = _joints(path, data.get("Joints"), joints, older)
    if older:
        position = rotate(Y_UP_TO_Z_UP, position)
        quaternion = multiply(multiply(Y_UP_TO_Z_UP, quaternion), conjugate(Y_UP_TO_Z_UP))
    elif rotate(quaternion, np.array([0.0, 1.0, 0.0]))[:, 2].mean() > 0.5:
        # The body axis that points up on average is y: a root frame as in Laikago's description.
        quaternion = multiply(quaternion, conjugate(Z_FORWARD_TO_X_FORWARD))
    return Motion(
        name=name or path.stem,
        joint_names=names,
        joint_position_rad=joints,
        root_position_m=position,
        root_quaternion_wxyz=quaternion,
        frame_rate_hz=frame_rate_hz(path, data.get("FPS"), _duration_s(path, frames[:, 0]) if older else data.get("FrameDuration")),
        loop=loop_mode(path, data.get("LoopMode", data.get("Loop", "Clamp"))),
        # The older format has no such key and always carries the root on.
        offsets_position=bool(data.get("EnableCycleOffsetPosition", older)),
        offsets_rotation=bool(data.get("EnableCycleOffsetRotation", False)),
        robot=str(data.get("Robot", "")),
        source=str(path),
    )


def save_motion(motion: Motion, path: Path) -> None:
    """Write a motion as newer DeepMimic-style text plus ``Joints`` and ``Robot``, with all digits, atomically."""
    frames = np.concatenate([motion.root_position_m, np.roll(motion.root_quaternion_wxyz, -1, axis=1), motion.joint_position_rad], axis=1)
    header = {
        "LoopMode": motion.loop.capitalize(),
        "FPS": motion.frame_rate_hz,
        "FrameDuration": 1 / motion.frame_rate_hz,
        "EnableCycleOffsetPosition": motion.offsets_position,
        "EnableCycleOffsetRotation": motion.offsets_rotation,
        "Robot": motion.robot,
        "Joints": list(motion.joint_names),
    }
    rows = ",\n  ".join(json.dumps(frame) for frame in frames.tolist())
    write_text_atomic(path, json.dumps(header, indent=1)[:-2] + f',\n "Frames": [\n  {rows}\n ]\n}}\n')


def _joints(path: Path, given: Any, values: np.ndarray, older: bool) -> tuple[tuple[str, ...], np.ndarray]:
    """Names and angles of the joints: named by the file, or known by their number, or numbered."""
    columns = values.shape[1]
    if given is not None:
        names = joint_names(path, given)
        if len(names) != columns:
            raise MotionError(f"{path}: Joints names {len(names)} joints, but every frame has {columns} joint positions")
        return names, values
    if columns == len(QUADRUPED_JOINTS):
        return QUADRUPED_JOINTS, values
    if older and columns == sum(size for _, size in HUMANOID_JOINTS):
        return _humanoid(path, values)
    return tuple(f"joint_{index:02d}" for index in range(columns)), values


def _humanoid(path: Path, values: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
    names: list[str] = []
    angles: list[np.ndarray] = []
    start = 0
    for joint, size in HUMANOID_JOINTS:
        part = values[:, start : start + size]
        start += size
        if size == 1:
            names.append(joint)
            angles.append(part)
            continue
        _check_unit(path, part, joint)
        names += [f"{joint}_{axis}" for axis in "xyz"]
        angles.append(rotate(Y_UP_TO_Z_UP, rotation_vector(part)))
    return tuple(names), np.concatenate(angles, axis=1)


def _check_unit(path: Path, quaternion: np.ndarray, what: str) -> None:
    """Before any frame change, whose products would blur which frame was wrong."""
    norms = np.linalg.norm(quaternion, axis=1)
    bad = np.flatnonzero(np.abs(norms - 1) > MAX_NORM_ERROR)
    if bad.size:
        raise MotionError(
            f"{path}: frame {bad[0]}: the {what} quaternion has norm {norms[bad[0]]:.4g}; it must be 1 within {MAX_NORM_ERROR}"
        )


def _duration_s(path: Path, column: np.ndarray) -> float:
    """The one duration that all frames share; that of the last frame does not matter, and some files leave it at zero."""
    durations = column[:-1] if len(column) > 1 else column
    if durations.max() - durations.min() > 1e-3 * abs(durations.max()):
        raise MotionError(
            f"{path}: frame durations run from {durations.min():g} to {durations.max():g} s; all frames must last equally long"
        )
    return float(durations[0])
