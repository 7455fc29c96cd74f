from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from trainables.envs.robot_task import ActionScaling
from trainables.export.graph import OPSET, ServedPolicy, write_onnx
from trainables.networks.interface import RecordedScaling
from trainables.networks.policies import ChunkPolicy, LstmPolicy, MlpPolicy, Policy, RelativeBase

SCALING = ActionScaling(np.array([0.2, -0.1, 0.0]), np.array([0.5, 0.4, 2.0]), np.array([-0.2, -0.5, -1.0]), np.array([0.6, 0.3, 1.0]))


def make(kind: str) -> Policy:
    torch.manual_seed(3)
    if kind == "lstm":
        policy: Policy = LstmPolicy(10, 3, (6, 7, 8, 9), hidden_size=16, head_size=8)
    else:
        policy = MlpPolicy(10, 3, hidden=(16, 8), activation=kind)
        policy.network[-1].weight.data.mul_(100.0)
    size = len(policy.normalizer.mean)
    policy.normalizer.set_statistics(torch.linspace(-1, 1, size), torch.linspace(0.1, 4.0, size), 10.0)
    return policy


@pytest.mark.parametrize("kind", ["elu", "tanh", "relu", "lstm"])
@pytest.mark.parametrize("batch", [1, 2, 7, 1000])
def test_onnx_runtime_agrees_with_torch_for_any_batch(kind: str, batch: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    served = ServedPolicy(make(kind), SCALING).eval()
    path = tmp_path_factory.getbasetemp() / f"graph-{kind}.onnx"
    if not path.exists():
        write_onnx(served, path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(batch)
    observation = (5 * rng.standard_normal((batch, 10))).astype(np.float32)
    state = {name: rng.standard_normal((batch, *shape)).astype(np.float32) for name, shape in served.policy.state_shapes.items()}
    outputs = session.run(None, {"observation": observation, **state})
    with torch.no_grad():
        expected = served(torch.from_numpy(observation), [torch.from_numpy(value) for value in state.values()])
    for ours, theirs in zip(outputs, expected, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-5)
    # The same arithmetic by hand: scaling and limits are inside the graph.
    with torch.no_grad():
        normalised, _ = served.policy.step(torch.from_numpy(observation), {name: torch.from_numpy(value) for name, value in state.items()})
    np.testing.assert_allclose(outputs[0], SCALING.to_physical(normalised.numpy()), atol=1e-5)
    assert (outputs[0] >= SCALING.low - 1e-6).all()
    assert (outputs[0] <= SCALING.high + 1e-6).all()


def test_names_and_shapes_are_the_contracts(tmp_path: Path) -> None:
    write_onnx(ServedPolicy(make("lstm"), SCALING), tmp_path / "policy.onnx")
    model = onnx.load(tmp_path / "policy.onnx")
    assert [(node.domain, node.version) for node in model.opset_import if node.domain in ("", "ai.onnx")] == [("", OPSET)]

    def describe(nodes) -> dict[str, list]:
        return {node.name: [axis.dim_param or axis.dim_value for axis in node.type.tensor_type.shape.dim] for node in nodes}

    assert describe(model.graph.input) == {"observation": ["batch", 10], "lstm_h": ["batch", 16], "lstm_c": ["batch", 16]}
    assert describe(model.graph.output) == {"action": ["batch", 3], "lstm_h_next": ["batch", 16], "lstm_c_next": ["batch", 16]}


def test_steps_through_onnx_runtime_equal_torchs_sequence(tmp_path: Path) -> None:
    policy = make("lstm")
    assert isinstance(policy, LstmPolicy)
    write_onnx(ServedPolicy(policy, SCALING), tmp_path / "policy.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "policy.onnx"), providers=["CPUExecutionProvider"])
    sequence = np.random.default_rng(0).standard_normal((2, 50, 10)).astype(np.float32)
    state = {name: np.zeros((2, *shape), np.float32) for name, shape in policy.state_shapes.items()}
    actions = []
    for step in range(50):
        action, hidden, memory = session.run(["action", "lstm_h_next", "lstm_c_next"], {"observation": sequence[:, step], **state})
        state = {"lstm_h": hidden, "lstm_c": memory}
        actions.append(action)
    with torch.no_grad():
        whole, _ = policy(torch.from_numpy(sequence))
    np.testing.assert_allclose(np.stack(actions, axis=1), SCALING.to_physical(whole.numpy()), atol=1e-5)


def test_exporting_says_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_onnx(ServedPolicy(make("elu"), SCALING), tmp_path / "policy.onnx")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("history", [1, 3])
@pytest.mark.parametrize("relative", [False, True])
def test_a_chunk_is_exported_field_by_field_and_keeps_its_history(history: int, relative: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    base: RelativeBase | None = {"index": [2, 0, 0], "gain": [2.0, 0.5, 0.0], "bias": [0.1, -0.1, 0.0]} if relative else None
    policy = ChunkPolicy(5, 3, chunk_size=4, history=history, hidden=(16,), base=base)
    policy.network[-1].weight.data.mul_(150.0)
    scaling = RecordedScaling(SCALING.offset, SCALING.scale, SCALING.low * 9, SCALING.high * 9)
    served = ServedPolicy(policy, scaling, action_sizes=(2, 1)).eval()
    write_onnx(served, tmp_path / "policy.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "policy.onnx"), providers=["CPUExecutionProvider"])
    rows = np.random.default_rng(0).standard_normal((6, 7, 5)).astype(np.float32)
    state = {name: np.zeros((7, *shape), np.float32) for name, shape in policy.state_shapes.items()}
    for step in range(6):
        action, *following = session.run(None, {"observation": rows[step], **state})
        state = dict(zip(policy.state_shapes, following, strict=True))
        # What training sees: the observations before, the first repeated before the start.
        window = torch.from_numpy(rows[[max(0, step - back) for back in range(history - 1, -1, -1)]]).transpose(0, 1)
        with torch.no_grad():
            planned = scaling.to_physical(policy(window).numpy())
        assert action.shape == (7, 12)
        np.testing.assert_allclose(action[:, :8].reshape(7, 4, 2), planned[..., :2], atol=1e-5)
        np.testing.assert_allclose(action[:, 8:].reshape(7, 4, 1), planned[..., 2:], atol=1e-5)
    # The normalised action of a recording is not cut at 1: its limits are those of what was recorded.
    assert np.abs(scaling.to_normalised(planned)).max() > 1
