from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from cluster.errors import UsageError
from trainables.networks.checkpoint import load_policy, save_policy
from trainables.networks.policies import LstmPolicy, MlpPolicy
from trainables.ppo.config import EvaluationConfig, PPOConfig
from trainables.ppo.run import PPORun

pytestmark = pytest.mark.usefixtures("ray_session")

Small = Callable[..., PPOConfig]
PENDULUM = "gymnasium:Pendulum-v1"


def save_imitation_like_policy(folder: Path) -> MlpPolicy:
    torch.manual_seed(3)
    policy = MlpPolicy(3, 1, hidden=(24, 12), activation="tanh")
    policy.normalizer.set_statistics(torch.tensor([0.1, -0.2, 1.5]), torch.tensor([0.5, 0.7, 9.0]), count=5000)
    torch.nn.init.normal_(policy.network[-1].weight, std=0.5)
    save_policy(policy, folder, {"task": PENDULUM, "task_config": {}})
    return policy.eval()


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def actor_state(run: PPORun) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in run.algorithm.policy().state_dict().items()}


def test_learns_to_balance_a_pole(balance_task: str, small: Small) -> None:
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


def test_a_warm_start_is_the_imitation_policy_until_it_trains(small: Small, tmp_path: Path) -> None:
    policy = save_imitation_like_policy(tmp_path)
    run = PPORun(small(warm_start=tmp_path, critic_warmup_iterations=1, num_epochs=1, update_normalizer=False))
    assert run.warm_start_error() <= 1e-6
    observations = torch.randn(200, 3) * 2
    with torch.no_grad():
        expected = policy(observations)
        torch.testing.assert_close(run.algorithm.policy()(observations), expected, atol=1e-6, rtol=0)
        run.algorithm.env_runner.set_sampling_weights(run.algorithm.learner_group._learner.sampling_weights())
        sampled = run.algorithm.env_runner.module.forward_inference({"obs": observations})["actions"]
        torch.testing.assert_close(sampled, expected, atol=1e-6, rtol=0)
    started = run.evaluate()

    # While the critic warms up, the actor and its noise stand still and the critic does not.
    module = run.algorithm.learner_group._learner.actor_critic
    critic, log_std = module.critic[0].weight.clone(), module.distribution.log_std.detach().clone()
    before = actor_state(run)
    figures = run.advance()
    assert {name: value for name, value in figures.items() if name.startswith("evaluation/")} == started
    assert not torch.equal(module.critic[0].weight, critic)
    assert torch.equal(module.distribution.log_std, log_std)
    for name, value in actor_state(run).items():
        assert torch.equal(value, before[name]), name
    run.advance()
    assert not torch.equal(actor_state(run)["network.0.weight"], before["network.0.weight"])
    run.close()


def test_a_restored_run_continues_as_the_one_that_was_saved(small: Small, tmp_path: Path) -> None:
    """Weights, every statistic, Adam's moments, the adapted step size, the shuffle and the counters: the next updates are the same."""
    changes = {"adaptive_learning_rate": True, "kl_target": 1e-4, "learning_rate": 3e-3, "minibatch_size": 64, "return_scaling": "rewards"}
    first = PPORun(small(**changes))
    first.advance()
    first.save(tmp_path)
    second = PPORun(small(seed=9, **changes))
    second.advance()  # its own weights are as new as the checkpoint's: the checkpoint must win all the same
    second.restore(tmp_path)
    assert second.env_steps == first.env_steps
    learners = [run.algorithm.learner_group._learner for run in (first, second)]
    assert_same(*(learner.actor_critic.state_dict() for learner in learners))
    rates = [learner.get_optimizer().param_groups[0]["lr"] for learner in learners]
    assert rates[0] == rates[1] != 3e-3

    for _ in range(2):
        fragment = first.algorithm.env_runner.sample_fragment(learners[0].sampling_weights())[0]
        for learner in learners:
            learner.learn(fragment, first.env_steps + 256)
    assert_same(*(learner.actor_critic.state_dict() for learner in learners))

    steps = second.env_steps
    second.advance()
    assert second.env_steps > steps
    first.close()
    second.close()
    saved, metadata = load_policy(tmp_path / "policy")
    assert metadata["task"] == PENDULUM
    assert saved.normalizer.count.item() == 256


def test_a_restored_run_meets_other_episodes_than_it_began_with(small: Small, tmp_path: Path) -> None:
    """A trial that is paused and restored again and again must not train on its first episodes and noise each time."""

    def sampled(run: PPORun) -> tuple[np.ndarray, np.ndarray]:
        fragment = run.algorithm.env_runner.sample_fragment(run.algorithm.learner_group._learner.sampling_weights())[0]
        return fragment.observations.copy(), fragment.actions.copy()

    first = PPORun(small())
    begun, _ = sampled(first)
    first.advance()
    first.save(tmp_path)
    first.close()
    restored = []
    for _ in range(2):
        run = PPORun(small())
        run.restore(tmp_path)
        restored.append(sampled(run))
        run.close()
    (observations, actions), again = restored
    assert not np.array_equal(observations[0], begun[0])  # from the first moments of the episodes on
    assert np.array_equal(observations, again[0])  # and yet it can be repeated
    assert np.array_equal(actions, again[1])


@pytest.mark.parametrize("adaptive", [False, True])
def test_a_clone_steps_at_its_own_learning_rate_from_the_first_update(small: Small, tmp_path: Path, adaptive: bool) -> None:
    """What population-based training does: another trial's checkpoint under a configuration with an explored learning rate."""
    donor = PPORun(small(learning_rate=3e-3, adaptive_learning_rate=adaptive))
    donor.advance()
    donor.save(tmp_path)
    donor.close()
    clone = PPORun(small(learning_rate=1e-3, adaptive_learning_rate=adaptive))
    clone.restore(tmp_path)
    learner = clone.algorithm.learner_group._learner
    used: list[float] = []
    optimizer = learner.get_optimizer()
    take_step = optimizer.step
    optimizer.step = lambda: (used.append(optimizer.param_groups[0]["lr"]), take_step())[1]
    clone.advance()
    clone.close()
    assert used
    assert set(used) == {1e-3}


def test_the_same_seed_gives_the_same_policy(small: Small) -> None:
    states = []
    for seed in (4, 4, 5):
        run = PPORun(small(seed=seed))
        run.advance()
        states.append(actor_state(run))
        run.close()
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name
    assert not torch.equal(states[0]["network.0.weight"], states[2]["network.0.weight"])


def test_a_warm_start_that_does_not_fit_is_refused(small: Small, tmp_path: Path) -> None:
    save_policy(MlpPolicy(3, 1), tmp_path / "other", {"task": "pidog_run", "task_config": {}})
    with pytest.raises(UsageError, match="pidog_run"):
        PPORun(small(warm_start=tmp_path / "other"))
    save_policy(LstmPolicy(3, 1, input_indices=(0,)), tmp_path / "lstm", {"task": PENDULUM, "task_config": {}})
    with pytest.raises(UsageError, match="simple_lstm"):
        PPORun(small(warm_start=tmp_path / "lstm"))
    with pytest.raises(ValidationError, match="minibatch_size 512 must not be above batch_size 256"):
        small(minibatch_size=512)


def test_discrete_actions_learn_to_balance_gymnasiums_cart_pole(small: Small) -> None:
    run = PPORun(
        small(task="gymnasium:CartPole-v1", num_envs=16, batch_size=2048, minibatch_size=256, num_epochs=8, learning_rate=1e-3,
              total_env_steps=24_000, report_every_env_steps=24_000, evaluation=EvaluationConfig(episodes=8))
    )  # fmt: skip
    before = run.evaluate()["evaluation/return"]
    figures = run.advance()
    policy = run.algorithm.policy()
    run.close()
    assert before < 60
    assert figures["evaluation/return"] > 200  # of 500
    assert policy.action_size == 2  # logits
