"""How long one call of the exported graph takes on this machine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cluster.contract import OBSERVATION_INPUT
from trainables.evaluation.controllers import open_session

__all__ = ["measure_latency"]

WARM_UP_CALLS = 20


def measure_latency(onnx_path: Path, batches: Sequence[int], calls: int) -> list[dict[str, Any]]:
    """Time ``calls`` calls of each batch size with one ONNX Runtime thread that does not spin.

    Returns:
        One row a batch size: ``batch``, ``median_ms``, ``p99_ms``, ``rows_per_s`` (at the median).
    """
    session = open_session(onnx_path)
    outputs = [node.name for node in session.get_outputs()]
    rng = np.random.default_rng(0)
    table = []
    for batch in batches:
        inputs = {
            node.name: (
                rng.standard_normal((batch, *node.shape[1:]), dtype=np.float32)
                if node.name == OBSERVATION_INPUT
                else np.zeros((batch, *node.shape[1:]), dtype=np.float32)
            )
            for node in session.get_inputs()
        }
        durations_ms = np.empty(calls)
        for call in range(-WARM_UP_CALLS, calls):
            started_ns = time.perf_counter_ns()
            session.run(outputs, inputs)
            if call >= 0:
                durations_ms[call] = (time.perf_counter_ns() - started_ns) / 1e6
        median_ms, p99_ms = np.quantile(durations_ms, [0.5, 0.99])
        table.append({"batch": batch, "median_ms": float(median_ms), "p99_ms": float(p99_ms), "rows_per_s": float(batch / median_ms * 1e3)})
    return table
