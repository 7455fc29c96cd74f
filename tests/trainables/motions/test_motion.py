"""Motion: phase, interpolation, cycles and velocities, against closed forms and scipy."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation, Slerp

from trainables.motions import rotation
from trainables.motions.motion import Motion, MotionError

IDENTITY = np.array([1.0, 0.0, 0.0, 0.0])


def swinging(frames=41, rate_hz=40.0, loop="wrap", speed_m_s=0.5) -> Motion:
    """Two joints that swing once a clip, on a root that moves along x."""
    time_s = np.arange(frames) / rate_hz
    angle = 2 * np.pi * time_s / time_s[-1]
    position = np.stack([speed_m_s * time_s, 0 * time_s, np.full(frames, 0.3)], axis=1)
    joints = np.stack([np.sin(angle), 0.5 * np.cos(angle)], axis=1)
    return Motion("swing", ("a", "b"), joints, position, np.tile(IDENTITY, (frames, 1)), rate_hz, loop)


def from_scipy(rotations: Rotation) -> np.ndarray:
    return np.roll(rotations.as_quat(), 1, axis=-1)


def to_scipy(quaternion_wxyz: np.ndarray) -> Rotation:
    return Rotation.from_quat(np.roll(quaternion_wxyz, -1, axis=-1))


def test_a_wrapped_clip_lasts_one_interval_less_than_its_frames_and_its_phase_returns_to_zero():
    motion = swinging()
    assert motion.duration_s == pytest.approx(1.0)
    assert motion.phase[[0, 10, 20, 40]] == pytest.approx([0.0, 0.25, 0.5, 0.0])
    assert (np.diff(motion.phase[:-1]) > 0).all()
    assert swinging(loop="clamp").phase[-1] == 1.0


def test_velocities_match_the_derivative_and_have_no_jump_at_the_seam():
    motion = swinging(frames=401, rate_hz=400.0)
    angle = 2 * np.pi * np.arange(401) / 400
    exact = 2 * np.pi * np.stack([np.cos(angle), -0.5 * np.sin(angle)], axis=1)
    assert motion.closes
    assert np.abs(motion.joint_velocity_rad_s - exact).max() < 1e-3
    assert motion.joint_velocity_rad_s[0] == pytest.approx(motion.joint_velocity_rad_s[-1])
    assert motion.root_linear_velocity_m_s == pytest.approx(np.tile([0.5, 0.0, 0.0], (401, 1)))
    assert motion.forward_velocity_m_s == pytest.approx(0.5)


def test_a_clip_that_does_not_close_has_one_sided_velocities_at_its_ends():
    motion = swinging()
    ramp = replace(motion, joint_position_rad=np.linspace([0.0, 0.0], [1.0, 2.0], 41))
    assert not ramp.closes
    assert ramp.joint_velocity_rad_s == pytest.approx(np.tile([1.0, 2.0], (41, 1)))


def test_angles_that_cross_pi_do_not_spin_back():
    turning = np.angle(np.exp(1j * np.linspace(0, 2 * np.pi, 41)))[:, None]  # jumps from +π to -π in the middle
    motion = Motion("turn", ("wheel",), turning, np.zeros((41, 3)), np.tile(IDENTITY, (41, 1)), 40.0)
    assert motion.joint_velocity_rad_s == pytest.approx(np.full((41, 1), 2 * np.pi))
    between = motion.sample((np.arange(40) + 0.5) / 40)[0][:, 0]
    assert np.exp(1j * between) == pytest.approx(np.exp(1j * np.linspace(0, 2 * np.pi, 81)[1::2]))


def test_angular_velocity_is_that_of_the_turn():
    rate_hz, spin_rad_s = 100.0, np.array([0.3, -1.1, 2.0])
    rotations = Rotation.from_rotvec(np.arange(50)[:, None] / rate_hz * spin_rad_s)
    motion = Motion("spin", (), np.zeros((50, 0)), np.zeros((50, 3)), from_scipy(rotations), rate_hz, "clamp")
    assert motion.root_angular_velocity_rad_s == pytest.approx(np.tile(spin_rad_s, (50, 1)), abs=1e-9)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_rotation_arithmetic_agrees_with_scipy(seed):
    random = np.random.default_rng(seed)
    first, second = Rotation.random(5, rng=random), Rotation.random(5, rng=random)
    fraction, vector = random.uniform(0, 1, 5), random.normal(size=(5, 3))
    a, b = from_scipy(first), from_scipy(second)
    assert to_scipy(rotation.multiply(a, b)).approx_equal(first * second, atol=1e-9).all()
    assert rotation.rotate(a, vector) == pytest.approx(first.apply(vector))
    assert rotation.rotation_vector(a) == pytest.approx(first.as_rotvec())
    ours = rotation.slerp(a, b, fraction)
    for index in range(5):
        exact = Slerp([0, 1], Rotation.concatenate([first[index], second[index]]))(fraction[index])
        assert (to_scipy(ours[index]) * exact.inv()).magnitude() < 1e-6


@settings(max_examples=50, deadline=None)
@given(
    frames=st.integers(2, 60),
    rate_hz=st.floats(5, 240),
    target_hz=st.floats(5, 240),
    loop=st.sampled_from(["wrap", "clamp"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_resampling_keeps_the_ends_the_bounds_and_the_duration_within_half_a_frame(frames, rate_hz, target_hz, loop, seed):
    random = np.random.default_rng(seed)
    joints = np.cumsum(random.normal(0, 0.05, (frames, 3)), axis=0)
    quaternions = from_scipy(Rotation.from_rotvec(np.cumsum(random.normal(0, 0.05, (frames, 3)), axis=0)))
    motion = Motion("random", ("a", "b", "c"), joints, random.normal(size=(frames, 3)), quaternions, rate_hz, loop)
    resampled = motion.resample(target_hz)
    assert resampled.frame_rate_hz == target_hz
    assert resampled.joint_position_rad[0] == pytest.approx(joints[0])
    assert resampled.root_position_m[0] == pytest.approx(motion.root_position_m[0])
    assert (resampled.joint_position_rad >= joints.min(axis=0) - 1e-9).all()
    assert (resampled.joint_position_rad <= joints.max(axis=0) + 1e-9).all()
    assert np.linalg.norm(resampled.root_quaternion_wxyz, axis=1) == pytest.approx(np.ones(resampled.num_frames))
    if motion.duration_s * target_hz >= 0.5:
        assert abs(resampled.duration_s - motion.duration_s) <= 0.5 / target_hz + 1e-9
    if loop == "wrap" or resampled.duration_s >= motion.duration_s:
        assert resampled.joint_position_rad[-1] == pytest.approx(joints[-1])
        assert resampled.root_position_m[-1] == pytest.approx(motion.root_position_m[-1])


def test_resampling_to_its_own_rate_changes_nothing():
    motion = swinging()
    again = motion.resample(40.0)
    assert again.joint_position_rad == pytest.approx(motion.joint_position_rad)
    assert again.root_position_m == pytest.approx(motion.root_position_m)


def test_a_wrapped_clip_goes_on_from_where_its_root_ended_and_a_clamped_one_stops():
    times_s = np.array([0.25, 1.25, 7.25, -0.75])
    joints, position, _ = swinging().sample(times_s)
    assert joints == pytest.approx(np.tile(joints[0], (4, 1)))
    assert position[:, 0] == pytest.approx(0.5 * times_s)
    _, stays, _ = replace(swinging(), offsets_position=False).sample(times_s)
    assert stays[:, 0] == pytest.approx(np.full(4, 0.125))
    held, place, _ = swinging(loop="clamp").sample(np.array([5.0, -5.0]))
    assert held == pytest.approx(swinging().joint_position_rad[[-1, 0]])
    assert place[:, 0] == pytest.approx([0.5, 0.0])


def test_a_turning_clip_closes_its_circle():
    # A quarter of a circle of radius 1 a cycle: four cycles end where they began, in the same heading.
    angle = np.linspace(0, np.pi / 2, 31)
    position = np.stack([np.sin(angle), 1 - np.cos(angle), 0 * angle + 0.4], axis=1)
    quaternion = np.stack([np.cos(angle / 2), 0 * angle, 0 * angle, np.sin(angle / 2)], axis=1)
    motion = Motion("quarter", ("a",), np.zeros((31, 1)), position, quaternion, 30.0, offsets_rotation=True)
    _, place, turn = motion.sample(np.array([0.5, 1.5, 2.0, 4.0, -1.0]))
    assert place[2:] == pytest.approx(np.array([[0, 2, 0.4], [0, 0, 0.4], [-1, 1, 0.4]]), abs=1e-9)
    assert place[1, :2] == pytest.approx([math.sin(3 * np.pi / 4), 1 - math.cos(3 * np.pi / 4)], abs=1e-3)
    assert abs(turn[3, 0]) == pytest.approx(1.0)
    assert motion.forward_velocity_m_s == pytest.approx(np.pi / 2, rel=1e-2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frame_rate_hz": 0.0}, "frame rate is 0.0 Hz; it must be above 0"),
        ({"frame_rate_hz": math.nan}, "frame rate is nan"),
        ({"loop": "bounce"}, "loop mode is 'bounce'; allowed: wrap, clamp"),
        ({"joint_names": ("a",)}, "joint_position_rad has shape"),
        ({"joint_names": ("a", "a")}, "same name"),
        ({"root_position_m": np.full((41, 3), np.nan)}, "frame 0: root_position_m holds NaN"),
        ({"root_quaternion_wxyz": np.tile([1.0, 1.0, 0.0, 0.0], (41, 1))}, "norm 1.414; it must be 1"),
    ],
)
def test_an_impossible_motion_is_refused_with_its_name(change, message):
    with pytest.raises(MotionError, match=message) as caught:
        replace(swinging(), **change)
    assert str(caught.value).startswith("swing: ")
