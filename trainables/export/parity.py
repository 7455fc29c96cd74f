"""Proof that the exported graph is the policy: the same numbers on real observations, the same behaviour in a closed loop."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from cluster.contract import ACTION_OUTPUT, OBSERVATION_INPUT
from cluster.errors import GaitwayError
from trainables.envs.registry import make_robot_task
from trainables.envs.robot_task import RobotTask
from trainables.evaluation.controllers import OnnxController, TorchController, open_session
from trainables.export.graph import ServedPolicy

__all__ = ["check_parity", "compare_rows"]

ROBOTS = 8
"""Robots whose rollouts give the observations."""
SINGLE_ROWS = 32
"""Observations that are also asked one by one: the batch axis must not matter."""

TOGETHER = 1e-3
"""Two episodes run together while no entry of their observations differs by more."""


def check_parity(
    served: ServedPolicy,
    onnx_path: Path,
    task_name: str,
    task_config: Mapping[str, Any],
    *,
    observations: int,
    tolerance_rad: float,
    seed: int,
) -> dict[str, Any]:
    """Compare an exported graph with the torch policy.

    Two tests, on observations (and recurrent states) from rollouts of the torch policy, and in one episode driven by ONNX
    Runtime. There the torch policy sees the same observations but carries its own state, so a drift would accumulate. A
    second episode with the same seed is driven by torch alone. Contacts magnify the last bit of a float, so the two part some
    time; reported are the steps until an entry of the observation differs by more than 1e-3, and both velocities.

    Returns:
        What goes into ``parity.json``.

    Raises:
        GaitwayError: an error is above ``tolerance_rad``.
    """
    rollout = _rollout_parity(served, onnx_path, task_name, task_config, observations, seed)
    episode = _episode_parity(served, onnx_path, task_name, task_config, seed + 1)
    report = {"tolerance_rad": tolerance_rad, **rollout, "closed_loop": episode}
    worst = max(rollout["max_abs_error_rad"], rollout["max_abs_state_error"], episode["max_abs_error_rad"])
    if not worst <= tolerance_rad:
        raise GaitwayError(
            f"export: ONNX Runtime and torch differ by {worst:.3g}, allowed {tolerance_rad:.3g}; nothing was written. "
            "Weights or observations of very different sizes lose float32's precision: look at the checkpoint's statistics"
        )
    return report


def _rollout_parity(
    served: ServedPolicy, onnx_path: Path, task_name: str, task_config: Mapping[str, Any], observations: int, seed: int
) -> dict[str, Any]:
    rows, states = _record(served, task_name, task_config, observations, seed)
    errors = compare_rows(served, onnx_path, rows, states)
    return {
        "observations": len(rows),
        "max_abs_error_rad": errors.pop(ACTION_OUTPUT),
        "max_abs_state_error": max(errors.values(), default=0.0),
    }


def compare_rows(served: ServedPolicy, onnx_path: Path, rows: np.ndarray, states: dict[str, np.ndarray]) -> dict[str, float]:
    """Largest difference of every output, all rows asked together and some one by one.

    Args:
        served: the torch policy.
        onnx_path: its exported graph.
        rows: observations. Shape (count, observation_size).
        states: recurrent states by name. Shapes (count, ...).
    """
    with torch.inference_mode():
        action, *following = served(torch.from_numpy(rows), [torch.from_numpy(states[name]) for name in served.state_names])
    expected = {ACTION_OUTPUT: action.numpy()}
    expected |= {f"{name}_next": value.numpy() for name, value in zip(served.state_names, following, strict=True)}
    session = open_session(onnx_path)
    inputs = {OBSERVATION_INPUT: rows, **states}
    errors = _errors(session, inputs, expected)
    for row in np.linspace(0, len(rows) - 1, min(SINGLE_ROWS, len(rows)), dtype=int):
        one = slice(row, row + 1)
        single = _errors(session, {k: v[one] for k, v in inputs.items()}, {k: v[one] for k, v in expected.items()})
        errors = {name: max(error, single[name]) for name, error in errors.items()}
    return errors


def _errors(session: onnxruntime.InferenceSession, inputs: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> dict[str, float]:
    outputs = session.run(list(expected), inputs)
    return {name: float(np.abs(value - output).max()) for (name, value), output in zip(expected.items(), outputs, strict=True)}


def _record(
    served: ServedPolicy, task_name: str, task_config: Mapping[str, Any], count: int, seed: int
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Observations of robots that the torch policy drives, and the recurrent state that each met. Shapes (count, ...)."""
    task = make_robot_task(task_name, ROBOTS, task_config, seed, reward_terms_in_info=False)
    controller = TorchController(served.policy)
    controller.reset(ROBOTS)
    rows: list[np.ndarray] = []
    states: dict[str, list[np.ndarray]] = {name: [] for name in served.state_names}
    try:
        observations, _ = task.reset(seed=seed)
        while len(rows) * ROBOTS < count:
            rows.append(observations)
            for name, value in controller.state.items():
                states[name].append(value.numpy().copy())
            observations, _, terminated, truncated, _ = task.step(controller.act(observations))
            controller.forget(terminated | truncated)
    finally:
        task.close()
    return np.concatenate(rows)[:count], {name: np.concatenate(values)[:count] for name, values in states.items()}


def _episode_parity(served: ServedPolicy, onnx_path: Path, task_name: str, task_config: Mapping[str, Any], seed: int) -> dict[str, Any]:
    by_onnx, by_torch = (make_robot_task(task_name, 1, task_config, seed, reward_terms_in_info=False) for _ in range(2))
    try:
        onnx, shadow, torch_alone = (
            OnnxController(onnx_path, by_onnx.action_scaling),
            TorchController(served.policy),
            TorchController(served.policy),
        )
        for controller in (onnx, shadow, torch_alone):
            controller.reset(1)
        return _follow(by_onnx, by_torch, onnx, shadow, torch_alone, seed)
    finally:
        by_onnx.close()
        by_torch.close()


def _follow(
    by_onnx: RobotTask, by_torch: RobotTask, onnx: OnnxController, shadow: TorchController, alone: TorchController, seed: int
) -> dict[str, Any]:
    ours, _ = by_onnx.reset(seed=seed)
    theirs, _ = by_torch.reset(seed=seed)
    worst, steps, together = 0.0, 0, 0
    metrics: list[dict[str, Any]] = []
    while len(metrics) < 2:
        expected = by_onnx.action_scaling.to_physical(shadow.act(ours))
        ours, _, terminated, truncated, infos = by_onnx.step(onnx.act(ours))
        worst = max(worst, float(np.abs(onnx.action_rad - expected).max()))
        theirs, _, other_terminated, other_truncated, other_infos = by_torch.step(alone.act(theirs))
        steps += 1
        if together == steps - 1 and np.abs(ours - theirs).max() <= TOGETHER:
            together = steps
        if (terminated | truncated)[0] or (other_terminated | other_truncated)[0]:
            metrics = [infos.get("episode_metrics", {}), other_infos.get("episode_metrics", {})]
    velocity = [float(figures["forward_velocity_m_s"][0]) if "forward_velocity_m_s" in figures else None for figures in metrics]
    return {
        "steps": steps,
        "max_abs_error_rad": worst,
        "steps_together": together,
        "forward_velocity_m_s": {"onnx": velocity[0], "torch": velocity[1]},
    }
