"""The imitation part of a task's reward: how near the robot is to its reference, by published terms, faded out over training.

``deepmimic`` (Peng et al. 2018, eq. 5-9): four terms, each ``exp(-k * squared error)``, weighed .65, .1, .15, .1.
``awd`` (Open Duck's imitation reward, after Adversarial Waddle Dynamics): velocities of the body by exponentials, joints by minus their
squared error, feet by matching contacts; zero while the command is to stand.

DeepMimic's exponents are for a humanoid and metres: on a robot with legs of a tenth of that, the end effectors' term hardly
moves; ``exponents`` may be made larger. Its centre of mass is compared from the ground upward and, in the plane, from the base, because
a clip has no place in this world.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from cluster.config import Config
from trainables.envs.fade import FadeConfig

if TYPE_CHECKING:
    import mujoco

    from trainables.envs.commands import CommandConfig, GaitCommands
    from trainables.envs.reference import Pose
    from trainables.robots.base import RobotSpec

__all__ = ["Imitation", "ImitationConfig", "RobotState"]

DEEPMIMIC_WEIGHTS = {"pose": 0.65, "velocity": 0.1, "end_effector": 0.15, "centre_of_mass": 0.1}
DEEPMIMIC_EXPONENTS = {"pose": 2.0, "velocity": 0.1, "end_effector": 40.0, "centre_of_mass": 10.0}
AWD_WEIGHTS = {
    "linear_velocity_xy": 1.0,
    "linear_velocity_z": 1.0,
    "angular_velocity_xy": 0.5,
    "angular_velocity_z": 0.5,
    "joint_position": 15.0,
    "joint_velocity": 1e-3,
    "contact": 1.0,
}
AWD_EXPONENTS = {"linear_velocity_xy": 8.0, "linear_velocity_z": 8.0, "angular_velocity_xy": 2.0, "angular_velocity_z": 2.0}
_WEIGHTS = {"off": {}, "deepmimic": DEEPMIMIC_WEIGHTS, "awd": AWD_WEIGHTS}
_EXPONENTS = {"off": {}, "deepmimic": DEEPMIMIC_EXPONENTS, "awd": AWD_EXPONENTS}


class TerminationConfig(Config):
    """Deviations from the reference that end an episode, as a fall does; None: that one does not."""

    height_m: float | None = Field(None, gt=0, description="of the base's height")
    tilt_rad: float | None = Field(None, gt=0, description="angle between the two vertical axes")
    pose_rad: float | None = Field(None, gt=0, description="root mean square over the joints")


class ImitationConfig(Config):
    """The imitation part of the reward; off by default."""

    style: Literal["off", "deepmimic", "awd"] = Field("off", description="which terms; off: none of this")
    weight: float = Field(1.0, ge=0, description="of the part as a whole, per second; 0: deviations are measured and pay nothing")
    weights: dict[str, float] = Field({}, description="weight of a term within the part, where it is not the published one")
    exponents: dict[str, float] = Field({}, description="k of exp(-k * squared error), where it is not the published one")
    motions: dict[str, Path] = Field({}, description="motion file of each of command.references; a gait's reference is its expert")
    fade: FadeConfig | None = Field(None, description="how the part fades over the environment steps of training; None: it stays")
    reference_state: bool = Field(False, description="episodes start in the reference's pose and velocity, not at rest in its pose")
    termination: TerminationConfig = Field(TerminationConfig(), description="deviations that end an episode")

    @field_validator("motions")
    @classmethod
    def _absolute(cls, motions: dict[str, Path]) -> dict[str, Path]:
        # An env runner may be a process with another current folder.
        return {name: path.expanduser().absolute() for name, path in motions.items()}

    @model_validator(mode="after")
    def _known(self) -> ImitationConfig:
        for label, known in (("weights", _WEIGHTS[self.style]), ("exponents", _EXPONENTS[self.style])):
            for name, value in getattr(self, label).items():
                if name not in known:
                    raise ValueError(f"{label}: {name!r} is no term of the style {self.style}; its terms: {', '.join(known) or 'none'}")
                if value < 0:
                    raise ValueError(f"{label}: {name} is {value}; it must be at least 0")
        ends = self.termination != TerminationConfig()
        if self.style == "off" and (self.reference_state or ends or self.motions or self.fade):
            raise ValueError("reference_state, termination, motions and fade need a style: deepmimic or awd")
        return self

    @property
    def is_on(self) -> bool:
        """Whether there is an imitation part at all."""
        return self.style != "off"

    @property
    def term_weights(self) -> dict[str, float]:
        """Weight per second of each term as the task's reward has it, before fading."""
        return {f"imitation_{name}": self.weight * self.weights.get(name, published) for name, published in _WEIGHTS[self.style].items()}


class RobotState:
    """What the terms look at; all of the end of the last control period.

    Args:
        joint_position_rad: shape (n, num_joints).
        joint_velocity_rad_s: shape (n, num_joints).
        position_m: of the base, in its world. Shape (n, 3).
        up: the vertical in the body's frame, unit norm. Shape (n, 3).
        linear_velocity_m_s: forward, left, up in the world. Shape (n, 3).
        angular_velocity_rad_s: in the body's frame. Shape (n, 3).
        centre_of_mass_m: of the whole robot, in its world. Shape (n, 3).
    """

    def __init__(
        self,
        joint_position_rad: np.ndarray,
        joint_velocity_rad_s: np.ndarray,
        position_m: np.ndarray,
        up: np.ndarray,
        linear_velocity_m_s: np.ndarray,
        angular_velocity_rad_s: np.ndarray,
        centre_of_mass_m: np.ndarray,
    ) -> None:
        self.joint_position_rad, self.joint_velocity_rad_s = joint_position_rad, joint_velocity_rad_s
        self.position_m, self.up = position_m, up
        self.linear_velocity_m_s, self.angular_velocity_rad_s = linear_velocity_m_s, angular_velocity_rad_s
        self.centre_of_mass_m = centre_of_mass_m


class Imitation:
    """The imitation part for all robots of a task.

    Attributes:
        factor: what the fade leaves of the weights now.
        reference: the pose that is due. None before the first step.
        pose_error_rad: root mean square over the joints, of the last control period. Shape (num_envs,).
    """

    def __init__(
        self, config: ImitationConfig, command: CommandConfig, robot: RobotSpec, control_dt_s: float, model: mujoco.MjModel, num_envs: int
    ) -> None:
        from trainables.envs.reference import ReferenceTable

        self.config, self._robot, self._control_dt_s = config, robot, control_dt_s
        self.table = ReferenceTable(command, config.motions, robot, control_dt_s, model)
        self._exponents = {**_EXPONENTS[config.style], **config.exponents}
        self.factor = 1.0
        self.reference: Pose | None = None
        self.pose_error_rad = np.zeros(num_envs)
        self._error_sum_rad = np.zeros(num_envs)
        self._squares: dict[str, np.ndarray] = {}
        self._contact_matches = np.zeros(num_envs)
        self._deviated = np.zeros(num_envs, dtype=bool)
        self.set_env_steps(0)

    def set_env_steps(self, env_steps: int) -> None:
        """Training has come this far."""
        self.factor = self.config.fade.factor(env_steps) if self.config.fade else 1.0

    def begin(self, envs: np.ndarray) -> None:
        """Episodes of these robots begin."""
        self._error_sum_rad[envs] = 0.0

    def start(self, command: np.ndarray, phase: np.ndarray) -> tuple[Pose, Pose]:
        """Where robots start: the pose due now, which they are sent first, and the one of a control period ago, in which they are put."""
        earlier = phase - self.table.frequency_hz[command] * self._control_dt_s
        return self.table.at(command, phase), self.table.at(command, earlier)

    def compare(self, state: RobotState, command: np.ndarray, phase: np.ndarray, active: np.ndarray) -> None:
        """Measure how far everybody is from the reference at these phases. Shapes (num_envs,)."""
        due = self.reference = self.table.at(command, phase)
        joint = _squared(state.joint_position_rad - due.joint_position_rad)
        self.pose_error_rad = np.sqrt(joint / self._robot.num_joints)
        self._error_sum_rad += self.pose_error_rad * active
        joint_velocity = _squared(state.joint_velocity_rad_s - due.joint_velocity_rad_s)
        if self.config.style == "deepmimic":
            feet = self._robot.foot_position_m(state.joint_position_rad) - due.foot_m
            centre = state.centre_of_mass_m - due.centre_of_mass_m
            centre[:, :2] -= state.position_m[:, :2]
            self._squares = {
                "pose": joint,
                "velocity": joint_velocity,
                "end_effector": (feet**2).sum(axis=(1, 2)),
                "centre_of_mass": _squared(centre),
            }
        else:
            linear = state.linear_velocity_m_s - due.linear_velocity_m_s
            angular = state.angular_velocity_rad_s - due.angular_velocity_rad_s
            self._squares = {
                "linear_velocity_xy": _squared(linear[:, :2]),
                "linear_velocity_z": linear[:, 2] ** 2,
                "angular_velocity_xy": _squared(angular[:, :2]),
                "angular_velocity_z": angular[:, 2] ** 2,
                "joint_position": joint,
                "joint_velocity": joint_velocity,
            }
            self._contact_matches = (self._contacts(state) == (due.contact > 0.5)).sum(axis=1).astype(np.float64)
        self._deviated = self._deviations(state, due)

    def terms(self, commands: GaitCommands) -> Mapping[str, np.ndarray]:
        """Raw value of each term of the last ``compare``, in the order of ``ImitationConfig.term_weights``. Each of shape (num_envs,)."""
        values = {
            f"imitation_{name}": np.exp(-self._exponents[name] * squared) if name in self._exponents else -squared
            for name, squared in self._squares.items()
        }
        if self.config.style == "awd":
            values["imitation_contact"] = self._contact_matches
            # Zero at zero command: standing still is told by the task's own terms.
            walking = commands.forward_velocity_m_s != 0.0
            values = {name: value * walking for name, value in values.items()}
        return values

    def terminated(self) -> np.ndarray:
        """Who is farther from the reference than the stated limits; nobody once the part has faded out. Shape (num_envs,), bool."""
        return self._deviated & (self.factor > 0.0)

    def metrics(self, steps: np.ndarray) -> dict[str, np.ndarray]:
        """Figures of the current episodes of ``steps`` control steps. Each of shape (num_envs,)."""
        return {"imitation_pose_error_rad": self._error_sum_rad / steps, "imitation_factor": np.full(len(steps), self.factor)}

    def _contacts(self, state: RobotState) -> np.ndarray:
        """Which feet are on the ground. Shape (num_envs, num_legs), bool."""
        from trainables.envs.reference import CONTACT_HEIGHT_M

        robot = self._robot
        feet = robot.foot_position_m(state.joint_position_rad) + robot.hip_position_m[:, [0, 2]]
        sideways = state.up[:, 1:2] * robot.hip_position_m[:, 1]
        lift = feet[..., 0] * state.up[:, :1] + sideways + feet[..., 1] * state.up[:, 2:]
        return state.position_m[:, 2:] + lift - robot.foot_radius_m < CONTACT_HEIGHT_M

    def _deviations(self, state: RobotState, due: Pose) -> np.ndarray:
        limits = self.config.termination
        beyond = np.zeros(len(due.height_m), dtype=bool)
        if limits.height_m is not None:
            beyond |= np.abs(state.position_m[:, 2] - due.height_m) > limits.height_m
        if limits.tilt_rad is not None:
            wanted = np.stack([np.sin(due.pitch_rad), np.zeros_like(due.pitch_rad), np.cos(due.pitch_rad)], axis=1)
            beyond |= (state.up * wanted).sum(axis=1) < np.cos(limits.tilt_rad)
        if limits.pose_rad is not None:
            beyond |= self.pose_error_rad > limits.pose_rad
        return beyond


def _squared(difference: np.ndarray) -> np.ndarray:
    """Shape (n, k) -> (n,)."""
    return np.einsum("nk,nk->n", difference, difference)
