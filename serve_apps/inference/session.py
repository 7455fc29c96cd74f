"""One bundle as an ONNX Runtime session."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
import onnxruntime

from cluster.bundle import Bundle
from cluster.contract import ACTION_OUTPUT, OBSERVATION_INPUT, TensorField
from cluster.errors import BundleError

__all__ = ["PolicySession", "all_finite"]

WARMING_RUNS = 3


class PolicySession:
    """A loaded, checked and warmed policy. Safe to run from several threads.

    Raises ``BundleError`` at construction when the graph does not load or does not do what its contract says.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.contract = bundle.contract
        self.state_fields = {field.name: field for field in self.contract.state}
        self.state_size = sum(field.size for field in self.contract.state)
        options = onnxruntime.SessionOptions()
        # A small network is done before a second thread has woken; a spinning idle session would burn a core.
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(str(bundle.onnx_path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime raises classes of its own that share only Exception
            raise BundleError(f"{bundle.onnx_path}: does not load: {' '.join(str(error).split())[:200]}") from None
        self._outputs = [ACTION_OUTPUT, *(f"{name}_next" for name in self.state_fields)]
        self.step_s = self._check()
        """Seconds that one step takes here, measured while it was warmed."""

    def run(self, observation: np.ndarray, state: Mapping[str, np.ndarray] | None = None) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Actions of a batch.

        Args:
            observation: flat observations, float32. Shape (batch, observation_size).
            state: recurrent state by field, float32, each of shape (batch, *field.shape); None: zeros, as at reset.

        Returns:
            Actions in physical units, shape (batch, action_size), and the next state (empty for a stateless policy).
        """
        feeds = {OBSERVATION_INPUT: observation}
        if self.state_fields:
            feeds.update(state if state is not None else self.initial_state(len(observation)))
        action, *following = self._session.run(self._outputs, feeds)
        return action, dict(zip(self.state_fields, following, strict=True))

    def initial_state(self, batch_size: int = 1) -> dict[str, np.ndarray]:
        """State at reset: zeros, each of shape (batch_size, *field.shape)."""
        return {name: np.zeros((batch_size, *field.shape), dtype=np.float32) for name, field in self.state_fields.items()}

    def _check(self) -> float:
        """Run it, which also warms it: a graph that contradicts its contract must fail now and not under a robot. Returns seconds a run."""
        inputs = {item.name for item in self._session.get_inputs()}
        outputs = {item.name for item in self._session.get_outputs()}
        wanted = {OBSERVATION_INPUT, *self.state_fields}
        if inputs != wanted or not set(self._outputs) <= outputs:
            raise BundleError(
                f"{self.bundle.onnx_path}: has inputs {sorted(inputs)} and outputs {sorted(outputs)}; "
                f"its contract wants inputs {sorted(wanted)} and outputs {sorted(self._outputs)}"
            )
        observation = np.zeros((1, self.contract.observation_size), dtype=np.float32)
        try:
            durations_s = []
            for _ in range(WARMING_RUNS):
                started_s = time.perf_counter()
                action, following = self.run(observation)
                durations_s.append(time.perf_counter() - started_s)
        except Exception as error:  # as above
            raise BundleError(f"{self.bundle.onnx_path}: does not run: {' '.join(str(error).split())[:200]}") from None
        if action.shape != (1, self.contract.action_size):
            raise BundleError(
                f"{self.bundle.onnx_path}: action has shape {action.shape}; its contract wants (1, {self.contract.action_size})"
            )
        for name, field in self.state_fields.items():
            _check_state(self.bundle, name, field, following[name])
        return min(durations_s)


def all_finite(values: np.ndarray) -> bool:
    """Whether none is NaN or infinite: ``np.isfinite(values).all()`` for small arrays, in a third of the time."""
    return 0 not in np.isfinite(values).tobytes()


def _check_state(bundle: Bundle, name: str, field: TensorField, value: np.ndarray) -> None:
    if value.shape != (1, *field.shape):
        raise BundleError(f"{bundle.onnx_path}: {name}_next has shape {value.shape}; its contract wants {(1, *field.shape)}")
