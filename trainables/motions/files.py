"""Reading motion files strictly: JSON that is whole, a rectangular table of finite numbers, a frame rate above zero."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from trainables.motions.motion import Loop, MotionError

__all__ = ["field", "frame_rate_hz", "frame_table", "joint_names", "loop_mode", "read_json"]

DURATION_RESOLUTION_S = 5e-6  # files write durations with five decimals: 0.01667 stands for 1/60
DISAGREEMENT = 0.01  # FPS 60 beside FrameDuration 0.0167 is rounding; more than this is two different rates


def read_json(path: Path) -> dict[str, Any]:
    """The file's JSON object. Raises ``MotionError`` for a missing, unreadable, truncated or non-object file."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise MotionError(f"{path}: no such motion file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise MotionError(f"{path}: cannot be read as text: {error}") from None
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        ends = "it ends early (truncated?)" if error.pos >= len(text.rstrip()) - 1 else error.msg
        raise MotionError(f"{path}: not valid JSON: line {error.lineno} column {error.colno}: {ends}") from None
    if not isinstance(data, dict):
        raise MotionError(f"{path}: holds a JSON {type(data).__name__}; an object with Frames is wanted")
    return data


def field(path: Path, data: dict[str, Any], key: str) -> Any:
    """``data[key]``, or a ``MotionError`` that names what is there."""
    if key not in data:
        raise MotionError(f"{path}: the key {key!r} is missing (keys: {', '.join(sorted(data))})")
    return data[key]


def frame_table(path: Path, data: dict[str, Any]) -> np.ndarray:
    """``Frames`` as a table, every frame of one length. Shape (T, columns)."""
    frames = field(path, data, "Frames")
    if not isinstance(frames, list) or not frames:
        raise MotionError(f"{path}: Frames must be a list of at least 2 frames, given {_describe(frames)}")
    for index, frame in enumerate(frames):
        if not isinstance(frame, list):
            raise MotionError(f"{path}: frame {index} must be a list of numbers, given {_describe(frame)}")
        if len(frame) != len(frames[0]):
            raise MotionError(f"{path}: frame {index} has {len(frame)} numbers, frame 0 has {len(frames[0])}; all must have as many")
        for column, value in enumerate(frame):
            if type(value) not in (int, float):
                raise MotionError(f"{path}: frame {index}, column {column}: {_describe(value)} is not a number")
            if not math.isfinite(value):
                raise MotionError(f"{path}: frame {index}, column {column}: {value} is not a finite number")
    return np.array(frames, dtype=np.float64)


def frame_rate_hz(path: Path, fps: Any, duration_s: Any) -> float:
    """The rate from ``FPS`` and/or the frame duration; a duration that is a rounded 1/N counts as N frames a second."""
    rates = {}
    for label, value in (("FPS", fps), ("frame duration", duration_s)):
        if value is None:
            continue
        if type(value) not in (int, float) or not math.isfinite(value) or value <= 0:
            raise MotionError(f"{path}: {label} is {_describe(value)}; a number above 0 is wanted")
        rates[label] = float(value) if label == "FPS" else _rate(float(value))
    if not rates:
        raise MotionError(f"{path}: says no frame rate; give FPS or FrameDuration (seconds)")
    if len(rates) == 2 and abs(rates["FPS"] / rates["frame duration"] - 1) > DISAGREEMENT:
        raise MotionError(f"{path}: FPS {fps} and frame duration {duration_s} s disagree; give one frame rate")
    return next(iter(rates.values()))


def loop_mode(path: Path, value: Any) -> Loop:
    """``wrap`` or ``clamp``; older files write ``none`` for the latter, or a boolean."""
    if isinstance(value, bool):
        return "wrap" if value else "clamp"
    text = str(value).lower()
    if text not in ("wrap", "clamp", "none"):
        raise MotionError(f"{path}: loop mode {_describe(value)}; allowed: Wrap, Clamp, none")
    return "wrap" if text == "wrap" else "clamp"


def joint_names(path: Path, names: Any) -> tuple[str, ...]:
    """The ``Joints`` list: different, non-empty names."""
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
        raise MotionError(f"{path}: Joints must be a list of joint names, given {_describe(names)}")
    return tuple(names)


def _rate(duration_s: float) -> float:
    whole = round(1 / duration_s)
    return float(whole) if whole and abs(1 / whole - duration_s) < DURATION_RESOLUTION_S else 1 / duration_s


def _describe(value: Any) -> str:
    text = json.dumps(value) if not isinstance(value, (list, dict)) else f"a {type(value).__name__} of {len(value)}"
    return text if len(text) <= 40 else text[:37] + "..."
