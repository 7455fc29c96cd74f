"""Makes the clips of this folder from our own gait generator: ``python -m trainables.motions.clips.make_clips``.

A clip is one cycle at 60 Hz in AWD JSON: the joint angles are the expert's, the root moves as if no foot slipped.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from cluster.config import write_text_atomic
from trainables.motions.gaits import expert_targets_rad, get_gait
from trainables.robots.registry import get_robot

__all__ = ["CLIPS", "gait_clip", "write_clip"]

CLIPS = {"pidog_trot.json": "trot_forward"}


def gait_clip(gait: str, frame_rate_hz: int = 60, robot: str = "pidog") -> dict[str, Any]:
    """One cycle of a gait as an AWD JSON object. The period is rounded to whole frames; the last frame is the first pose again."""
    spec, known = get_robot(robot), get_gait(gait)
    frames = max(1, round(frame_rate_hz / known.frequency_hz)) if known.frequency_hz else frame_rate_hz
    phase = np.arange(frames + 1) / frames
    joints = expert_targets_rad(gait, phase, robot)
    joint_velocity = expert_targets_rad(gait, phase + 1e-4, robot) - expert_targets_rad(gait, phase - 1e-4, robot)
    joint_velocity *= frame_rate_hz / frames / 2e-4
    travel_m = known.pattern.travel_m if known.pattern else 0.0
    velocity_m_s = travel_m * frame_rate_hz / frames
    feet = spec.foot_position_m(joints)
    height_m = float(-feet[..., 1].min()) + spec.foot_radius_m

    root = np.stack([travel_m * phase, np.zeros_like(phase), np.full_like(phase, height_m)], axis=-1)
    in_base = spec.hip_position_m + np.stack([feet[..., 0], np.zeros_like(feet[..., 0]), feet[..., 1]], axis=-1)
    groups = {
        "root_pos": root,
        "root_quat": np.tile([0.0, 0.0, 0.0, 1.0], (frames + 1, 1)),
        "joints_pos": joints,
        **{f"{leg}_foot_pos": root + in_base[:, index] for index, leg in enumerate(spec.leg_names)},
        "world_linear_vel": np.tile([velocity_m_s, 0.0, 0.0], (frames + 1, 1)),
        "world_angular_vel": np.zeros((frames + 1, 3)),
        "joints_vel": joint_velocity,
    }
    sizes = {name: values.shape[1] for name, values in groups.items()}
    offsets = dict(zip(sizes, np.cumsum([0, *list(sizes.values())[:-1]]).tolist(), strict=True))
    return {
        "LoopMode": "Wrap",
        "FPS": frame_rate_hz,
        "FrameDuration": round(1 / frame_rate_hz, 5),
        "EnableCycleOffsetPosition": True,
        "EnableCycleOffsetRotation": False,
        "Joints": list(spec.joint_names),
        "Vel_x": round(velocity_m_s, 5),
        "Vel_y": 0.0,
        "Yaw": 0.0,
        "Frame_offset": [offsets],
        "Frame_size": [sizes],
        "Frames": np.round(np.concatenate(list(groups.values()), axis=1), 5).tolist(),
    }


def write_clip(gait: str, path: Path) -> None:
    """Write ``gait_clip`` with one frame a line."""
    clip = gait_clip(gait)
    frames = ",\n".join(json.dumps(frame) for frame in clip.pop("Frames"))
    write_text_atomic(path, json.dumps(clip, indent=1)[:-2] + f',\n "Frames": [\n{frames}\n ]\n}}\n')


if __name__ == "__main__":
    for file, gait in CLIPS.items():
        write_clip(gait, Path(__file__).with_name(file))
