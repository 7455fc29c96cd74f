"""Retargeting: the source's kinematics explain the real clips, and the result is a motion that the target's servos can play."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import trainables.motions
from trainables.motions.load import load_motion
from trainables.motions.motion import Motion, MotionError
from trainables.motions.playback import play_motion
from trainables.motions.retarget import LAIKAGO, foot_positions_m, motion_for_robot, retarget_quadruped
from trainables.robots.registry import get_robot

CLIPS = ("dog_trot", "dog_pace")


@pytest.fixture(scope="module")
def clips(shared_data):
    return {name: load_motion(shared_data / "motions" / f"{name}.txt") for name in CLIPS}


def test_the_source_leg_is_half_a_metre_and_stands_on_feet_below_its_hips():
    # Laikago's published standing pose, hip 0.67 and knee -1.25 rad, with the URDF's offsets -0.6 and +0.66 between the two conventions.
    standing = np.tile([0.0, 0.67 - 0.6, -1.25 + 0.66], 4)
    names = tuple(f"{leg}_{joint}" for leg in ("FR", "FL", "RR", "RL") for joint in ("abduction", "hip", "knee"))
    motion = Motion("stand", names, np.tile(standing, (2, 1)), np.zeros((2, 3)), np.tile([1.0, 0, 0, 0], (2, 1)), 60.0)
    feet, hips = foot_positions_m(motion)
    assert LAIKAGO.leg_length_m == pytest.approx(0.503, abs=1e-3)
    assert (feet - hips)[0, :, 0] == pytest.approx(np.zeros(4), abs=0.06)
    assert (feet - hips)[0, :, 2] == pytest.approx(np.full(4, -0.425), abs=0.01)
    assert np.sign(feet[0, :, 1]).tolist() == [-1, 1, -1, 1]
    assert np.sign(feet[0, :, 0]).tolist() == [1, 1, -1, -1]


@pytest.mark.parametrize("name", CLIPS)
def test_in_the_real_clips_each_foot_that_is_low_stands_still_on_the_ground(clips, name):
    # The oracle of the forward kinematics: wrong signs, lengths or axes would make stance feet slide at the body's speed.
    motion = clips[name]
    feet, _ = foot_positions_m(motion)
    speed = np.linalg.norm(np.gradient(feet, 1 / motion.frame_rate_hz, axis=0)[..., :2], axis=-1)
    low = feet[..., 2] < feet[..., 2].min(axis=0) + 0.01
    assert low.sum(axis=0).min() >= 8
    assert np.median(speed[low]) < 0.2 * motion.forward_velocity_m_s
    assert np.ptp(feet[..., 2].min(axis=0)) < 0.01  # all four reach the same ground


@pytest.mark.parametrize("name", CLIPS)
@pytest.mark.parametrize("stride", [0.4, 0.75, 1.0])
def test_the_result_is_closed_and_within_servo_limits_and_speed(clips, name, stride):
    robot = get_robot("pidog")
    motion = retarget_quadruped(clips[name], "pidog", stride=stride)
    targets = motion.joint_position_rad
    assert motion.joint_names == robot.joint_names
    assert (motion.robot, motion.name, motion.frame_rate_hz, motion.loop) == ("pidog", name, 50.0, "wrap")
    assert (targets >= robot.joint_low_rad).all()
    assert (targets <= robot.joint_high_rad).all()
    assert (np.abs(np.diff(targets, axis=0)) * 50.0 <= robot.servo_speed_limit_rad_s + 1e-9).all()
    assert motion.seam_rad == pytest.approx(0.0, abs=1e-12)
    assert motion.duration_s >= clips[name].duration_s - 0.02
    assert motion.forward_velocity_m_s > 0.05
    assert targets[:, 8:] == pytest.approx(np.tile(robot.default_joint_position_rad[8:], (len(targets), 1)))


def test_feet_that_swing_in_the_clip_swing_in_the_result_and_in_the_same_order(clips):
    robot, motion = get_robot("pidog"), retarget_quadruped(clips["dog_trot"])
    feet, hips = foot_positions_m(clips["dog_trot"].resample(60.0))
    source_x = (feet - hips)[:, [1, 0, 3, 2], 0]  # to the target's order: left front, right front, left rear, right rear
    ours_x = robot.foot_position_m(motion.joint_position_rad)[..., 0]
    phase, ours_phase = np.linspace(0, 1, len(source_x)), np.linspace(0, 1, len(ours_x))
    for leg in range(4):
        same = np.interp(ours_phase, phase, source_x[:, leg])
        assert np.corrcoef(same, ours_x[:, leg])[0, 1] > 0.95
    # A trot: diagonal legs together, the two diagonals in opposition.
    assert np.corrcoef(ours_x[:, 0], ours_x[:, 3])[0, 1] > 0.5
    assert np.corrcoef(ours_x[:, 0], ours_x[:, 1])[0, 1] < -0.5


def test_a_clip_that_is_played_twice_as_fast_is_slowed_to_what_the_servos_can(clips):
    usual = retarget_quadruped(clips["dog_trot"])
    hurried = retarget_quadruped(replace(clips["dog_trot"], frame_rate_hz=120.0))
    assert hurried.duration_s == pytest.approx(usual.duration_s, abs=0.03)


def test_what_is_no_quadruped_is_refused(clips, shared_data):
    duck = load_motion(shared_data / "motions" / "mini_duck_forward.json")
    with pytest.raises(MotionError, match=r"mini_duck_forward.json: has 15 joints .*retargeting wants the 12 of a quadruped"):
        motion_for_robot(duck, "pidog")
    with pytest.raises(MotionError, match="stride 0 is not above 0"):
        retarget_quadruped(clips["dog_trot"], stride=0)


@pytest.mark.parametrize("path", sorted((Path(trainables.motions.__file__).parent / "clips").glob("*.json")), ids=lambda path: path.name)
def test_the_clips_that_we_ship_are_pidogs_own_and_can_be_played(path):
    clip = load_motion(path)
    motion = motion_for_robot(clip, "pidog")
    assert clip.joint_names == get_robot("pidog").joint_names
    assert clip.closes
    assert motion.duration_s == pytest.approx(clip.duration_s, abs=0.01)
    assert motion.forward_velocity_m_s == pytest.approx(clip.forward_velocity_m_s, rel=0.02)


def test_the_robots_own_motion_is_only_resampled_and_must_be_within_its_limits(clips):
    own = retarget_quadruped(clips["dog_trot"])
    assert motion_for_robot(own, "pidog").joint_position_rad == pytest.approx(own.joint_position_rad)
    too_far = own.joint_position_rad.copy()
    too_far[5, 1] = 2.0
    with pytest.raises(MotionError, match=r"frame 5: left_front_knee is 2.000 rad; pidog allows -1.222 to 1.484"):
        motion_for_robot(replace(own, joint_position_rad=too_far), "pidog")


@pytest.mark.parametrize("preset", ["fast", "production"])
def test_the_dogs_trot_played_open_loop_carries_pidog_forward(clips, preset):
    played = play_motion(retarget_quadruped(clips["dog_trot"]), preset=preset)
    assert not played.fell.any()
    assert played.forward_velocity_m_s.min() > 0.08
    assert played.distance_m.min() > 0.5


def test_the_dogs_pace_is_played_without_a_fall_and_creeps_forward(clips):
    # Both legs of one side together, on a robot that cannot shift its weight sideways: it hardly moves, but not backward.
    played = play_motion(retarget_quadruped(clips["dog_pace"]), preset="medium")
    assert not played.fell.any()
    assert played.forward_velocity_m_s.mean() > 0.0
