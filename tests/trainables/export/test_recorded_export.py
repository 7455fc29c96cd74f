"""A policy of a recording as a bundle: checked without a simulated task, described in its own units."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from cluster.bundle import Bundle
from cluster.contract import TensorField
from cluster.errors import GaitwayError
from trainables.evaluation.controllers import OnnxController, TorchController
from trainables.export.bundle import export_policy
from trainables.export.config import VerificationConfig
from trainables.export.graph import ServedPolicy, write_onnx
from trainables.networks.checkpoint import save_policy
from trainables.networks.interface import ObservedRange, PolicyInterface, RecordedScaling
from trainables.networks.policies import ChunkPolicy, LstmPolicy, Policy

QUICK = VerificationConfig(observations=60, latency_calls=20)
JOINTS = ("shoulder_pan.pos", "gripper.pos")


def interface() -> PolicyInterface:
    low, high = np.array([-90.0, 0.0]), np.array([90.0, 100.0])
    return PolicyInterface(
        task="recorded",
        task_config={},
        robot="arm",
        control_dt_s=1 / 30,
        observation=(TensorField(name="observation_state", shape=(2,), unit="deg", components=JOINTS),),
        action=(TensorField(name="action", shape=(2,), unit="deg", components=JOINTS, low=tuple(low), high=tuple(high)),),
        scaling=RecordedScaling((low + high) / 2, (high - low) / 2, low, high),
        observed=ObservedRange(np.array([0.0, 50.0]), np.array([40.0, 20.0]), low, high),
    )


@pytest.fixture(params=["chunk", "history", "lstm"])
def checkpoint(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    torch.manual_seed(1)
    if request.param == "lstm":
        policy: Policy = LstmPolicy(2, 2, range(2), hidden_size=8, head_size=8)
    else:
        policy = ChunkPolicy(2, 2, chunk_size=5, history=3 if request.param == "history" else 1, hidden=(16,))
        policy.network[-1].weight.data.mul_(50.0)
    policy.normalizer.set_statistics(torch.tensor([0.0, 50.0]), torch.tensor([1600.0, 400.0]), 10.0)
    open_loop = {
        "components": list(JOINTS),
        "units": ["deg", "deg"],
        "one_step": {"per_component": [1.5, 2.5], "mean": 0.03},
        "one_step_hold_action": {"per_component": [0.5, 3.5], "mean": 0.04},
        "verdict": ["One step ahead it errs by 3 % of the components' half range: better than holding the last action (4 %)."],
    }
    metadata = {"task": "recorded", "task_config": {}, "source": "imitation", "interface": interface().to_json(), "open_loop": open_loop}
    save_policy(policy, tmp_path / "checkpoint", metadata)
    return tmp_path / "checkpoint"


def test_a_bundle_is_made_and_checked_without_a_task(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = export_policy(checkpoint, tmp_path / "bundle", "arm-pick", label="chunk", verification=QUICK)
    assert Bundle.load(bundle.path).digest == bundle.digest
    contract = bundle.contract
    assert (contract.robot, contract.task, contract.action[0].unit) == ("arm", "recorded", "deg")
    parity = json.loads((bundle.path / "parity.json").read_text())
    assert 0 <= parity["max_error_of_range"] <= parity["tolerance_of_range"] == 1e-5
    assert parity["observations"] == 60
    card = (bundle.path / "card.md").read_text()
    assert "Drives `arm` as it was recorded at 30 Hz" in card
    assert "| gripper.pos | deg | 2.5 | 3.5 |" in card
    assert "better than holding the last action" in card
    assert "it has not moved a robot" in card
    readme = (bundle.path / "README.md").read_text()
    request = json.loads(re.search(r"-d '(\{.*\})'", readme).group(1))
    assert request["observation"] == {"observation_state": [0.0, 50.0]}
    assert ("chunk_steps=5" in readme) == (len(contract.action[0].shape) == 2)
    monkeypatch.chdir(bundle.path)
    names: dict = {}
    exec(re.findall(r"```python\n(.*?)```", readme, re.DOTALL)[-1], names)
    assert names["action"].shape == (1, contract.action_size)


def test_a_wrong_graph_is_found_out(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write_wrong(served: ServedPolicy, path: Path) -> None:
        write_onnx(served, path)
        model = onnx.load(path)
        weights = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
        weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights) * np.float32(1.01), weights.name))
        onnx.save(model, path)

    monkeypatch.setattr("trainables.export.bundle.write_onnx", write_wrong)
    with pytest.raises(GaitwayError, match=r"differ by .* of the actions' range"):
        export_policy(checkpoint, tmp_path / "bundle", "arm-pick", verification=QUICK)
    assert not (tmp_path / "bundle").exists()


def test_a_rollout_acts_out_the_first_step_of_every_chunk(tmp_path: Path) -> None:
    torch.manual_seed(0)
    policy = ChunkPolicy(2, 2, chunk_size=5, history=2, hidden=(8,)).eval()
    scaling = interface().scaling
    write_onnx(ServedPolicy(policy, scaling), tmp_path / "policy.onnx")
    controllers = OnnxController(tmp_path / "policy.onnx", scaling), TorchController(policy)
    for controller in controllers:
        controller.reset(3)
    random = np.random.default_rng(0)
    for step in range(4):
        rows = random.normal(size=(3, 2)).astype(np.float32)
        ours, theirs = (controller.act(rows) for controller in controllers)
        assert ours.shape == (3, 2)
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
        if step == 1:
            for controller in controllers:
                controller.forget(np.array([True, False, False]))
