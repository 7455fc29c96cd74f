"""LSTM policies: what the learner unrolls is what the env runner did, and it pays where an MLP cannot know."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from cluster.errors import UsageError
from trainables.envs.robot_task import ActionScaling
from trainables.export.graph import ServedPolicy, write_onnx
from trainables.networks.checkpoint import load_policy, save_policy
from trainables.networks.policies import LstmPolicy, MlpPolicy
from trainables.ppo.batch import FragmentTensors, TrainBatch
from trainables.ppo.config import PPOConfig
from trainables.ppo.recurrent import unroll
from trainables.ppo.run import PPORun

LSTM: dict[str, Any] = {
    "network": "lstm",
    "lstm_size": 12,
    "sequence_length": 8,
    "task": "own_tasks:Uneven",
    "num_envs": 5,
    "batch_size": 120,
}


def test_unrolling_is_the_policy_step_by_step() -> None:
    torch.manual_seed(0)
    policy = LstmPolicy(3, 2, range(3), 6)
    inputs, state = torch.randn(5, 10, 3), {"lstm_h": torch.randn(5, 6), "lstm_c": torch.randn(5, 6)}
    starts = torch.rand(5, 10) < 0.3
    starts[0], starts[1, 0], starts[2, 9] = False, True, True
    for where in (starts, torch.zeros_like(starts), torch.ones_like(starts)):
        carried, hidden = state, []
        for step in range(10):
            carried = {name: torch.where(where[:, step, None], 0.0, value) for name, value in carried.items()}
            _, carried = policy.step(inputs[:, step], carried)  # its normaliser has seen nothing yet
            hidden.append(carried["lstm_h"])
        expected, ours = torch.stack(hidden, 1), unroll(policy.cell, inputs, state, where)
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
        weights = list(policy.cell.parameters())
        gradients = [torch.autograd.grad(out.square().sum(), weights) for out in (ours, expected)]
        for gradient, other in zip(*gradients, strict=True):
            torch.testing.assert_close(gradient, other, rtol=1e-3, atol=1e-4)


def test_the_first_minibatch_sees_the_densities_of_sampling(make_room: Callable[..., Any]) -> None:
    """Resets inside sequences, memories over fragments, fresh statistics after each update: every ratio is 1 before the first step."""
    room = make_room(**LSTM, num_epochs=2, minibatch_size=40, learning_rate=1e-2)
    module = room.module
    for _ in range(3):
        fragment = room.sample()
        assert fragment.starts[1:].any()
        observations = torch.from_numpy(fragment.observations)
        tensors = FragmentTensors.from_fragment(fragment, module.actor.normalizer(observations), torch.from_numpy(fragment.rewards))
        with torch.no_grad():
            nothing = torch.zeros_like(tensors.rewards)
            batch = TrainBatch(tensors, nothing, nothing, room.learner._values(tensors)[:-1], sequence_length=8)
            pieces = batch.cut(40, torch.Generator().manual_seed(0))
            assert sum(batch.steps_of(piece) for piece in pieces) == fragment.env_steps
            for piece in pieces:
                rows = batch.rows(piece)
                inputs, values = module.evaluate_rows(rows)
                torch.testing.assert_close(module.distribution.log_prob(inputs, rows.actions), rows.log_probs, atol=2e-6, rtol=0)
                # The critic sees the same memory, unrolled over the whole fragment or from a stored state.
                torch.testing.assert_close(values, rows.values, atol=1e-5, rtol=0)
        room.learn(fragment)


def test_each_environment_acts_as_the_policy_alone_would(make_room: Callable[..., Any]) -> None:
    """An independent replay: one environment at a time, a new memory at each episode, through the policy that is exported."""
    room = make_room(**LSTM)
    room.iterate(2)
    policy = LstmPolicy(3, 1, range(3), 12, 12)
    policy.load_state_dict({name.removeprefix("actor."): value for name, value in room.state().items() if name.startswith("actor.")})
    room.runner.make_env()
    weights = room.learner.sampling_weights()
    fragments = [room.runner.sample_fragment(weights, explore=False)[0] for _ in range(2)]
    for env in range(5):
        state, resetting, fresh = policy.initial_state(1), False, True
        for fragment in fragments:
            for step in range(len(fragment.actions)):
                if fresh:
                    state = policy.initial_state(1)
                with torch.no_grad():
                    action, state = policy.step(torch.from_numpy(fragment.observations[step, env])[None], state)
                np.testing.assert_allclose(fragment.actions[step, env], action[0], atol=1e-6)
                assert fragment.valid[step, env] == (not resetting)
                fresh, resetting = resetting, bool(fragment.terminated[step, env] | fragment.truncated[step, env])


@pytest.mark.usefixtures("ray_session")
def test_a_memory_solves_what_an_mlp_cannot(small: Callable[..., PPOConfig]) -> None:
    returns = {}
    for network in ("lstm", "mlp"):
        settings = small(
            task="own_tasks:Recall", network=network, lstm_size=16, sequence_length=16, num_envs=32, batch_size=1024, minibatch_size=256,
            num_epochs=6, learning_rate=4e-3, total_env_steps=24_576, report_every_env_steps=24_576, evaluation={"episodes": 64},
        )  # fmt: skip
        run = PPORun(settings)
        returns[network] = run.advance()["evaluation/return"]
        run.close()
    assert returns["lstm"] > 0.9
    assert abs(returns["mlp"]) < 0.3  # a fixed answer is right for about half of the signs


@pytest.mark.usefixtures("ray_session")
def test_checkpoints_restore_the_memory_policy_and_export_loads(small: Callable[..., PPOConfig], tmp_path: Path) -> None:
    run = PPORun(small(**LSTM, minibatch_size=40))
    run.advance()
    run.save(tmp_path / "checkpoint")
    expected = run.algorithm.policy().state_dict()
    run.close()
    other = PPORun(small(**LSTM, minibatch_size=40, seed=5))
    other.restore(tmp_path / "checkpoint")
    policy = other.algorithm.policy()
    for name, value in policy.state_dict().items():
        assert torch.equal(value, expected[name]), name
    other.advance()
    other.close()

    saved, metadata = load_policy(tmp_path / "checkpoint" / "policy")
    assert isinstance(saved, LstmPolicy)
    assert saved.input_indices == (0, 1, 2)
    assert metadata["source"] == "ppo"
    one = np.ones(1)
    write_onnx(ServedPolicy(saved, ActionScaling(offset=0 * one, scale=one, low=-one, high=one)), tmp_path / "policy.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "policy.onnx", providers=["CPUExecutionProvider"])
    state, carried = saved.initial_state(4), {name: np.zeros((4, 12), np.float32) for name in ("lstm_h", "lstm_c")}
    for _ in range(5):
        observation = torch.randn(4, 3)
        with torch.no_grad():
            action, state = saved.step(observation, state)
        served, *following = session.run(None, {"observation": observation.numpy(), **carried})
        carried = dict(zip(carried, following, strict=True))
        np.testing.assert_allclose(served, action.clamp(-1, 1), atol=1e-5)


@pytest.mark.usefixtures("ray_session")
def test_a_warm_start_is_of_the_same_kind_and_reads_everything(small: Callable[..., PPOConfig], tmp_path: Path) -> None:
    metadata = {"task": LSTM["task"], "task_config": {}}
    save_policy(MlpPolicy(3, 1), tmp_path / "mlp", metadata)
    save_policy(LstmPolicy(3, 1, (0, 2)), tmp_path / "blind", metadata)
    whole = LstmPolicy(3, 1, range(3), 20, 8)
    whole.normalizer.set_statistics(torch.tensor([0.1, 0.2, 0.3]), torch.tensor([1.0, 2.0, 3.0]), 100)
    save_policy(whole, tmp_path / "whole", metadata)
    with pytest.raises(UsageError, match="network lstm continues from a policy of kind simple_lstm, this is mlp"):
        PPORun(small(**LSTM, minibatch_size=40, warm_start=tmp_path / "mlp"))
    with pytest.raises(UsageError, match="reads all 3 observations, this simple_lstm only 2"):
        PPORun(small(**LSTM, minibatch_size=40, warm_start=tmp_path / "blind"))
    run = PPORun(small(**LSTM, minibatch_size=40, warm_start=tmp_path / "whole"))
    assert run.warm_start_error() <= 1e-6
    assert run.algorithm.policy().hidden_size == 20
    run.advance()
    run.close()
