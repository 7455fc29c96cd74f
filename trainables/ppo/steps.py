"""How a minibatch goes through the networks and back: by autograd, or written out where they are small MLPs on a CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trainables.networks.direct_mlp import DirectMlp
from trainables.ppo.batch import Rows
from trainables.ppo.config import PPOConfig
from trainables.ppo.loss import ppo_gradients, ppo_loss

if TYPE_CHECKING:
    from trainables.ppo.module import ActorCritic

__all__ = ["AutogradStep", "DirectStep", "LossWeights"]


class LossWeights:
    """What the loss is made of at the moment; the learner changes it between updates.

    Attributes:
        entropy: weight of the entropy bonus.
        actor: 0 while only the critic learns, else 1.
    """

    def __init__(self, settings: PPOConfig) -> None:
        self.clip, self.value_clip, self.value = settings.clip, settings.value_clip, settings.value_coefficient
        self.entropy, self.actor = 0.0, 1.0


class AutogradStep:
    """Any module on any device.

    Args:
        module: the networks.
        weights: what the loss is made of.
        dtype: what the forward pass is autocast to; None: nothing.
        compiled: let ``torch.compile`` fuse networks and loss.
    """

    def __init__(self, module: ActorCritic, weights: LossWeights, dtype: torch.dtype | None = None, compiled: bool = False) -> None:
        self._module, self._weights, self._dtype = module, weights, dtype
        self._terms = torch.compile(self._loss) if compiled else self._loss

    def __call__(self, rows: Rows, steps: float, with_figures: bool) -> Tensor | None:
        """Add the gradients of these rows' share of the loss.

        Args:
            rows: a minibatch or a part of one.
            steps: rows of the whole minibatch, over all its parts and learners; what the sums are divided by.
            with_figures: also give the sums of policy loss, value loss, entropy, KL estimate and clipped rows. Shape (5,).
        """
        loss, figures = self._terms(rows, with_figures)
        (loss / steps).backward()
        return figures

    def _loss(self, rows: Rows, with_figures: bool) -> tuple[Tensor, Tensor | None]:
        weights, distribution = self._weights, self._module.distribution
        with torch.autocast(rows.observations.device.type, self._dtype, enabled=self._dtype is not None):
            inputs, values = self._module.evaluate_rows(rows)
        inputs, values = inputs.float(), values.float()
        terms = ppo_loss(
            distribution.log_prob(inputs, rows.actions),
            rows.log_probs,
            rows.advantages,
            values,
            rows.values,
            rows.targets,
            weights.clip,
            weights.value_clip,
            with_figures,
        )
        entropy = distribution.entropy(inputs) * len(values)
        loss = weights.actor * (terms.policy - weights.entropy * entropy) + weights.value * terms.value
        if not with_figures:
            return loss, None
        return loss, torch.stack([terms.policy, terms.value, entropy, terms.kl, terms.clipped]).detach()


class DirectStep:
    """Two MLPs without autograd: the same gradients as ``AutogradStep`` in half the time (``DirectMlp`` says why)."""

    def __init__(self, module: ActorCritic, weights: LossWeights) -> None:
        self._distribution, self._weights = module.distribution, weights
        self._actor, self._critic = DirectMlp(module.actor.network), DirectMlp(module.critic)

    @torch.no_grad()
    def __call__(self, rows: Rows, steps: float, with_figures: bool) -> Tensor | None:
        """See ``AutogradStep``."""
        weights, distribution = self._weights, self._distribution
        inputs = self._actor.forward(rows.observations)
        values = self._critic.forward(rows.observations).squeeze(-1)
        log_prob, backward = distribution.differentiate(inputs, rows.actions)
        shared = (log_prob, rows.log_probs, rows.advantages, values, rows.values, rows.targets, weights.clip, weights.value_clip)
        by_log_prob, by_value = ppo_gradients(*shared)
        if weights.actor:
            self._actor.backward(backward(by_log_prob.div_(steps), weights.entropy / steps))
        self._critic.backward(by_value.mul_(weights.value / steps).unsqueeze(-1))
        if not with_figures:
            return None
        terms = ppo_loss(*shared)
        return torch.stack([terms.policy, terms.value, distribution.entropy(inputs) * len(values), terms.kl, terms.clipped])
