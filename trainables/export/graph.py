"""A policy as one ONNX graph: observation normalisation in front, action scaling behind, recurrent state as plain tensors.

Layout as ``cluster.contract`` says: input ``observation``, output ``action`` in physical units, and for each recurrent state
``s`` the input ``s`` and the output ``s_next``. The batch axis is dynamic. A policy that predicts chunks answers with each action
field's steps one after the other, as a field of shape ``(chunk_size, n)`` is flattened.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from cluster.contract import ACTION_OUTPUT, OBSERVATION_INPUT
from trainables.envs.robot_task import ActionScaling
from trainables.networks.interface import RecordedScaling
from trainables.networks.policies import Policy

__all__ = ["OPSET", "ServedPolicy", "write_onnx"]

OPSET = 20
"""ONNX operator set of every bundle; ONNX Runtime 1.17 and newer execute it."""

TRACE_BATCH = 2  # any size but 0 and 1, which torch.export would take for constants


class ServedPolicy(nn.Module):
    """What a robot is served: a flat observation -> joint targets within their limits, both in the contract's units.

    Args:
        policy: the network.
        scaling: from its normalised actions to targets.
        action_sizes: components of each action field; None: one field.
    """

    def __init__(self, policy: Policy, scaling: ActionScaling, action_sizes: Sequence[int] | None = None) -> None:
        super().__init__()
        self.policy = policy
        self.action_sizes = tuple(action_sizes or (policy.action_size,))
        self.is_cut = not isinstance(scaling, RecordedScaling)
        self.state_names = tuple(policy.state_shapes)
        for name in ("offset", "scale", "low", "high"):
            self.register_buffer(name, torch.as_tensor(np.asarray(getattr(scaling, name), dtype=np.float32)))

    def forward(self, observation: Tensor, state: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """(batch, observation_size), states (batch, ...) -> (batch, chunk_size * action_size) physical targets, then the next states."""
        before = dict(zip(self.state_names, state, strict=True))
        # Of one step only what a policy has always done, so that its graph stays the handful of operators that it was.
        normalised, following = (
            self.policy.step(observation, before) if self.policy.chunk_size == 1 else self.policy.plan(observation, before)
        )
        target = self.offset + self.scale * (torch.clamp(normalised, -1.0, 1.0) if self.is_cut else normalised)
        target = torch.clamp(target, self.low, self.high)
        if self.policy.chunk_size > 1:
            target = torch.cat([part.flatten(1) for part in target.split(self.action_sizes, dim=-1)], dim=-1)
        return (target, *(following[name] for name in self.state_names))


class _Stateless(nn.Module):
    """The same without the empty state argument, which the exporter would count as an input."""

    def __init__(self, served: ServedPolicy) -> None:
        super().__init__()
        self.served = served

    def forward(self, observation: Tensor) -> Tensor:
        return self.served(observation, ())[0]


def write_onnx(served: ServedPolicy, path: Path) -> None:
    """Export to ``path``, one file with the weights inside, and run ONNX's own checker over it."""
    policy = served.policy
    served = served.eval()
    observation = torch.zeros(TRACE_BATCH, policy.observation_size)
    state = [torch.zeros(TRACE_BATCH, *shape) for shape in policy.state_shapes.values()]
    batch = {0: torch.export.Dim("batch", min=1, max=65536)}
    module: nn.Module = served if state else _Stateless(served)
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            module,
            (observation, state) if state else (observation,),
            dynamo=True,
            dynamic_shapes=(batch, [batch for _ in state]) if state else (batch,),
            input_names=[OBSERVATION_INPUT, *policy.state_shapes],
            output_names=[ACTION_OUTPUT, *(f"{name}_next" for name in policy.state_shapes)],
            opset_version=OPSET,
            verbose=False,
        )
    model = program.model_proto
    onnx.checker.check_model(model, full_check=True)
    onnx.save_model(model, path)


@contextmanager
def _quiet() -> Iterator[None]:
    """Torch's exporter warns about its own internals and about packages that nobody asked for (torchvision)."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "torch.export")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
