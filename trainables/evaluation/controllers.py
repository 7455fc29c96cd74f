"""What drives the robots of a rollout: a torch policy or an exported graph, behind one small interface.

A controller maps a batch of flat observations to *normalised* actions, as the task's ``step`` wants them, and carries the
recurrent state of every robot.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
import onnxruntime
import torch

from cluster.contract import ACTION_OUTPUT, OBSERVATION_INPUT
from trainables.envs.robot_task import ActionScaling
from trainables.networks.policies import Policy

__all__ = ["Controller", "OnnxController", "TorchController", "open_session"]


class Controller(Protocol):
    """Drives ``num_envs`` robots at once."""

    def reset(self, num_envs: int) -> None:
        """Begin a rollout of ``num_envs`` robots, each with zero state."""

    def act(self, observations: np.ndarray) -> np.ndarray:
        """(num_envs, observation_size) -> (num_envs, action_size) normalised actions."""

    def forget(self, ended: np.ndarray) -> None:
        """Zero the state of the robots whose episode ended. Shape (num_envs,), bool."""


class TorchController:
    """Drives robots with a policy's action mean."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy.eval()
        self.state: dict[str, torch.Tensor] = {}

    def reset(self, num_envs: int) -> None:
        """See ``Controller.reset``."""
        self.state = self.policy.initial_state(num_envs)

    @torch.inference_mode()
    def act(self, observations: np.ndarray) -> np.ndarray:
        """See ``Controller.act``."""
        action, self.state = self.policy.step(torch.from_numpy(np.ascontiguousarray(observations, dtype=np.float32)), self.state)
        return action.numpy()

    @torch.inference_mode()
    def forget(self, ended: np.ndarray) -> None:
        """See ``Controller.forget``."""
        mask = torch.from_numpy(ended)
        self.state = {name: torch.where(mask.view(-1, *[1] * (value.ndim - 1)), 0.0, value) for name, value in self.state.items()}


class OnnxController:
    """Drives robots with an exported graph; its targets in rad are scaled back to the task's normalised action."""

    def __init__(self, onnx_path: Path, scaling: ActionScaling) -> None:
        self.session = open_session(onnx_path)
        self.scaling = scaling
        self.state_shapes = {node.name: node.shape[1:] for node in self.session.get_inputs() if node.name != OBSERVATION_INPUT}
        self.outputs = [ACTION_OUTPUT, *(f"{name}_next" for name in self.state_shapes)]
        self.state: dict[str, np.ndarray] = {}
        self.action_rad = np.zeros(0, dtype=np.float32)
        """Last targets, of a chunk its first ones. Shape (num_envs, action_size)."""

    def reset(self, num_envs: int) -> None:
        """See ``Controller.reset``."""
        self.state = {name: np.zeros((num_envs, *shape), dtype=np.float32) for name, shape in self.state_shapes.items()}

    def act(self, observations: np.ndarray) -> np.ndarray:
        """See ``Controller.act``."""
        inputs = {OBSERVATION_INPUT: np.ascontiguousarray(observations, dtype=np.float32), **self.state}
        targets, *following = self.session.run(self.outputs, inputs)
        self.state = dict(zip(self.state_shapes, following, strict=True))
        # A chunk's rows are its steps; the robots of a rollout ask at every step and need the first.
        self.action_rad = targets[:, : len(self.scaling.offset)]
        return ((self.action_rad - self.scaling.offset) / self.scaling.scale).astype(np.float32)

    def forget(self, ended: np.ndarray) -> None:
        """See ``Controller.forget``."""
        for value in self.state.values():
            value[ended] = 0.0


def open_session(onnx_path: Path) -> onnxruntime.InferenceSession:
    """An ONNX Runtime session of one thread that sleeps when idle: what a robot or a serving replica runs."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(onnx_path), options, providers=["CPUExecutionProvider"])
