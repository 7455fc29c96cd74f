"""The two action distributions against ``torch.distributions``."""

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent, Normal, kl_divergence

from trainables.ppo.distributions import ActionDistribution, CategoricalActions, GaussianActions, make_distribution
from trainables.ppo.loss import ppo_loss


def gaussian(size: int = 3) -> GaussianActions:
    distribution = GaussianActions(size, 0.5).double()
    with torch.no_grad():
        distribution.log_std += torch.linspace(-0.4, 0.6, size)
    return distribution


def torchs(distribution: ActionDistribution, inputs: Tensor) -> Distribution:
    if isinstance(distribution, GaussianActions):
        return Independent(Normal(inputs, distribution.log_std.exp()), 1)
    return Categorical(logits=inputs)


@pytest.fixture(params=["gaussian", "categorical"])
def distribution(request: pytest.FixtureRequest) -> ActionDistribution:
    torch.manual_seed(0)
    return gaussian() if request.param == "gaussian" else CategoricalActions(4)


def test_log_prob_entropy_and_mode_equal_torchs(distribution: ActionDistribution) -> None:
    inputs = torch.randn(50, distribution.input_size, dtype=torch.float64) * 2
    other = torchs(distribution, inputs)
    actions = other.sample()
    torch.testing.assert_close(distribution.log_prob(inputs, actions), other.log_prob(actions))
    torch.testing.assert_close(distribution.entropy(inputs), other.entropy().mean())
    torch.testing.assert_close(distribution.mode(inputs), other.mode)


def test_the_written_out_gradients_equal_autograds(distribution: ActionDistribution) -> None:
    inputs = torch.randn(20, distribution.input_size, dtype=torch.float64, requires_grad=True)
    actions, by_log_prob = torchs(distribution, inputs).sample(), torch.randn(20, dtype=torch.float64)
    entropy_weight = 0.3
    log_prob = distribution.log_prob(inputs, actions)
    loss = (log_prob * by_log_prob).sum() - entropy_weight * distribution.entropy(inputs) * len(inputs)
    parameters = list(distribution.parameters())
    expected, *expected_parameters = torch.autograd.grad(loss, [inputs, *parameters])
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    value, backward = distribution.differentiate(inputs.detach(), actions)
    torch.testing.assert_close(value, log_prob.detach())
    torch.testing.assert_close(backward(by_log_prob.clone(), entropy_weight), expected)
    for parameter, gradient in zip(parameters, expected_parameters, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_samples_follow_the_distribution_and_repeat_with_their_noise() -> None:
    generator = torch.Generator().manual_seed(1)
    discrete, logits = CategoricalActions(3), torch.tensor([0.0, 1.0, -1.0])
    actions = discrete.sample(logits, discrete.draw_noise((40_000,), generator))
    shares = torch.bincount(actions, minlength=3) / len(actions)
    torch.testing.assert_close(shares, torch.softmax(logits, -1), atol=0.01, rtol=0)  # 4 standard errors of a share of a half
    normal, mean = gaussian().float(), torch.tensor([1.0, -2.0, 0.0])
    noise = normal.draw_noise((40_000,), generator)
    drawn = normal.sample(mean, noise).detach()
    torch.testing.assert_close(drawn.mean(0), mean, atol=0.025, rtol=0)
    torch.testing.assert_close(drawn.std(0), normal.log_std.exp().detach(), rtol=0.02, atol=0)
    assert torch.equal(drawn, normal.sample(mean, noise))


def test_the_kl_estimate_is_torchs_divergence_between_close_policies(distribution: ActionDistribution) -> None:
    torch.manual_seed(3)
    old = torch.randn(1, distribution.input_size, dtype=torch.float64).expand(200_000, -1)
    new = old + 0.1
    if isinstance(distribution, CategoricalActions):
        new = old + torch.linspace(-0.1, 0.1, distribution.input_size)
    before, after = torchs(distribution, old), torchs(distribution, new)
    actions = before.sample()
    zero = torch.zeros(len(old), dtype=torch.float64)
    terms = ppo_loss(after.log_prob(actions), before.log_prob(actions), zero, zero, zero, zero, clip=0.2, value_clip=None)
    expected = kl_divergence(before, after).mean().item()
    assert 0.001 < expected < 0.1
    assert terms.kl.item() / len(old) == pytest.approx(expected, rel=0.03)


def test_a_space_has_its_distribution() -> None:
    assert make_distribution(gymnasium.spaces.Discrete(4), 0.5).input_size == 4
    box = make_distribution(gymnasium.spaces.Box(-1, 1, (3,), np.float32), 0.25)
    assert box.figures() == {"action_std": pytest.approx(0.25)}
