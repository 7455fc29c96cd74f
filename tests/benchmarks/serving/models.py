"""Bundles to measure with: a policy of the usual size, its weights random."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from cluster.bundle import CARD_FILE, CONTRACT_FILE, ONNX_FILE, seal
from cluster.contract import PolicyContract, TensorField

__all__ = ["OBSERVATION_SIZE", "make_policy"]

OBSERVATION_SIZE, HIDDEN, ACTION_SIZE = 48, (256, 256), 12


def make_policy(folder: Path, seed: int) -> Path:
    """A sealed bundle: 48 observations, two hidden layers of 256, 12 joint targets."""
    rng = np.random.default_rng(seed)
    sizes = (OBSERVATION_SIZE, *HIDDEN, ACTION_SIZE)
    nodes, constants, name = [], [], "observation"
    for layer, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        weight = rng.normal(0, inputs**-0.5, (inputs, outputs)).astype(np.float32)
        constants += [numpy_helper.from_array(weight, f"w{layer}"), numpy_helper.from_array(np.zeros(outputs, np.float32), f"b{layer}")]
        following = "action" if layer == len(sizes) - 2 else f"h{layer}"
        nodes.append(helper.make_node("Gemm", [name, f"w{layer}", f"b{layer}"], [f"z{layer}"]))
        nodes.append(helper.make_node("Tanh", [f"z{layer}"], [following]))
        name = following
    tensors = {
        label: helper.make_tensor_value_info(label, onnx.TensorProto.FLOAT, ["batch", size])
        for label, size in (("observation", OBSERVATION_SIZE), ("action", ACTION_SIZE))
    }
    graph = helper.make_graph(nodes, "mlp", [tensors["observation"]], [tensors["action"]], constants)
    folder.mkdir(parents=True)
    onnx.save(helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)]), folder / ONNX_FILE)
    PolicyContract(
        policy="bench",
        robot="pidog",
        task="bench",
        control_dt_s=0.02,
        observation=(TensorField(name="observation", shape=(OBSERVATION_SIZE,)),),
        action=(TensorField(name="joint_position_target_rad", shape=(ACTION_SIZE,), unit="rad"),),
    ).save(folder / CONTRACT_FILE)
    (folder / CARD_FILE).write_text("# measured with\n")
    seal(folder)
    return folder
