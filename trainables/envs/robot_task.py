"""RobotTask: a batched task whose actions are a robot's joint targets.

It answers ``_advance`` for its tasks, which answer ``_drive(joint_targets_rad, active)`` instead and leave ``initial_targets_rad``
when they place a robot. A robot that is starting holds its initial targets during that control period together with everybody
else's ordinary step, so a reset costs no extra physics and its first sensor readings are real.

Reward weights are per second of simulated time, and an episode that ends by itself counts as a fall.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from cluster.contract import TensorField
from trainables.envs.base import BatchedTask, TaskConfig
from trainables.robots.base import RobotSpec

__all__ = ["ActionScaling", "RobotTask"]


@dataclass(frozen=True, eq=False)
class ActionScaling:
    """From a normalised action to physical joint targets. All arrays have shape (num_actions,)."""

    offset: np.ndarray
    """Target of action 0, rad."""
    scale: np.ndarray
    """Half range of actions -1..1, rad."""
    low: np.ndarray
    """Lower servo limit, rad."""
    high: np.ndarray
    """Upper servo limit, rad."""

    def to_physical(self, actions: np.ndarray) -> np.ndarray:
        """``clip(offset + scale * clip(a, -1, 1), low, high)``. Shape (..., num_actions)."""
        # Minimum and maximum: np.clip takes three times as long on arrays of this size, and this runs every control step.
        targets = self.offset + self.scale * np.minimum(np.maximum(actions, -1.0), 1.0)
        return np.minimum(np.maximum(targets, self.low), self.high)

    def to_normalised(self, joint_targets_rad: np.ndarray) -> np.ndarray:
        """Inverse of ``to_physical`` for targets that it can produce; others are clipped to [-1, 1]. Shape (..., num_actions)."""
        return np.clip((joint_targets_rad - self.offset) / self.scale, -1.0, 1.0)


class RobotTask(BatchedTask):
    """``num_envs`` robots doing one task.

    Attributes:
        robot: the robot's specification.
        action_scaling: normalised action -> joint targets.
        previous_action_rad: last joint targets sent. Shape (num_envs, num_actions).
        initial_targets_rad: joint targets held while an episode starts. Shape (num_envs, num_actions).
    """

    failure_metric: ClassVar[str] = "fell"

    def __init__(
        self,
        *,
        name: str,
        robot: RobotSpec,
        config: TaskConfig,
        num_envs: int,
        control_dt_s: float,
        observation_fields: tuple[TensorField, ...],
        action_fields: tuple[TensorField, ...],
        action_scaling: ActionScaling,
        reward_weights: Mapping[str, float],
        seed: int | None,
        reward_terms_in_info: bool,
    ) -> None:
        super().__init__(
            name=name,
            config=config,
            num_envs=num_envs,
            control_dt_s=control_dt_s,
            observation_fields=observation_fields,
            action_fields=action_fields,
            reward_weights=reward_weights,
            reward_scale=control_dt_s,
            seed=seed,
            reward_terms_in_info=reward_terms_in_info,
        )
        self.robot, self.action_scaling = robot, action_scaling
        self.initial_targets_rad = np.zeros((num_envs, self.action_size))
        self.previous_action_rad = np.zeros((num_envs, self.action_size))

    @abstractmethod
    def _drive(self, joint_targets_rad: np.ndarray, active: np.ndarray) -> None:
        """One control period of physics. Shapes (num_envs, num_actions), (num_envs,) bool: who is in the middle of an episode.

        The others only hold their initial targets: what an episode's own figures add up must leave them out.
        """

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """One control period with normalised joint targets; see ``BatchedTask.step``. Shape (num_envs, num_actions)."""
        return self._step_actions(self.action_scaling.to_physical(np.asarray(actions, dtype=np.float64)))

    def step_joint_targets(self, joint_targets_rad: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """``step`` with physical joint targets, which only the servo limits bound. Shape (num_envs, num_actions)."""
        return self._step_actions(np.clip(joint_targets_rad, self.action_scaling.low, self.action_scaling.high))

    def _advance(self, actions: np.ndarray, active: np.ndarray) -> None:
        starting = ~active
        actions[starting] = self.initial_targets_rad[starting]
        self._drive(actions, active)
        self.previous_action_rad = actions
