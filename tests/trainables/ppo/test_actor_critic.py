import gymnasium
import numpy as np
import pytest
import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from torch.distributions import Independent, Normal, kl_divergence

from trainables.ppo.connectors import EpisodesToTrainBatch
from trainables.ppo.module import ActorCritic, gaussian_entropy, gaussian_kl, gaussian_log_prob

MODEL = {"hidden": [16], "activation": "tanh", "critic_hidden": [16], "critic_activation": "tanh", "initial_action_std": 0.3}
OBSERVATIONS = gymnasium.spaces.Box(-np.inf, np.inf, (5,), np.float32)
ACTIONS = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)


def make_module(inference_only: bool = False) -> ActorCritic:
    torch.manual_seed(0)
    return ActorCritic(observation_space=OBSERVATIONS, action_space=ACTIONS, inference_only=inference_only, model_config=MODEL)


def test_gaussian_formulas_equal_torchs() -> None:
    mean, other_mean, actions = torch.randn(7, 3), torch.randn(7, 3), torch.randn(7, 3)
    log_std, other_log_std = torch.randn(3) * 0.3, torch.randn(3) * 0.3
    first = Independent(Normal(mean, log_std.exp()), 1)
    other = Independent(Normal(other_mean, other_log_std.exp()), 1)
    torch.testing.assert_close(gaussian_log_prob(actions, mean, log_std), first.log_prob(actions))
    torch.testing.assert_close(gaussian_entropy(log_std).expand(7), first.entropy())
    torch.testing.assert_close(gaussian_kl(mean, log_std, other_mean, other_log_std), kl_divergence(first, other))


def test_statistics_are_part_of_the_state_that_env_runners_get() -> None:
    learner, sampler = make_module(), make_module(inference_only=True)
    learner.actor.normalizer.update(torch.randn(100, 5) * 3 + 2)
    with torch.no_grad():
        learner.log_std.fill_(-2.0)
    state = learner.get_state(inference_only=True)
    assert not any(name.startswith(("critic", "value_")) for name in state)
    sampler.set_state(state)
    torch.testing.assert_close(sampler.actor.normalizer.mean, learner.actor.normalizer.mean)
    torch.testing.assert_close(sampler.actor.normalizer.var, learner.actor.normalizer.var)
    assert sampler.actor.normalizer.count.item() == 100
    observations = torch.randn(20, 5) * 3 + 2
    expected = learner.forward_inference({"obs": observations})["actions"]
    torch.testing.assert_close(sampler.forward_inference({"obs": observations})["actions"], expected)


def test_exploration_reports_the_density_of_what_it_drew() -> None:
    module = make_module()
    observations = torch.randn(4000, 5)
    out = module.forward_exploration({"obs": observations})
    mean = module.forward_inference({"obs": observations})["actions"]
    torch.testing.assert_close(out["action_logp"], Independent(Normal(mean, 0.3), 1).log_prob(out["actions"]))
    assert (out["actions"] - mean).std().item() == pytest.approx(0.3, rel=0.05)


def test_a_new_return_scale_changes_no_prediction() -> None:
    module, batch = make_module(), {"obs": torch.randn(50, 5)}
    module.update_value_statistics(torch.randn(500) * 40 + 300)
    assert module.value_mean.item() == pytest.approx(300, rel=0.05)
    assert module.value_std.item() == pytest.approx(40, rel=0.1)
    before = module.compute_values(batch)
    module.update_value_statistics(torch.randn(500) * 5 - 20)
    torch.testing.assert_close(module.compute_values(batch), before, rtol=1e-4, atol=1e-2)


def fragment(seed: int, length: int, reward: float, terminated: bool, truncated: bool) -> SingleAgentEpisode:
    rng = np.random.default_rng(seed)
    episode = SingleAgentEpisode(observation_space=OBSERVATIONS, action_space=ACTIONS)
    episode.add_env_reset(rng.normal(size=5).astype(np.float32))
    for step in range(length):
        last = step == length - 1
        episode.add_env_step(
            rng.normal(size=5).astype(np.float32),
            rng.normal(size=2).astype(np.float32),
            reward,
            terminated=terminated and last,
            truncated=truncated and last,
            extra_model_outputs={"action_logp": np.float32(step)},
        )
    return episode.to_numpy()


def test_the_train_batch_holds_each_real_step_once_and_bootstraps_truncation() -> None:
    module = make_module()
    torch.nn.init.zeros_(module.critic[-1].weight)
    torch.nn.init.constant_(module.critic[-1].bias, 100.0)  # whatever is seen, the rest is worth 100
    piece = EpisodesToTrainBatch(gamma=0.5, gae_lambda=1.0, generator=torch.Generator().manual_seed(0))
    episodes = [
        fragment(1, 3, 1.0, terminated=True, truncated=False),
        fragment(2, 2, 1.0, terminated=False, truncated=True),
        fragment(3, 2, 1.0, terminated=False, truncated=False),
    ]
    batch = piece(rl_module={DEFAULT_MODULE_ID: module}, episodes=episodes, batch={})[DEFAULT_MODULE_ID]
    rows = {tuple(row.tolist()): target.item() for row, target in zip(batch["obs"], batch["value_targets"], strict=True)}
    assert len(rows) == 7
    expected = [[1.75, 1.5, 1.0], [1 + 0.5 * (1 + 50), 51.0], [1 + 0.5 * (1 + 50), 51.0]]
    for episode, targets in zip(episodes, expected, strict=True):
        for observation, target in zip(episode.get_observations(), targets, strict=False):
            assert rows[tuple(observation.tolist())] == pytest.approx(target, rel=1e-5)
    assert batch["advantages"].mean().item() == pytest.approx(0.0, abs=1e-5)
    assert batch["advantages"].std(correction=0).item() == pytest.approx(1.0, rel=1e-4)
    torch.testing.assert_close(batch["old_action_mean"], module.actor(batch["obs"]))
