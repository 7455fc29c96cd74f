"""``pidog_run``: PiDog follows a commanded gait as fast as it can without falling, past obstacles that its ultrasonic sensor sees.

Observation (50), action (12 joint targets), reward terms and termination are all here; ``robot_task`` and ``base`` hold the rest.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from cluster.config import Config
from cluster.contract import TensorField
from trainables.envs.base import TaskConfig
from trainables.envs.commands import CommandConfig, GaitCommands
from trainables.envs.imitation_reward import Imitation, ImitationConfig, RobotState
from trainables.envs.obstacles import ObstacleField, ObstaclesConfig
from trainables.envs.randomization import DynamicsDraw, LatencyBuffer, NoiseConfig, Pushes, RandomizationConfig
from trainables.envs.reference import Pose, standing_on_feet
from trainables.envs.robot_task import ActionScaling, RobotTask
from trainables.robots.registry import get_robot

__all__ = ["PiDogRun", "PiDogRunConfig"]

_CONTROL_DT_S = 0.02
_RANGE_LIMITS_M = (0.02, 4.0)
"""What an HC-SR04 class ultrasonic sensor can measure; nothing in sight reads as the far end."""
_FALLEN_UP = 0.5
"""Fallen: the body's up axis is more than 60° from the vertical ..."""
_FALLEN_HEIGHT_M = 0.055
"""... or the hips are this low; sitting they are at 0.072."""
_INITIAL_JOINT_NOISE_RAD = 0.01
_TURN_AVERAGE_S = 1.0
"""About a gait cycle: a trot rocks from side to side within it, and only what is left on average bends the path."""


class PhysicsConfig(Config):
    """How the physics is run."""

    preset: Literal["fast", "medium", "production"] = Field("fast", description="5 ms / 50, 2 ms / 150 or 1 ms / 300 solver iterations")
    num_threads: int = Field(1, ge=1, description="threads that step the robots; results do not depend on it")


class RewardConfig(Config):
    """Weight of each reward term, per second of simulated time, and what the terms are measured against."""

    target_velocity_m_s: float = Field(0.4, gt=0, description="forward_velocity saturates here")
    forward_velocity: float = Field(
        6.0, description="velocity in the commanded direction / target velocity, -1..1; standing still when told to"
    )
    upright: float = Field(0.5, description="cosine of the body's tilt")
    obstacle_clearance: float = Field(1.0, description="minus the share by which the nearest box is closer than the safe distance")
    smoothness: float = Field(0.5, description="minus the mean squared change of the joint targets, rad²")
    energy: float = Field(0.02, description="minus the servos' power, W")
    heading: float = Field(5.0, description="minus the squared yaw rate, averaged over a second, rad²/s²")
    lateral_velocity: float = Field(2.0, description="minus the squared sideways velocity, m²/s²")
    alive: float = Field(0.5, description="1 for every step")


class PiDogRunConfig(TaskConfig):
    """Configuration of ``pidog_run``."""

    training_only: ClassVar[frozenset[str]] = frozenset({"imitation"})

    physics: PhysicsConfig = Field(PhysicsConfig(), description="physics quality")
    command: CommandConfig = Field(CommandConfig(), description="gaits to be followed")
    reward: RewardConfig = Field(RewardConfig(), description="weights of the reward terms")
    obstacles: ObstaclesConfig = Field(ObstaclesConfig(), description="boxes and bumps")
    randomization: RandomizationConfig = Field(RandomizationConfig(), description="what differs from robot to robot")
    noise: NoiseConfig = Field(NoiseConfig(), description="sensor noise")
    imitation: ImitationConfig = Field(ImitationConfig(), description="reward for following a reference, off by default")


def observation_fields(joint_names: tuple[str, ...]) -> tuple[TensorField, ...]:
    """The parts of the observation, in flat order."""
    axes, count = ("x", "y", "z"), len(joint_names)
    return (
        TensorField(name="projected_gravity", shape=(3,), components=axes, low=(-1.0,) * 3, high=(1.0,) * 3),
        TensorField(name="imu_angular_velocity_rad_s", shape=(3,), unit="rad/s", components=axes),
        TensorField(name="imu_linear_acceleration_m_s2", shape=(3,), unit="m/s^2", components=axes),
        TensorField(name="joint_position_rad", shape=(count,), unit="rad", components=joint_names),
        TensorField(name="joint_velocity_rad_s", shape=(count,), unit="rad/s", components=joint_names),
        TensorField(name="ultrasonic_range_m", shape=(1,), unit="m", low=_RANGE_LIMITS_M[:1], high=_RANGE_LIMITS_M[1:]),
        TensorField(name="previous_action_rad", shape=(count,), unit="rad", components=joint_names),
        TensorField(name="command", shape=(4,), components=("phase_sin", "phase_cos", "forward_velocity_m_s", "posture")),
    )


class PiDogRun(RobotTask):
    """See the module's docstring.

    Attributes:
        physics: the batched simulation; its ``qpos`` and ``qvel`` are the robots' true state.
        commands: the gait and phase of every robot.
    """

    config_model = PiDogRunConfig
    config: PiDogRunConfig

    def __init__(
        self, num_envs: int, config: PiDogRunConfig | None = None, seed: int | None = 0, reward_terms_in_info: bool = True
    ) -> None:
        import mujoco

        from trainables.envs.physics import BatchedPhysics, apply_preset

        config = config or PiDogRunConfig()
        robot = get_robot("pidog")
        low, high = robot.joint_low_rad, robot.joint_high_rad
        super().__init__(
            name="pidog_run",
            robot=robot,
            config=config,
            num_envs=num_envs,
            control_dt_s=_CONTROL_DT_S,
            observation_fields=observation_fields(robot.joint_names),
            action_fields=(
                TensorField(
                    name="joint_position_target_rad",
                    shape=(robot.num_joints,),
                    unit="rad",
                    components=robot.joint_names,
                    low=tuple(low.tolist()),
                    high=tuple(high.tolist()),
                ),
            ),
            action_scaling=ActionScaling(robot.action_offset_rad, robot.action_scale_rad, low, high),
            reward_weights={**config.reward.model_dump(exclude={"target_velocity_m_s"}), **config.imitation.term_weights},
            seed=seed,
            reward_terms_in_info=reward_terms_in_info,
        )
        self._obstacles = ObstacleField(config.obstacles)
        spec = robot.load_spec()
        apply_preset(spec, config.physics.preset)
        spec.worldbody.add_geom(
            name="floor", type=mujoco.mjtGeom.mjGEOM_PLANE, size=[0, 0, 1], contype=2, conaffinity=1, friction=[0.6, 0.005, 0.0001]
        )
        self._obstacles.add_to(spec)
        imitation = config.imitation
        if imitation.is_on:
            spec.add_sensor(
                name="centre_of_mass", type=mujoco.mjtSensor.mjSENS_SUBTREECOM, objtype=mujoco.mjtObj.mjOBJ_BODY, objname="base"
            )
        self.physics = BatchedPhysics(
            spec.compile(),
            num_envs,
            self.control_dt_s,
            robot.servo_speed_limit_rad_s,
            config.physics.num_threads,
            individual_models=config.randomization.varies_models,
        )
        self._gyro, self._accelerometer = self.physics.sensor("imu_gyro"), self.physics.sensor("imu_accelerometer")
        self._ultrasonic = self.physics.sensor("ultrasonic")
        self._torque = np.moveaxis(self.physics.sensor_block([f"{joint}_torque" for joint in robot.joint_names]), 1, 0)
        self._speed = np.moveaxis(self.physics.sensor_block([f"{joint}_velocity" for joint in robot.joint_names]), 1, 0)
        self.commands = GaitCommands(config.command, num_envs, self.control_dt_s, robot.name)
        self._latency = LatencyBuffer(num_envs, robot.num_joints, config.randomization.max_latency_steps)
        self._pushes = Pushes(config.randomization, num_envs, self.control_dt_s)
        self._imitation: Imitation | None = None
        if imitation.is_on:
            robot_model = robot.load_spec().compile()
            self._imitation = Imitation(imitation, config.command, robot, self.control_dt_s, robot_model, num_envs)
            self._centre_of_mass = self.physics.sensor("centre_of_mass")
            self._faded = self._weights[-len(imitation.term_weights) :]
            self._unfaded = self._faded.copy()
            self.set_env_steps(0)
        noise = config.noise
        per_joint = [noise.joint_position_rad] * robot.num_joints + [noise.joint_velocity_rad_s] * robot.num_joints
        imu = [noise.gravity] * 3 + [noise.angular_velocity_rad_s] * 3 + [noise.linear_acceleration_m_s2] * 3
        self._noise_scale = np.array([*imu, *per_joint, noise.range_m])
        self._action_change_rad = np.zeros((num_envs, robot.num_joints))
        self._gravity = np.zeros((num_envs, 3))
        self._velocity_m_s = np.zeros((num_envs, 2))
        """Forward and sideways velocity of the body along its own heading, mean over the last control period."""
        self._turn_rate_rad_s = np.zeros(num_envs)
        self._power_w = np.zeros(num_envs)
        self._energy_j = np.zeros(num_envs)
        self._forward_m = np.zeros(num_envs)

    def expert_targets_rad(self) -> np.ndarray:
        """Joint targets that the gait expert would send now. Shape (num_envs, num_joints)."""
        return self.commands.expert_targets_rad(np.arange(self.num_envs))

    def set_env_steps(self, env_steps: int) -> None:
        """Fade the imitation part of the reward."""
        if self._imitation is not None:
            self._imitation.set_env_steps(env_steps)
            self._faded[:] = self._unfaded * self._imitation.factor

    def close(self, **kwargs: object) -> None:
        """Stop the physics threads."""
        self.physics.close()
        super().close(**kwargs)

    def _place(self, envs: np.ndarray) -> None:
        """In the commanded gait's pose, feet on the ground, at the origin facing +x; nothing moves."""
        randomization, joint_noise = self.config.randomization, np.zeros((len(envs), self.robot.num_joints))
        for row, env in enumerate(envs):
            rng = self.rngs[env]
            self.commands.draw(env, rng)
            joint_noise[row] = rng.normal(0.0, _INITIAL_JOINT_NOISE_RAD, self.robot.num_joints)
            self.physics.set_obstacles(env, self._obstacles.draw(rng))
            if randomization.enabled:
                if randomization.varies_models:
                    draw = DynamicsDraw.sample(randomization, rng)
                    self.physics.set_dynamics(env, draw.friction, draw.mass, draw.motor_strength)
                self._latency.delay_steps[env] = rng.integers(randomization.latency_steps[0], randomization.latency_steps[1] + 1)
                self._pushes.restart(env, rng)
        targets = pose = self.commands.expert_targets_rad(envs)
        before: Pose | None = None
        if self._imitation is not None:
            self._imitation.begin(envs)
            due, earlier = self._imitation.start(self.commands.index[envs], self.commands.phase[envs])
            targets = pose = due.joint_position_rad
            if self.config.imitation.reference_state:
                before, pose = earlier, earlier.joint_position_rad
        self.initial_targets_rad[envs] = targets
        self._latency.restart(envs, targets)
        joints = np.clip(pose + joint_noise, self.robot.joint_low_rad, self.robot.joint_high_rad)
        height_m, pitch_rad = standing_on_feet(self.robot, joints)
        self.physics.place(envs, joints, pose, height_m, pitch_rad)
        if before is not None:
            velocity = (before.linear_velocity_m_s, before.angular_velocity_rad_s, before.joint_velocity_rad_s)
            self.physics.qvel[envs] = np.concatenate(velocity, axis=1)
        self._energy_j[envs] = 0.0
        self._forward_m[envs] = 0.0
        self._turn_rate_rad_s[envs] = 0.0

    def _drive(self, joint_targets_rad: np.ndarray, active: np.ndarray) -> None:
        self._action_change_rad = joint_targets_rad - self.previous_action_rad
        physics = self.physics
        self._pushes.apply(physics.qvel, self.rngs)
        due = self.commands.phase
        start_xy = physics.qpos[:, :2].copy()
        self._refuse_diverged(physics.step(self._latency.delayed(joint_targets_rad)), physics.qpos, physics.qvel, joint_targets_rad)
        self.commands.advance()

        w, x, y, z = physics.qpos[:, 3:7].T
        self._gravity = np.stack([2 * (w * y - x * z), -2 * (y * z + w * x), 2 * (x * x + y * y) - 1], axis=-1)
        # Along and across the heading that the episode began with: along the robot's own, running in circles would pay.
        self._velocity_m_s = (physics.qpos[:, :2] - start_xy) / self.control_dt_s
        self._turn_rate_rad_s += (self._gyro[:, :, 2].mean(axis=1) - self._turn_rate_rad_s) * (self.control_dt_s / _TURN_AVERAGE_S)
        self._power_w = np.abs(self._torque * self._speed).sum(axis=-1).mean(axis=0)
        self._energy_j += self._power_w * self.control_dt_s * active
        self._forward_m += self._velocity_m_s[:, 0] * self.control_dt_s * active
        if self._imitation is not None:
            # What was due in this period: the phase is already that of the next one.
            self._imitation.compare(self._state(), self.commands.index, due, active)

    def _state(self) -> RobotState:
        qpos, qvel = self.physics.qpos, self.physics.qvel
        velocity = np.concatenate([self._velocity_m_s, qvel[:, 2:3]], axis=1)
        return RobotState(qpos[:, 7:], qvel[:, 6:], qpos[:, :3], -self._gravity, velocity, qvel[:, 3:6], self._centre_of_mass[:, -1])

    def _observe(self) -> np.ndarray:
        physics, commands = self.physics, self.commands
        measured = np.concatenate(
            [
                self._gravity,
                self._gyro[:, -1],
                self._accelerometer.mean(axis=1),
                physics.qpos[:, 7:],
                physics.qvel[:, 6:],
                np.where(self._ultrasonic[:, -1] < 0, _RANGE_LIMITS_M[1], self._ultrasonic[:, -1]),
            ],
            axis=1,
        )
        if self.config.noise.enabled:
            measured += self._noise_rng.standard_normal(measured.shape) * self._noise_scale
        np.clip(measured[:, -1], *_RANGE_LIMITS_M, out=measured[:, -1])
        angle = 2 * np.pi * commands.phase
        command = np.stack([np.sin(angle), np.cos(angle), commands.forward_velocity_m_s, commands.posture], axis=-1)
        return np.concatenate([measured, self.previous_action_rad, command], axis=1).astype(np.float32)

    def _reward_terms(self) -> dict[str, np.ndarray]:
        config, commanded = self.config.reward, self.commands.forward_velocity_m_s
        forward = self._velocity_m_s[:, 0]
        progress = np.clip(np.sign(commanded) * forward / config.target_velocity_m_s, -1.0, 1.0)
        stillness = np.exp(-((forward / 0.1) ** 2))
        clearance_m = self._obstacles.clearance_m(self.physics.qpos[:, :2], self.physics.obstacle_position_m)
        safe_m = self.config.obstacles.safe_distance_m
        terms = {
            "forward_velocity": np.where(commanded == 0.0, stillness, progress),
            "upright": -self._gravity[:, 2],
            "obstacle_clearance": -np.clip(1.0 - clearance_m / safe_m, 0.0, 1.0),
            "smoothness": -(self._action_change_rad**2).mean(axis=1),
            "energy": -self._power_w,
            "heading": -(self._turn_rate_rad_s**2),
            "lateral_velocity": -(self._velocity_m_s[:, 1] ** 2),
            "alive": np.ones(self.num_envs),
        }
        return terms if self._imitation is None else {**terms, **self._imitation.terms(self.commands)}

    def _terminated(self) -> np.ndarray:
        fallen = (-self._gravity[:, 2] < _FALLEN_UP) | (self.physics.qpos[:, 2] < _FALLEN_HEIGHT_M)
        return fallen if self._imitation is None else fallen | self._imitation.terminated()

    def _episode_metrics(self) -> dict[str, np.ndarray]:
        """Mean velocity and distance along the heading that the episode began with; servo energy."""
        steps = np.maximum(self.episode_steps, 1)
        duration_s = steps * self.control_dt_s
        metrics = {
            "forward_velocity_m_s": self._forward_m / duration_s,
            "distance_m": self.physics.qpos[:, 0].copy(),
            "energy_j": self._energy_j.copy(),
        }
        return metrics if self._imitation is None else {**metrics, **self._imitation.metrics(steps)}
