"""PolicyInterface: what a policy observes and commands, whether a simulated task says so or a recording does.

A task has a robot with limits in rad. A recording of a real arm has named numbers: components as the dataset names them, units as
it says them (else none), and a scaling measured on the training split. The interface of a recording travels in the checkpoint;
that of a task is made again from the task.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cluster.contract import TensorField
from cluster.errors import GaitwayError
from trainables.envs.registry import make_robot_task
from trainables.envs.robot_task import ActionScaling, RobotTask

__all__ = ["RECORDED", "ObservedRange", "PolicyInterface", "RecordedScaling"]

RECORDED = "recorded"
"""Task name of a policy that no simulated task belongs to."""


@dataclass(frozen=True, eq=False)
class RecordedScaling(ActionScaling):
    """Scaling in whatever units a recording has. Normalised actions are not cut at ±1: only ``low`` and ``high`` bound them."""

    def to_physical(self, actions: np.ndarray) -> np.ndarray:
        """``clip(offset + scale * a, low, high)``. Shape (..., num_actions)."""
        return np.minimum(np.maximum(self.offset + self.scale * actions, self.low), self.high)

    def to_normalised(self, joint_targets_rad: np.ndarray) -> np.ndarray:
        """``(target - offset) / scale``. Shape (..., num_actions)."""
        return (joint_targets_rad - self.offset) / self.scale


@dataclass(frozen=True, eq=False)
class ObservedRange:
    """How the observations of a recording's training split are spread. All of shape (observation_size,), in its own units."""

    mean: np.ndarray
    std: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def draw(self, rows: int, seed: int) -> np.ndarray:
        """Observations within what was seen. Shape (rows, observation_size), float32."""
        random = np.random.default_rng(seed)
        drawn = self.mean + self.std * random.standard_normal((rows, len(self.mean)))
        return np.clip(drawn, self.low, self.high).astype(np.float32)


@dataclass(frozen=True, eq=False)
class PolicyInterface:
    """What goes in and out of a policy at one control step."""

    task: str
    """Name of the simulated task, or ``RECORDED``."""
    task_config: Mapping[str, Any]
    robot: str
    control_dt_s: float
    observation: tuple[TensorField, ...]
    action: tuple[TensorField, ...]
    """Of one step; ``action_fields`` says what a chunk of them looks like."""
    scaling: ActionScaling
    observed: ObservedRange | None = None
    """Of a recording."""
    observation_features: tuple[str, ...] = ("observation.state",)
    """Dataset features that the fields are, in order."""
    action_features: tuple[str, ...] = ("action",)
    sources: Mapping[str, Any] = field(default_factory=dict)
    """How the scaling came about: normalisation, constant components."""

    @classmethod
    def of_task(cls, task: RobotTask, task_config: Mapping[str, Any]) -> PolicyInterface:
        """Of a simulated task."""
        return cls(
            task.name,
            task_config,
            task.robot.name,
            task.control_dt_s,
            task.observation_fields,
            task.action_fields,
            task.action_scaling,
        )

    @classmethod
    def of_metadata(cls, metadata: Mapping[str, Any]) -> PolicyInterface:
        """Of a checkpoint. ``metadata`` as ``load_policy`` returns it; a task's interface is made from the task."""
        if metadata["task"] == RECORDED:
            return cls.from_json(metadata["interface"])
        task_config = dict(metadata.get("task_config") or {})
        task = make_robot_task(metadata["task"], 1, task_config)
        try:
            return cls.of_task(task, task_config)
        finally:
            task.close()

    @property
    def is_recorded(self) -> bool:
        """Whether no simulated task belongs to it."""
        return self.task == RECORDED

    @property
    def observation_size(self) -> int:
        """Length of the flat observation."""
        return sum(part.size for part in self.observation)

    @property
    def action_size(self) -> int:
        """Length of the flat action of one step."""
        return sum(part.size for part in self.action)

    @property
    def fields(self) -> dict[str, slice]:
        """Where each observation field lies in the flat vector."""
        found, start = {}, 0
        for part in self.observation:
            found[part.name] = slice(start, start + part.size)
            start += part.size
        return found

    def action_fields(self, chunk_size: int) -> tuple[TensorField, ...]:
        """The contract's action: as of one step, or each field with ``chunk_size`` rows, one for each control step."""
        if chunk_size == 1:
            return self.action
        return tuple(
            part.model_copy(
                update={
                    "shape": (chunk_size, *(part.shape or (1,))),
                    "components": tuple(f"{name}.t{step}" for step in range(chunk_size) for name in part.components),
                    "low": part.low * chunk_size,
                    "high": part.high * chunk_size,
                }
            )
            for part in self.action
        )

    def to_json(self) -> dict[str, Any]:
        """For a checkpoint's metadata."""
        assert self.observed is not None
        return {
            "robot": self.robot,
            "control_dt_s": self.control_dt_s,
            "observation": [part.model_dump(mode="json") for part in self.observation],
            "action": [part.model_dump(mode="json") for part in self.action],
            "scaling": {name: getattr(self.scaling, name).tolist() for name in ("offset", "scale", "low", "high")},
            "observed": {name: getattr(self.observed, name).tolist() for name in ("mean", "std", "low", "high")},
            "observation_features": list(self.observation_features),
            "action_features": list(self.action_features),
            "sources": dict(self.sources),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> PolicyInterface:
        """The reverse. Raises ``GaitwayError`` when something is missing."""
        try:
            return cls(
                task=RECORDED,
                task_config={},
                robot=str(data["robot"]),
                control_dt_s=float(data["control_dt_s"]),
                observation=tuple(TensorField.model_validate(part) for part in data["observation"]),
                action=tuple(TensorField.model_validate(part) for part in data["action"]),
                scaling=RecordedScaling(**{name: np.asarray(value) for name, value in data["scaling"].items()}),
                observed=ObservedRange(**{name: np.asarray(value) for name, value in data["observed"].items()}),
                observation_features=tuple(data["observation_features"]),
                action_features=tuple(data["action_features"]),
                sources=dict(data["sources"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise GaitwayError(f"a checkpoint's interface cannot be read: {' '.join(str(error).split())[:160]}; train it again") from None
