from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from ray.rllib.core import DEFAULT_MODULE_ID

from cluster.errors import GaitwayError, UsageError
from trainables.networks.checkpoint import load_policy, save_policy
from trainables.networks.policies import LstmPolicy, MlpPolicy
from trainables.ppo.config import EvaluationConfig, PPOConfig
from trainables.ppo.run import PPORun

pytestmark = pytest.mark.usefixtures("ray_session")

PENDULUM = "gymnasium:Pendulum-v1"


def small(**changes: Any) -> PPOConfig:
    settings: dict[str, Any] = {
        "task": PENDULUM,
        "num_envs": 4,
        "batch_size": 256,
        "minibatch_size": 64,
        "num_epochs": 2,
        "total_env_steps": 512,
        "report_every_env_steps": 256,
        "hidden": (16, 16),
        "critic_hidden": (16, 16),
        "evaluation": EvaluationConfig(episodes=2),
    }
    return PPOConfig(**(settings | changes))


def save_imitation_like_policy(folder: Path) -> MlpPolicy:
    torch.manual_seed(3)
    policy = MlpPolicy(3, 1, hidden=(24, 12), activation="tanh")
    policy.normalizer.set_statistics(torch.tensor([0.1, -0.2, 1.5]), torch.tensor([0.5, 0.7, 9.0]), count=5000)
    torch.nn.init.normal_(policy.network[-1].weight, std=0.5)
    save_policy(policy, folder, {"task": PENDULUM, "task_config": {}})
    return policy.eval()


def actor_state(run: PPORun) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in run.algorithm.policy().state_dict().items()}


def assert_same_leaves(first: Any, second: Any) -> None:
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_same_leaves(first[key], second[key])
    elif isinstance(first, (list, tuple)):
        for left, right in zip(first, second, strict=True):
            assert_same_leaves(left, right)
    else:
        np.testing.assert_array_equal(first, second)


def test_learns_to_balance_a_pole(balance_task: str) -> None:
    run = PPORun(
        small(task=balance_task, num_envs=16, batch_size=2048, minibatch_size=256, num_epochs=8, learning_rate=1e-3, total_env_steps=20_000,
              report_every_env_steps=20_000, evaluation=EvaluationConfig(episodes=8))
    )  # fmt: skip
    before = run.evaluate()["evaluation/return"]
    figures = run.advance()
    run.close()
    assert before < 60
    assert figures["evaluation/return"] > 180  # of 200
    assert figures["train/length"] == pytest.approx(figures["train/return"])


def test_a_warm_start_is_the_imitation_policy_until_it_trains(tmp_path: Path) -> None:
    policy = save_imitation_like_policy(tmp_path)
    run = PPORun(small(warm_start=tmp_path, critic_warmup_iterations=1, num_epochs=1, update_normalizer=False))
    assert run.warm_start_error() <= 1e-6
    observations = torch.randn(200, 3) * 2
    with torch.no_grad():
        expected = policy(observations)
        torch.testing.assert_close(run.algorithm.policy()(observations), expected, atol=1e-6, rtol=0)
        sampled = run.algorithm.env_runner.module.forward_inference({"obs": observations})["actions"]
        torch.testing.assert_close(sampled, expected, atol=1e-6, rtol=0)
    started = run.evaluate()

    # While the critic warms up, the actor and its noise stand still and the critic does not.
    module = run.algorithm.learner_group._learner.module[DEFAULT_MODULE_ID]
    critic, log_std = module.critic[0].weight.clone(), module.log_std.detach().clone()
    before = actor_state(run)
    figures = run.advance()
    assert {name: value for name, value in figures.items() if name.startswith("evaluation/")} == started
    assert not torch.equal(module.critic[0].weight, critic)
    assert torch.equal(module.log_std, log_std)
    for name, value in actor_state(run).items():
        assert torch.equal(value, before[name]), name
    run.advance()
    assert not torch.equal(actor_state(run)["network.0.weight"], before["network.0.weight"])
    run.close()


def test_the_first_gradient_step_sees_the_densities_of_sampling(tmp_path: Path) -> None:
    """One step over the whole batch with no learning rate to speak of: every ratio is 1, whatever the normaliser has seen before."""
    save_imitation_like_policy(tmp_path)
    run = PPORun(small(warm_start=tmp_path, minibatch_size=256, num_epochs=1, learning_rate=1e-12))
    for _ in range(2):
        figures = run.advance()
        assert figures["learner/clip_fraction"] == 0
        assert abs(figures["learner/kl"]) < 1e-6
    run.close()


def test_statistics_reach_remote_env_runners_and_checkpoints(tmp_path: Path) -> None:
    run = PPORun(small(num_env_runners=1))
    run.advance()
    run.save(tmp_path / "checkpoint")
    ours = run.algorithm.policy()
    assert ours.normalizer.count.item() >= 256
    remote = run.algorithm.env_runner_group.foreach_env_runner(lambda runner: runner.module.get_state(), local_env_runner=False)[0]
    np.testing.assert_allclose(remote["actor.normalizer.mean"], ours.normalizer.mean)
    np.testing.assert_allclose(remote["actor.normalizer.var"], ours.normalizer.var)
    np.testing.assert_allclose(remote["actor.network.0.weight"], ours.network[0].weight.detach())
    run.close()
    saved, metadata = load_policy(tmp_path / "checkpoint" / "policy")
    assert metadata["task"] == PENDULUM
    for name, value in saved.state_dict().items():
        torch.testing.assert_close(value, ours.state_dict()[name], msg=name)


def test_a_restored_run_continues_with_weights_statistics_optimizer_and_counters(tmp_path: Path) -> None:
    first = PPORun(small())
    first.advance()
    first.save(tmp_path)
    state, steps = actor_state(first), first.env_steps
    optimizer = first.algorithm.learner_group.get_state()["learner"]["optimizer"]
    first.close()

    second = PPORun(small(seed=9))
    second.advance()  # its own weights are as new as the checkpoint's: the checkpoint must win all the same
    second.restore(tmp_path)
    assert second.env_steps == steps
    for name, value in actor_state(second).items():
        assert torch.equal(value, state[name]), name
    observations = torch.randn(10, 3)
    with torch.no_grad():
        sampled = second.algorithm.env_runner.module.forward_inference({"obs": observations})["actions"]
        torch.testing.assert_close(sampled, second.algorithm.policy()(observations))
    restored = second.algorithm.learner_group.get_state()["learner"]["optimizer"]
    assert_same_leaves(restored, optimizer)
    second.advance()
    assert second.env_steps > steps
    second.close()


def test_the_same_seed_gives_the_same_policy() -> None:
    states = []
    for seed in (4, 4, 5):
        run = PPORun(small(seed=seed))
        run.advance()
        states.append(actor_state(run))
        run.close()
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name
    assert not torch.equal(states[0]["network.0.weight"], states[2]["network.0.weight"])


def test_divergence_stops_the_run_with_one_line() -> None:
    run = PPORun(small(learning_rate=1.0, entropy_coefficient=1e3, num_epochs=40))  # the noise grows e-fold at every step
    with pytest.raises(GaitwayError, match="diverged"):
        run.advance()
    run.close()


def test_a_warm_start_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    save_policy(MlpPolicy(3, 1), tmp_path / "other", {"task": "pidog_run", "task_config": {}})
    with pytest.raises(UsageError, match="pidog_run"):
        PPORun(small(warm_start=tmp_path / "other"))
    save_policy(LstmPolicy(3, 1, input_indices=(0,)), tmp_path / "lstm", {"task": PENDULUM, "task_config": {}})
    with pytest.raises(UsageError, match="simple_lstm"):
        PPORun(small(warm_start=tmp_path / "lstm"))
    with pytest.raises(ValidationError, match="minibatch_size"):
        small(minibatch_size=512)
