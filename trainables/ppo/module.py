"""The network that RLlib samples from and trains: our own actor and critic with their statistics as buffers.

The actor is a ``trainables.networks.MlpPolicy``, normaliser included, so an imitation policy loads into it and a trained one is
saved from it without conversion. All statistics are buffers: they travel with the weights to every env runner, into every
checkpoint and through a population-based clone.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis import InferenceOnlyAPI, ValueFunctionAPI
from ray.rllib.core.rl_module.torch import TorchRLModule
from torch import Tensor, nn

from trainables.networks.policies import MlpPolicy, mlp

__all__ = ["ActorCritic", "gaussian_entropy", "gaussian_kl", "gaussian_log_prob"]


def gaussian_log_prob(actions: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Log density of a diagonal Gaussian. Shapes (..., n), (..., n), (n,) -> (...)."""
    deviation = (actions - mean) * torch.exp(-log_std)
    return -0.5 * (deviation.square() + math.log(2 * math.pi)).sum(-1) - log_std.sum(-1)


def gaussian_entropy(log_std: Tensor) -> Tensor:
    """Entropy of a diagonal Gaussian in nats. Shape (n,) -> ()."""
    return (log_std + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)


def gaussian_kl(mean: Tensor, log_std: Tensor, other_mean: Tensor, other_log_std: Tensor) -> Tensor:
    """KL(first || other) of diagonal Gaussians. Shapes (..., n), (n,), (..., n), (n,) -> (...)."""
    variance_ratio = torch.exp(2 * (log_std - other_log_std))
    distance = ((mean - other_mean) * torch.exp(-other_log_std)).square()
    return 0.5 * (variance_ratio + distance - 1 - torch.log(variance_ratio)).sum(-1)


class ActorCritic(TorchRLModule, ValueFunctionAPI, InferenceOnlyAPI):
    """Gaussian policy with a state-independent standard deviation, and a separate critic on the same normalised observation.

    The critic works in standard deviations of the return, and its scale is kept by PopArt (van Hasselt et al. 2016): rewards may
    be of any size. ``model_config``: hidden, activation, critic_hidden, initial_action_std.
    """

    value_mean: Tensor
    value_std: Tensor
    value_count: Tensor

    def setup(self) -> None:
        """Build the networks for flat Box observations and actions."""
        observation_size, action_size = self.observation_space.shape[0], self.action_space.shape[0]
        activation = self.model_config["activation"]
        self.actor = MlpPolicy(observation_size, action_size, self.model_config["hidden"], activation)
        self.log_std = nn.Parameter(torch.full((action_size,), math.log(self.model_config["initial_action_std"])))
        self.critic = mlp([observation_size, *self.model_config["critic_hidden"], 1], self.model_config["critic_activation"])
        self.register_buffer("value_mean", torch.zeros(()))
        self.register_buffer("value_std", torch.ones(()))
        self.register_buffer("value_count", torch.zeros((), dtype=torch.float64))

    def get_non_inference_attributes(self) -> list[str]:
        """What an env runner does not need."""
        return ["critic", "value_mean", "value_std", "value_count"]

    def _forward_inference(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        with torch.no_grad():
            return {Columns.ACTIONS: self.actor(batch[Columns.OBS])}

    def _forward_exploration(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        with torch.no_grad():
            mean = self.actor(batch[Columns.OBS])
            actions = mean + torch.exp(self.log_std) * torch.randn_like(mean)
            return {Columns.ACTIONS: actions, Columns.ACTION_LOGP: gaussian_log_prob(actions, mean, self.log_std)}

    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        normalized = self.actor.normalizer(batch[Columns.OBS])
        return {
            "action_mean": self.actor.network(normalized),
            "action_log_std": self.log_std,
            "normalized_value": self.critic(normalized).squeeze(-1),
        }

    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> Tensor:
        """Expected return of each observation, in reward units. (rows, observation_size) -> (rows,)."""
        normalized_value = self.critic(self.actor.normalizer(batch[Columns.OBS])).squeeze(-1)
        return normalized_value * self.value_std + self.value_mean

    def normalize_values(self, values: Tensor) -> Tensor:
        """From reward units to the critic's. Any shape."""
        return (values - self.value_mean) / self.value_std

    @torch.no_grad()
    def update_value_statistics(self, returns: Tensor, horizon: int = 100_000) -> None:
        """Merge ``returns`` (rows,) into the critic's scale and rescale its last layer, so that its predictions stay what they were.

        ``horizon`` bounds the weight of the past in rows: returns grow while a policy learns.
        """
        rows = returns.to(torch.float64)
        weight = rows.numel() / (torch.clamp(self.value_count, max=horizon) + rows.numel())
        old_mean, old_std = self.value_mean.to(torch.float64), self.value_std.to(torch.float64)
        delta = rows.mean() - old_mean
        # On the first batch the initial 0 and 1 stand for nothing: weight is 1 and both drop out.
        mean = old_mean + weight * delta
        variance = (1 - weight) * old_std.square() + weight * rows.var(correction=0) + weight * (1 - weight) * delta.square()
        std = torch.clamp(variance.sqrt(), min=1e-4)
        last = self.critic[-1]
        last.weight.mul_((old_std / std).to(last.weight.dtype))
        last.bias.copy_(((old_std * last.bias.to(torch.float64) + old_mean - mean) / std).to(last.bias.dtype))
        self.value_mean.copy_(mean.to(self.value_mean.dtype))
        self.value_std.copy_(std.to(self.value_std.dtype))
        self.value_count += rows.numel()
