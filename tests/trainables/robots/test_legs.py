"""Leg kinematics: inverse of each other, and equal to MuJoCo's."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainables.robots.legs import LegGeometry
from trainables.robots.registry import get_robot

LEG = LegGeometry(upper_m=0.042, lower_m=0.076)
ROBOT = get_robot("pidog")


@given(hip=st.floats(-1.57, 1.57), knee=st.floats(-1.2, 1.48))
def test_angles_to_foot_and_back(hip: float, knee: float):
    angles = np.array([hip, knee])
    assert LEG.joint_angles_rad(LEG.foot_position_m(angles)) == pytest.approx(angles, abs=1e-6)


@given(distance=st.floats(0.0345, 0.1175), direction=st.floats(-1.5, 1.5))
def test_foot_to_angles_and_back(distance: float, direction: float):
    foot = distance * np.array([np.sin(direction), -np.cos(direction)])
    assert LEG.foot_position_m(LEG.joint_angles_rad(foot)) == pytest.approx(foot, abs=1e-9)


def test_neutral_servos_put_the_foot_in_front_of_the_knee_at_a_right_angle():
    assert LEG.foot_position_m(np.zeros(2)) == pytest.approx([0.076, -0.042])


def test_a_foot_out_of_reach_is_drawn_along_its_own_direction():
    far = np.array([0.3, -0.4])
    reached = LEG.foot_position_m(LEG.joint_angles_rad(far))
    assert reached == pytest.approx(far / np.linalg.norm(far) * 0.118, abs=1e-9)


def test_any_batch_shape():
    angles = np.random.default_rng(0).uniform(-1, 1, (5, 3, 4, 2))
    feet = LEG.foot_position_m(angles)
    assert feet.shape == (5, 3, 4, 2)
    assert LEG.joint_angles_rad(feet) == pytest.approx(angles, abs=1e-6)


@given(seed=st.integers(0, 2**32 - 1))
def test_feet_are_where_mujoco_puts_them(seed: int):
    model = _model()
    data = mujoco.MjData(model)
    joints = np.random.default_rng(seed).uniform(ROBOT.joint_low_rad, ROBOT.joint_high_rad)
    data.qpos[:7] = [0, 0, 0, 1, 0, 0, 0]
    data.qpos[7:] = joints
    mujoco.mj_kinematics(model, data)
    feet = ROBOT.foot_position_m(joints)
    for index, leg in enumerate(ROBOT.leg_names):
        expected = ROBOT.hip_position_m[index] + np.array([feet[index, 0], 0.0, feet[index, 1]])
        assert data.site(f"{leg}_foot").xpos == pytest.approx(expected, abs=1e-9)


_CACHE: list[mujoco.MjModel] = []


def _model() -> mujoco.MjModel:
    if not _CACHE:
        _CACHE.append(ROBOT.load_spec().compile())
    return _CACHE[0]
