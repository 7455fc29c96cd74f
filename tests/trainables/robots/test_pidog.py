"""PiDog's specification agrees with its MJCF, and both with the published figures."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest

from cluster.errors import ConfigError
from trainables.robots.registry import ROBOTS, get_robot

ROBOT = get_robot("pidog")


@pytest.fixture(scope="module")
def model() -> mujoco.MjModel:
    return ROBOT.load_spec().compile()


def test_joints_actuators_and_state_are_in_one_order(model: mujoco.MjModel):
    hinges = [model.joint(index).name for index in range(model.njnt) if model.jnt_type[index] == mujoco.mjtJoint.mjJNT_HINGE]
    assert tuple(hinges) == ROBOT.joint_names
    assert tuple(model.actuator(index).name for index in range(model.nu)) == ROBOT.joint_names
    assert [model.joint(name).qposadr[0] for name in ROBOT.joint_names] == list(range(7, 19))


def test_twelve_servos_eight_of_them_in_the_legs():
    assert ROBOT.num_joints == 12
    assert ROBOT.leg_joint_indices.size == 8
    for (hip, knee), leg in zip(ROBOT.leg_joint_indices, ROBOT.leg_names, strict=True):
        assert (ROBOT.joint_names[hip], ROBOT.joint_names[knee]) == (f"{leg}_hip", f"{leg}_knee")


def test_limits_agree_and_reach_the_published_head_angles(model: mujoco.MjModel):
    for index, name in enumerate(ROBOT.joint_names):
        assert model.joint(name).range == pytest.approx([ROBOT.joint_low_rad[index], ROBOT.joint_high_rad[index]], abs=1e-4)
        assert model.actuator(name).ctrlrange == pytest.approx(model.joint(name).range)
    degrees = np.degrees(np.stack([ROBOT.joint_low_rad, ROBOT.joint_high_rad], axis=-1))
    head = dict(zip(ROBOT.joint_names, degrees.round(3).tolist(), strict=True))
    assert head["head_yaw"] == [-90, 90]
    assert head["head_roll"] == [-70, 70]
    assert head["head_pitch"] == [-45, 30]


def test_masses_and_motors_are_the_measured_ones(model: mujoco.MjModel):
    for leg in ROBOT.leg_names:
        assert model.body(f"{leg}_upper").mass[0] + model.body(f"{leg}_lower").mass[0] == pytest.approx(0.037)
    assert model.body("base").mass[0] == pytest.approx(0.133)
    torque = model.actuator_forcerange[:, 1]
    assert ((torque >= 0.127) & (torque <= 0.137)).all()
    assert torque == pytest.approx(ROBOT.servo_stall_torque_nm)
    no_load_speed = torque / model.dof_damping[6:].reshape(-1)
    assert ((no_load_speed >= 5.8) & (no_load_speed <= 7.0)).all()


def test_servo_targets_move_no_faster_than_motor_and_controller_allow():
    limit = dict(zip(ROBOT.joint_names, ROBOT.servo_speed_limit_rad_s, strict=True))
    assert limit["left_front_hip"] == pytest.approx(6.4)
    assert limit["head_yaw"] == pytest.approx(np.radians(300))


def test_feet_collide_and_have_friction(model: mujoco.MjModel):
    for leg in ROBOT.leg_names:
        foot = model.geom(f"{leg}_foot")
        assert foot.contype[0] == 1
        assert foot.friction[0] > 0
        assert foot.size[0] == pytest.approx(ROBOT.foot_radius_m)


def test_a_mirrored_pose_has_mirrored_feet():
    joints = np.random.default_rng(3).uniform(ROBOT.joint_low_rad, ROBOT.joint_high_rad)
    feet, mirrored = ROBOT.foot_position_m(joints), ROBOT.foot_position_m(ROBOT.mirrored(joints))
    assert mirrored == pytest.approx(feet[[1, 0, 3, 2]])
    assert ROBOT.mirrored(ROBOT.mirrored(joints)) == pytest.approx(joints)


def test_the_normalised_range_holds_the_standing_pose():
    normalised = (ROBOT.default_joint_position_rad - ROBOT.action_offset_rad) / ROBOT.action_scale_rad
    assert np.abs(normalised).max() < 1


def test_an_unknown_robot_is_one_clear_line():
    with pytest.raises(ConfigError, match=r"unknown robot 'pidgo'; did you mean 'pidog'\? known: pidog"):
        get_robot("pidgo")


@pytest.mark.parametrize("name", ROBOTS)
def test_every_registered_robot_loads(name: str):
    assert get_robot(name).load_spec().compile().nu == get_robot(name).num_joints
