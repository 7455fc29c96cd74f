"""Proof that the exported graph is the policy where no simulated task belongs to it: on observations within what was recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from cluster.contract import ACTION_OUTPUT
from cluster.errors import GaitwayError
from trainables.evaluation.controllers import open_session
from trainables.export.graph import ServedPolicy
from trainables.export.parity import compare_rows

__all__ = ["check_recorded_parity"]

EPISODES = 8
"""Made-up episodes, over which a recurrent state is carried on."""


def check_recorded_parity(served: ServedPolicy, onnx_path: Path, rows: np.ndarray, tolerance: float) -> dict[str, Any]:
    """Compare an exported graph with the torch policy of a recording.

    Two tests: every row at once, with the recurrent states that the torch policy meets along them, and the same rows step by step
    with each side carrying its own state, so that a drift would accumulate.

    Args:
        served: the torch policy.
        onnx_path: its exported graph.
        rows: observations drawn from the recording's statistics. Shape (count, observation_size).
        tolerance: largest difference allowed, as a share of the action's half range: a recording's units may be degrees or metres.

    Returns:
        What goes into ``parity.json``.

    Raises:
        GaitwayError: an error is above ``tolerance``.
    """
    steps = -(-len(rows) // EPISODES)
    padded = np.resize(rows, (steps, EPISODES, rows.shape[1]))
    states, expected = _torch_episodes(served, padded)
    flat = {name: value.reshape(-1, *value.shape[2:])[: len(rows)] for name, value in states.items()}
    errors = compare_rows(served, onnx_path, rows, flat)
    sequence = float(np.abs(_onnx_episodes(served, onnx_path, padded) - expected).max())
    scale = float(served.scale.abs().max())
    report = {
        "tolerance_of_range": tolerance,
        "observations": len(rows),
        "max_abs_error": max(errors[ACTION_OUTPUT], sequence),
        "max_error_of_range": max(errors.pop(ACTION_OUTPUT), sequence) / scale,
        "max_abs_state_error": max(errors.values(), default=0.0),
        "sequence": {"episodes": EPISODES, "steps": steps, "max_error_of_range": sequence / scale},
    }
    # A state that holds observations is in their units, so it is compared for what comes of it: the actions along an episode.
    if not report["max_error_of_range"] <= tolerance:
        raise GaitwayError(
            f"export: ONNX Runtime and torch differ by {report['max_error_of_range']:.3g} of the actions' range, "
            f"allowed {tolerance:.3g}; nothing was written. Look at the checkpoint's statistics for sizes that float32 cannot hold"
        )
    return report


@torch.inference_mode()
def _torch_episodes(served: ServedPolicy, rows: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """State before each step, and the actions. ``rows``: shape (steps, episodes, observation_size)."""
    state = served.policy.initial_state(rows.shape[1])
    met: dict[str, list[np.ndarray]] = {name: [] for name in served.state_names}
    actions = []
    for observation in rows:
        for name in served.state_names:
            met[name].append(state[name].numpy().copy())
        action, *following = served(torch.from_numpy(observation), [state[name] for name in served.state_names])
        state = dict(zip(served.state_names, following, strict=True))
        actions.append(action.numpy())
    return {name: np.stack(values) for name, values in met.items()}, np.stack(actions)


def _onnx_episodes(served: ServedPolicy, onnx_path: Path, rows: np.ndarray) -> np.ndarray:
    """The same through ONNX Runtime, which carries its own state."""
    session = open_session(onnx_path)
    shapes = served.policy.state_shapes
    state = {name: np.zeros((rows.shape[1], *shape), np.float32) for name, shape in shapes.items()}
    outputs = [ACTION_OUTPUT, *(f"{name}_next" for name in shapes)]
    actions = []
    for observation in rows:
        action, *following = session.run(outputs, {"observation": observation, **state})
        state = dict(zip(shapes, following, strict=True))
        actions.append(action)
    return np.stack(actions)
