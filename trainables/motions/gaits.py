"""PiDog's expert gaits as joint targets over a cyclic phase.

The stepping patterns are SunFounder's (``walk.py``, ``trot.py`` and the ``stand`` and ``sit`` actions of the pidog library): a cycle
is a number of sections of a few servo frames; in its own section a foot swings forward, x by a cosine and z rising in a
straight line to the lift, and in all others it slides back over the ground in equal steps. Each frame goes through inverse
kinematics to servo angles. As in SunFounder's servo controller, a frame lasts as long as its largest servo move needs at the
chosen servo speed. A periodic cubic joins the frames, because a policy is asked at 50 Hz whatever the phase.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from cluster.errors import ConfigError
from trainables.robots.base import RobotSpec
from trainables.robots.registry import get_robot

__all__ = ["GAITS", "PUBLISHED_TROT", "Gait", "StepPattern", "expert_targets_rad", "frame_durations_s", "get_gait", "servo_frames_rad"]

_TABLE_SIZE = 192
"""Samples a cycle in the interpolation table: linear interpolation between them errs by less than 1e-3 rad."""


@dataclass(frozen=True)
class StepPattern:
    """The stepping facts of one SunFounder gait; lengths in metres, legs in the robot's leg order."""

    swing_section: tuple[int, int, int, int]
    """Section in which each leg swings."""
    num_sections: int
    steps_a_section: int
    stride_m: float
    lift_m: float
    height_m: float
    foot_centre_m: tuple[float, float, float, float]
    """Middle of each foot's travel, forward of its hip."""
    servo_speed_rad_s: float
    """Mean servo speed within a frame."""
    direction: int = 1
    """1 forward, -1 backward."""

    @property
    def num_frames(self) -> int:
        """Servo frames in a cycle."""
        return self.num_sections * self.steps_a_section

    @property
    def travel_m(self) -> float:
        """Distance that the body moves in a cycle when no foot slips; negative backward."""
        return self.direction * self.stride_m * self.num_sections / (self.num_sections - 1)

    def foot_frames_m(self) -> np.ndarray:
        """Feet in their hip frames at every frame. Shape (num_frames, 4, 2) as (x, z)."""
        frame = np.arange(self.num_frames)[:, None]
        steps = self.steps_a_section
        since_swing = (frame - np.asarray(self.swing_section) * steps) % self.num_frames
        swinging = since_swing < steps
        swing_share = np.clip(since_swing / (steps - 1), 0.0, 1.0)
        stance_share = (since_swing - steps + 1) / (self.num_frames - steps)
        # From +1, the end of travel that the swing reaches, back to -1, where it starts.
        position = np.where(swinging, -np.cos(np.pi * swing_share), 1.0 - 2.0 * stance_share)
        x = np.asarray(self.foot_centre_m) + self.direction * position * self.stride_m / 2
        z = -self.height_m + np.where(swinging, self.lift_m * swing_share, 0.0)
        return np.stack([x, np.broadcast_to(z, x.shape)], axis=-1)


@dataclass(frozen=True)
class Gait:
    """One expert: what it commands and how fast its phase turns."""

    name: str
    frequency_hz: float
    """Cycles a second; 0 for a posture that is held."""
    forward_velocity_m_s: float
    """Velocity that the policy is told to go: the pattern's travel times its frequency, as if no foot slipped."""
    posture: float
    """1 standing, 0 sitting."""
    pattern: StepPattern | None = None
    pose_rad: tuple[float, ...] = ()
    """Leg angles of a held posture, in servo order."""


# The servo speeds keep the cubic's peaks below 5.8 rad/s, the slowest servo measured (a test checks).
# trot.py: FOOT_RAISE_ORDER [[1, 4], [2, 3]], step width 100, height 20, stand height 80; the body's centre offset of -17 and the
# foot offsets of -5 (front) and +5 (rear) count backward there, so the feet are 22 mm and 12 mm in front of the hips.
PUBLISHED_TROT = StepPattern((0, 1, 1, 0), 2, 3, 0.100, 0.020, 0.080, (0.022, 0.022, 0.012, 0.012), 3.7)
# At the measured servo speed the full stride takes a second, half of it on two legs: too slow to stay up, in our model it falls
# within 10 s. Half the stride turns twice as fast and stays up; feet 10 mm further back carry the body forward instead of rocking it.
_TROT = replace(PUBLISHED_TROT, stride_m=0.050, foot_centre_m=(0.012, 0.012, 0.002, 0.002))
# walk.py: LEG_ORDER [1, 0, 4, 0, 2, 0, 3, 0], step width 80, height 20; centre offset -15, leg offsets -10 (front) and +20 (rear).
_WALK_CENTRES_M = (0.025, 0.025, -0.005, -0.005)
_WALK = StepPattern((0, 4, 6, 2), 8, 6, 0.080, 0.020, 0.080, _WALK_CENTRES_M, 3.3)
# Backward, SunFounder goes through the sections in reverse.
_WALK_BACK = StepPattern((7, 3, 1, 5), 8, 6, 0.080, 0.020, 0.080, _WALK_CENTRES_M, 3.3, direction=-1)
_SIT_RAD = tuple(np.radians([30.0, 60.0, 30.0, 60.0, 80.0, -45.0, 80.0, -45.0]).tolist())
_SHORTEST_FRAME_S = 0.01


def _moving(name: str, pattern: StepPattern) -> Gait:
    frequency_hz = 1.0 / float(frame_durations_s(pattern, servo_frames_rad(pattern, get_robot("pidog"))).sum())
    return Gait(name, frequency_hz, pattern.travel_m * frequency_hz, 1.0, pattern)


def frame_durations_s(pattern: StepPattern, frames_rad: np.ndarray) -> np.ndarray:
    """Time from each frame to the next. Shape (k, num_joints) -> (k,)."""
    largest_move = np.abs(np.roll(frames_rad, -1, axis=0) - frames_rad).max(axis=1)
    return np.maximum(largest_move / pattern.servo_speed_rad_s, _SHORTEST_FRAME_S)


def get_gait(name: str) -> Gait:
    """The gait called ``name``. Raises ``ConfigError`` with the known names."""
    if name not in GAITS:
        raise ConfigError(f"unknown gait {name!r}; known: {', '.join(GAITS)}")
    return GAITS[name]


def servo_frames_rad(pattern: StepPattern, robot: RobotSpec) -> np.ndarray:
    """Servo angles at every frame of a cycle, within the servo limits. Shape (num_frames, num_joints)."""
    return robot.joint_targets_rad(pattern.foot_frames_m())


def expert_targets_rad(gait: str, phase: np.ndarray, robot: str = "pidog") -> np.ndarray:
    """Joint targets of the expert.

    Args:
        gait: one of ``GAITS``.
        phase: place in the cycle; 1 is a whole cycle, other values wrap. Shape (n,).
        robot: robot name.

    Returns:
        Joint targets, rad. Shape (n, num_joints).
    """
    table = _table(gait, robot)
    position = (np.asarray(phase, dtype=np.float64) % 1.0) * _TABLE_SIZE
    index = position.astype(np.int64)
    share = (position - index)[:, None]
    return table[index % _TABLE_SIZE] * (1.0 - share) + table[(index + 1) % _TABLE_SIZE] * share


@lru_cache
def _table(name: str, robot: str) -> np.ndarray:
    """One cycle of joint targets, evenly spaced in time. Shape (_TABLE_SIZE, num_joints)."""
    gait, spec = get_gait(name), get_robot(robot)
    if gait.pattern is None:
        pose = spec.default_joint_position_rad.copy()
        if gait.pose_rad:
            pose[spec.leg_joint_indices.reshape(-1)] = gait.pose_rad
        return np.tile(pose, (_TABLE_SIZE, 1))
    frames = servo_frames_rad(gait.pattern, spec)
    durations = frame_durations_s(gait.pattern, frames)
    table = _periodic_cubic(frames, durations, np.arange(_TABLE_SIZE) / _TABLE_SIZE * durations.sum())
    # A cubic may swing past its knots, so the limits are applied after it too.
    return np.clip(table, spec.joint_low_rad, spec.joint_high_rad)


def _periodic_cubic(knots: np.ndarray, durations: np.ndarray, time: np.ndarray) -> np.ndarray:
    """Cubic Hermite through periodic knots with finite-difference tangents. Shapes (k, n), (k,), (m,) -> (m, n)."""
    starts = np.concatenate([[0.0], np.cumsum(durations)])
    slope = (np.roll(knots, -1, axis=0) - knots) / durations[:, None]
    before = np.roll(durations, 1)[:, None]
    # The tangent at a knot weighs the slope of the shorter neighbour more (the parabola through three knots).
    tangent = (np.roll(slope, 1, axis=0) * durations[:, None] + slope * before) / (before + durations[:, None])
    index = np.clip(np.searchsorted(starts, time, side="right") - 1, 0, len(knots) - 1)
    following = (index + 1) % len(knots)
    span = durations[index][:, None]
    t = ((time - starts[index]) / durations[index])[:, None]
    value = (2 * t**3 - 3 * t**2 + 1) * knots[index] + (3 * t**2 - 2 * t**3) * knots[following]
    return value + span * ((t**3 - 2 * t**2 + t) * tangent[index] + (t**3 - t**2) * tangent[following])


GAITS: dict[str, Gait] = {
    gait.name: gait
    for gait in (
        _moving("walk_forward", _WALK),
        _moving("walk_backward", _WALK_BACK),
        _moving("trot_forward", _TROT),
        Gait("stand", 0.0, 0.0, 1.0),
        Gait("sit", 0.0, 0.0, 0.0, pose_rad=_SIT_RAD),
    )
}
