from pathlib import Path

import pytest
import torch

from cluster.errors import GaitwayError
from trainables.networks.checkpoint import load_policy, save_policy
from trainables.networks.policies import ChunkPolicy, LstmPolicy, MlpPolicy, Policy, build_policy


def policies() -> list[Policy]:
    torch.manual_seed(0)
    return [
        MlpPolicy(10, 3, hidden=(16, 8), activation="tanh"),
        LstmPolicy(10, 3, input_indices=(6, 7, 8, 9), hidden_size=16, head_size=8),
        ChunkPolicy(
            10, 3, chunk_size=4, history=2, hidden=(16,), base={"index": [0, 1, 2], "gain": [1.0, 2.0, 0.0], "bias": [0.0, 0.1, 0.2]}
        ),
    ]


@pytest.mark.parametrize("policy", policies(), ids=lambda policy: policy.kind)
def test_a_saved_policy_acts_as_before(policy: Policy, tmp_path: Path) -> None:
    for name, buffer in policy.named_buffers():
        if name.endswith(("mean", "var")):
            buffer.uniform_(0.5, 2.0)
    save_policy(policy, tmp_path / "policy", {"task": "t", "task_config": {"a": 1}, "free": "x"})
    loaded, metadata = load_policy(tmp_path / "policy")
    assert (metadata["task"], metadata["task_config"], metadata["free"]) == ("t", {"a": 1}, "x")
    observation = torch.randn(5, 10)
    expected, state = policy.step(observation, policy.initial_state(5))
    actual, loaded_state = loaded.step(observation, loaded.initial_state(5))
    assert torch.equal(actual, expected)
    assert state.keys() == loaded_state.keys() == policy.state_shapes.keys()
    assert not loaded.training


def test_lstm_steps_equal_its_sequence_pass() -> None:
    policy = policies()[1]
    assert isinstance(policy, LstmPolicy)
    sequence = torch.randn(4, 20, 10)
    whole, final = policy(sequence)
    state = policy.initial_state(4)
    steps = []
    for index in range(20):
        action, state = policy.step(sequence[:, index], state)
        steps.append(action)
    torch.testing.assert_close(torch.stack(steps, 1), whole, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(state, final, atol=1e-6, rtol=1e-5)


def test_lstm_reads_only_its_inputs() -> None:
    policy = policies()[1]
    observation = torch.randn(2, 10)
    changed = observation.clone()
    changed[:, :6] += 100.0
    state = policy.initial_state(2)
    assert torch.equal(policy.step(observation, state)[0], policy.step(changed, state)[0])


def test_mlp_starts_near_the_default_pose() -> None:
    policy = MlpPolicy(50, 12)
    assert policy(torch.randn(100, 50)).abs().max() < 0.2


def test_an_unknown_kind_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="unknown policy kind 'gru'; known: mlp, simple_lstm, chunk"):
        build_policy({"kind": "gru"})


def test_a_folder_without_a_checkpoint_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(GaitwayError, match=r"not a policy checkpoint: policy\.json is missing"):
        load_policy(tmp_path)


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    save_policy(MlpPolicy(10, 3), tmp_path, {"task": "t", "task_config": {}})
    save_policy(MlpPolicy(9, 3), tmp_path / "other", {"task": "t", "task_config": {}})
    (tmp_path / "other" / "policy.pt").replace(tmp_path / "policy.pt")
    with pytest.raises(GaitwayError, match="not a readable policy checkpoint"):
        load_policy(tmp_path)


def test_the_checkpoint_holds_tensors_only(tmp_path: Path) -> None:
    save_policy(MlpPolicy(4, 2), tmp_path, {"task": "t", "task_config": {}})
    tensors = torch.load(tmp_path / "policy.pt", weights_only=True)
    assert all(isinstance(tensor, torch.Tensor) for tensor in tensors.values())
