"""Motion files made by our own gait generators: what the project ships instead of other people's recordings.

    python -m trainables.motions.generate trot_forward trainables/motions/clips/pidog_trot.json

One cycle of the gait, as the servos would be commanded on ground that never slips.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from cluster.errors import UsageError
from cluster.stage import run_app
from trainables.motions.deepmimic import save_motion
from trainables.motions.gaits import expert_targets_rad, get_gait
from trainables.motions.motion import Motion
from trainables.robots.registry import get_robot

__all__ = ["gait_motion"]

FRAMES_PER_CYCLE = 32


def gait_motion(gait: str, robot: str = "pidog", name: str = "") -> Motion:
    """One cycle of a gait as a closed motion.

    Args:
        gait: one of ``GAITS`` that moves; a held posture is no motion.
        robot: robot name.
        name: name of the motion; empty: the gait's.

    Raises:
        ConfigError: no such gait or robot.
        UsageError: the gait has no cycle.
    """
    pattern, spec = get_gait(gait), get_robot(robot)
    if pattern.frequency_hz == 0:
        raise UsageError(f"{gait} holds a posture: it has no cycle to write")
    phase = np.linspace(0.0, 1.0, FRAMES_PER_CYCLE + 1)
    height_m = -spec.foot_position_m(spec.default_joint_position_rad)[:, 1].mean() + spec.foot_radius_m
    travel_m = phase * pattern.forward_velocity_m_s / pattern.frequency_hz
    return Motion(
        name=name or gait,
        joint_names=spec.joint_names,
        joint_position_rad=expert_targets_rad(gait, phase, robot),
        root_position_m=np.stack([travel_m, np.zeros_like(phase), np.full_like(phase, height_m)], axis=1),
        root_quaternion_wxyz=np.tile([1.0, 0.0, 0.0, 0.0], (len(phase), 1)),
        frame_rate_hz=FRAMES_PER_CYCLE * pattern.frequency_hz,
        robot=robot,
    )


def _write(gait: str, path: Path, robot: str = "pidog") -> None:
    """Write one cycle of GAIT to PATH."""
    motion = gait_motion(gait, robot, path.stem)
    save_motion(motion, path)
    print(f"{path}: {motion.num_frames} frames, {motion.duration_s:.3f} s a cycle, {motion.forward_velocity_m_s:.3f} m/s", file=sys.stderr)


if __name__ == "__main__":
    run_app(_write, "python -m trainables.motions.generate")
