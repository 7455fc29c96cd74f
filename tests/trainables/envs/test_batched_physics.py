"""Batched physics: the same whatever the number of threads, true to plain MuJoCo, and within what the servos can do."""

from __future__ import annotations

from pathlib import Path

import mujoco
import numpy as np
import pytest

from trainables.envs.physics import PRESETS, BatchedPhysics, apply_preset
from trainables.envs.registry import make_task
from trainables.nonfinite import NonFiniteError
from trainables.robots.registry import get_robot

ROBOT = get_robot("pidog")
CONTROL_DT_S = 0.02


def build(preset: str = "fast", num_envs: int = 6, num_threads: int = 1, individual: bool = False, gravity: bool = True) -> BatchedPhysics:
    spec = ROBOT.load_spec()
    apply_preset(spec, preset)
    if gravity:
        spec.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_PLANE, size=[0, 0, 1], contype=2, conaffinity=1)
    else:
        spec.option.gravity = [0, 0, 0]
    physics = BatchedPhysics(spec.compile(), num_envs, CONTROL_DT_S, ROBOT.servo_speed_limit_rad_s, num_threads, individual)
    stand = np.tile(ROBOT.default_joint_position_rad, (num_envs, 1))
    physics.place(np.arange(num_envs), stand, stand, np.full(num_envs, 0.086), np.zeros(num_envs))
    return physics


def random_targets(steps: int, num_envs: int) -> np.ndarray:
    return np.random.default_rng(7).uniform(ROBOT.joint_low_rad, ROBOT.joint_high_rad, (steps, num_envs, 12))


@pytest.mark.parametrize(("preset", "substeps"), [("fast", 4), ("medium", 10), ("production", 20)])
def test_presets_set_timestep_and_iterations(preset: str, substeps: int):
    physics = build(preset)
    assert physics.model.opt.timestep == PRESETS[preset].timestep_s
    assert physics.model.opt.iterations == PRESETS[preset].solver_iterations
    assert physics.substeps == substeps
    physics.step(np.tile(ROBOT.default_joint_position_rad, (6, 1)))
    assert physics.state[:, 0] == pytest.approx(CONTROL_DT_S)


@pytest.mark.parametrize("individual", [False, True])
def test_threads_do_not_change_a_single_bit(individual: bool):
    targets = random_targets(40, 6)
    states = []
    for threads in (1, 2, 3):
        physics = build(num_threads=threads, individual=individual)
        for target in targets:
            physics.step(target)
        states.append(physics.state.copy())
        physics.close()
    assert np.array_equal(states[0], states[1])
    assert np.array_equal(states[0], states[2])


def test_one_robot_moves_as_in_plain_mujoco():
    physics = build(num_envs=2)
    data = mujoco.MjData(physics.model)
    data.qpos[:], data.qvel[:] = physics.qpos[1], physics.qvel[1]
    servo = physics.servo_target[1].copy()
    limit = ROBOT.servo_speed_limit_rad_s * physics.model.opt.timestep
    for target in random_targets(5, 2):
        physics.step(target)
        data.qacc_warmstart[:] = 0  # a rollout starts each control step without the last one's forces
        start = servo.copy()
        for substep in range(1, physics.substeps + 1):
            servo = start + np.clip(target[1] - start, -limit * substep, limit * substep)
            data.ctrl[:] = servo
            mujoco.mj_step(physics.model, data)
        assert physics.qpos[1] == pytest.approx(data.qpos, abs=1e-9)
        assert physics.qvel[1] == pytest.approx(data.qvel, abs=1e-7)


def test_torque_never_passes_the_measured_stall_torque():
    physics = build()
    torque = physics.sensor_block([f"{joint}_torque" for joint in ROBOT.joint_names])
    for target in random_targets(60, 6):
        physics.step(target)
        assert np.abs(torque).max() <= 0.132 + 1e-12
    assert np.abs(torque).max() > 0.1


def test_a_free_motor_never_passes_its_no_load_speed():
    physics = build(num_envs=1, gravity=False)
    tail = ROBOT.joint_names.index("tail")
    start = ROBOT.default_joint_position_rad[None].copy()
    start[0, tail] = ROBOT.joint_low_rad[tail]
    far = start.copy()
    far[0, tail] = ROBOT.joint_high_rad[tail]
    physics.place(np.array([0]), start, start, np.array([1.0]), np.array([0.0]))
    physics.servo_target[:] = far  # a jump that no controller smooths: the motor alone sets the pace
    largest = 0.0
    for _ in range(40):
        physics.step(far)
        largest = max(largest, abs(physics.qvel[0, 6 + tail]))
    assert physics.qpos[0, 7 + tail] == pytest.approx(far[0, tail], abs=0.02)
    assert 5.0 < largest <= 6.41  # 0.132 N·m / 0.0206 N·m·s/rad; the body turning under the motor adds a little


def test_targets_approach_no_faster_than_the_servo_speed_limit():
    physics = build(num_envs=1)
    before = physics.servo_target.copy()
    physics.step(np.tile(ROBOT.joint_high_rad, (1, 1)))
    moved = physics.servo_target - before
    wanted = ROBOT.joint_high_rad - before
    assert moved == pytest.approx(np.clip(wanted, None, ROBOT.servo_speed_limit_rad_s * CONTROL_DT_S))


def test_nominal_individual_models_equal_the_shared_one():
    targets = random_targets(10, 6)
    shared, individual = build(), build(individual=True)
    for env in range(6):
        individual.set_dynamics(env, friction=1.0, mass=1.0, motor_strength=1.0)
    for target in targets:
        shared.step(target)
        individual.step(target)
    assert np.array_equal(shared.state, individual.state)


@pytest.mark.parametrize("changed", [{"friction": 0.2}, {"mass": 1.5}, {"motor_strength": 0.5}])
def test_each_randomised_quantity_changes_the_motion_of_its_robot_alone(changed: dict[str, float]):
    reference, varied = build(individual=True), build(individual=True)
    varied.set_dynamics(2, **({"friction": 1.0, "mass": 1.0, "motor_strength": 1.0} | changed))
    for target in random_targets(15, 6):
        reference.step(target)
        varied.step(target)
    others = [env for env in range(6) if env != 2]
    assert np.array_equal(reference.state[others], varied.state[others])
    assert np.abs(reference.qpos[2] - varied.qpos[2]).max() > 1e-4


def test_sensors_that_do_not_stand_side_by_side_are_refused():
    with pytest.raises(ValueError, match="do not stand side by side"):
        build().sensor_block(["tail_torque", "left_front_hip_torque"])


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e12])
@pytest.mark.parametrize("preset", ["fast", "production"])
def test_a_robot_whose_simulation_diverges_is_reported(preset: str, value: float, mujoco_log: Path):
    physics = build(preset)
    targets = random_targets(4, 6)
    for target in targets[:3]:
        assert physics.step(target).size == 0
    physics.qvel[[1, 4], 7] = value
    assert physics.step(targets[3]).tolist() == [1, 4]
    physics.close()


def test_divergence_names_the_robot_and_its_step(mujoco_log: Path):
    task = make_task("pidog_run", 4, {}, 0)
    task.reset()
    for _ in range(6):
        task.step(np.zeros((4, 12)))
    task.physics.qpos[3, 9] = np.nan
    with pytest.raises(NonFiniteError, match=r"the physics state is not finite \(environment 3, step 7\)") as caught:
        task.step(np.zeros((4, 12)))
    assert set(caught.value.last_finite) == {"qpos", "qvel", "action"}
    assert len(caught.value.last_finite["action"]) == 12
