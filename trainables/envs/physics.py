"""Batched MuJoCo: many robots, one native call a control step.

``mujoco.rollout`` advances every robot by all its physics substeps inside one call without the interpreter lock, from plain
NumPy state arrays. Robots may have different models (domain randomisation) as long as the sizes agree. A robot's trajectory
depends on its own state, model and targets only, so results do not change with the number of threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import mujoco
import mujoco.rollout
import numpy as np

__all__ = ["PRESETS", "BatchedPhysics", "PhysicsPreset", "apply_preset"]

PresetName = Literal["fast", "medium", "production"]
_STATE = mujoco.mjtState


@dataclass(frozen=True)
class PhysicsPreset:
    """Quality of the simulation."""

    timestep_s: float
    solver_iterations: int


PRESETS: dict[str, PhysicsPreset] = {
    "fast": PhysicsPreset(0.005, 50),
    "medium": PhysicsPreset(0.002, 150),
    "production": PhysicsPreset(0.001, 300),
}


def apply_preset(spec: mujoco.MjSpec, preset: str) -> None:
    """Set the timestep and the largest number of solver iterations of a model specification."""
    spec.option.timestep = PRESETS[preset].timestep_s
    spec.option.iterations = PRESETS[preset].solver_iterations


class BatchedPhysics:
    """State of ``num_envs`` copies of a floating-base robot and the native call that advances them.

    Attributes:
        state: full physics state. Shape (num_envs, state_size). ``qpos`` and ``qvel`` are views of it; write to them to place a robot.
        sensors: sensor readings of every substep of the last control step, each taken at that substep's start.
            Shape (num_envs, substeps, num_sensor_values); ``sensor(name)`` is a view.
        models: one model a robot; all the same object while nothing is randomised.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        num_envs: int,
        control_dt_s: float,
        servo_speed_limit_rad_s: np.ndarray,
        num_threads: int = 1,
        individual_models: bool = False,
    ) -> None:
        self.num_envs, self.control_dt_s = num_envs, control_dt_s
        self.substeps = round(control_dt_s / model.opt.timestep)
        self.model = model
        self.models = [model.__copy__() for _ in range(num_envs)] if individual_models else [model] * num_envs
        self._data = [mujoco.MjData(model) for _ in range(max(num_threads, 1))]
        self._scratch = mujoco.MjData(model)
        self._pool = mujoco.rollout.Rollout(nthread=0 if num_threads <= 1 else num_threads)

        size = mujoco.mj_stateSize(model, _STATE.mjSTATE_FULLPHYSICS.value)
        initial = np.zeros(size)
        mujoco.mj_getState(model, self._data[0], initial, _STATE.mjSTATE_FULLPHYSICS.value)
        self.state = np.tile(initial, (num_envs, 1))
        # Order inside the state: time, qpos, qvel (mjtState's bit order).
        self.qpos = self.state[:, 1 : 1 + model.nq]
        self.qvel = self.state[:, 1 + model.nq : 1 + model.nq + model.nv]
        self._trace = np.zeros((num_envs, self.substeps, size))
        self.sensors = np.zeros((num_envs, self.substeps, model.nsensordata))

        self._input_spec = _STATE.mjSTATE_CTRL.value | (_STATE.mjSTATE_MOCAP_POS.value if model.nmocap else 0)
        self._inputs = np.zeros((num_envs, self.substeps, model.nu + 3 * model.nmocap))
        self._control = self._inputs[:, :, : model.nu]
        self.servo_target = np.zeros((num_envs, model.nu))
        """Where each servo's controller has got to on its way to the commanded target, rad. Shape (num_envs, num_joints)."""
        substep_index = np.arange(1, self.substeps + 1)[:, None]
        self._largest_move = servo_speed_limit_rad_s * model.opt.timestep * substep_index
        self.set_obstacles(slice(None), np.zeros((model.nmocap, 3)))

    def set_obstacles(self, envs: slice | np.ndarray, position_m: np.ndarray) -> None:
        """Place the mocap bodies of some robots' worlds. Shape (num_mocap, 3) or (len(envs), num_mocap, 3)."""
        flat = np.reshape(position_m, (*position_m.shape[:-2], 1, -1))
        self._inputs[envs, :, self.model.nu :] = flat

    @property
    def obstacle_position_m(self) -> np.ndarray:
        """Centres of the mocap bodies. Shape (num_envs, num_mocap, 3)."""
        return self._inputs[:, 0, self.model.nu :].reshape(self.num_envs, -1, 3)

    def place(
        self, envs: np.ndarray, joint_position_rad: np.ndarray, joint_targets_rad: np.ndarray, height_m: np.ndarray, pitch_rad: np.ndarray
    ) -> None:
        """Put robots at rest at their world's origin, facing +x. Shapes (n,), (n, num_joints) twice, (n,), (n,) nose-up positive."""
        zeros = np.zeros(len(envs))
        self.state[envs] = 0.0
        self.qpos[envs, 2] = height_m
        self.qpos[envs, 3:7] = np.stack([np.cos(pitch_rad / 2), zeros, -np.sin(pitch_rad / 2), zeros], axis=-1)
        self.qpos[envs, 7:] = joint_position_rad
        self.servo_target[envs] = joint_targets_rad

    def set_dynamics(self, env: int, friction: float, mass: float, motor_strength: float) -> None:
        """Make one robot different from the nominal one by these multipliers. It must have a model of its own."""
        nominal, model = self.model, self.models[env]
        feet = nominal.geom_priority > 0
        model.geom_friction[feet, 0] = nominal.geom_friction[feet, 0] * friction
        model.body_mass[:] = nominal.body_mass * mass
        model.body_inertia[:] = nominal.body_inertia * mass
        model.actuator_gainprm[:, 0] = nominal.actuator_gainprm[:, 0] * motor_strength
        model.actuator_biasprm[:, 1:3] = nominal.actuator_biasprm[:, 1:3] * motor_strength
        model.actuator_forcerange[:] = nominal.actuator_forcerange * motor_strength
        mujoco.mj_setConst(model, self._scratch)

    def step(self, joint_targets_rad: np.ndarray) -> np.ndarray:
        """Advance all robots by one control period. The targets move no faster than the servo speed limit.

        Args:
            joint_targets_rad: joint targets. Shape (num_envs, num_joints).

        Returns:
            Indices of the robots whose simulation has diverged, usually none; ``state`` is then still that before the step. Shape (n,).
        """
        move = (joint_targets_rad - self.servo_target)[:, None, :]
        np.maximum(move, -self._largest_move, out=self._control)
        np.minimum(self._control, self._largest_move, out=self._control)
        self._control += self.servo_target[:, None, :]
        self.servo_target[:] = self._control[:, -1]
        self._pool.rollout(
            self.models,
            self._data,
            self.state,
            self._inputs,
            control_spec=self._input_spec,
            skip_checks=True,
            nstep=self.substeps,
            state=self._trace,
            sensordata=self.sensors,
        )
        # A rollout stops a simulation at MuJoCo's first warning, and MuJoCo sets one that diverged back to time 0: the clock tells.
        last = self._trace[:, -1]
        missing_s = np.abs(last[:, 0] - self.state[:, 0] - self.control_dt_s)
        on_time = missing_s < self.model.opt.timestep / 2
        if not (on_time.all() and np.isfinite(last.sum())):  # one sum: looked at one by one only when something is wrong
            whole = on_time & np.isfinite(last).all(axis=1)
            if not whole.all():
                return np.flatnonzero(~whole)
        self.state[:] = last
        return _NONE

    def sensor(self, name: str) -> np.ndarray:
        """Readings of one named sensor over the last control step. A view of shape (num_envs, substeps, dimension)."""
        sensor = self.model.sensor(name)
        return self.sensors[:, :, sensor.adr[0] : sensor.adr[0] + sensor.dim[0]]

    def sensor_block(self, names: list[str]) -> np.ndarray:
        """Scalar sensors that stand side by side in the model. A view of shape (num_envs, substeps, len(names))."""
        start = self.model.sensor(names[0]).adr[0]
        if [self.model.sensor(name).adr[0] for name in names] != list(range(start, start + len(names))):
            raise ValueError(f"the model's sensors {names[0]} .. {names[-1]} do not stand side by side in this order")
        return self.sensors[:, :, start : start + len(names)]

    def close(self) -> None:
        """Stop the thread pool."""
        self._pool.close()


_NONE = np.zeros(0, dtype=np.int64)
