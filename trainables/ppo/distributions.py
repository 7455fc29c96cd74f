"""The two action distributions: a diagonal Gaussian with a state-independent deviation, and a categorical for discrete actions.

Each maps what the actor's network gives (the mean, or the logits) to actions, log probabilities and entropy. Sampling takes its
noise from outside, so that a whole fragment's noise is drawn in one call and a trajectory can be repeated exactly.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable

import gymnasium
import torch
from torch import Tensor, nn

__all__ = ["ActionDistribution", "CategoricalActions", "GaussianActions", "make_distribution"]


class ActionDistribution(nn.Module):
    """What PPO needs to know of a distribution; ``inputs`` is the actor's output, shape (..., input_size)."""

    input_size: int

    @abstractmethod
    def draw_noise(self, shape: tuple[int, ...], generator: torch.Generator | None = None) -> Tensor:
        """Noise for ``sample``. Shape (*shape, ...)."""

    @abstractmethod
    def sample(self, inputs: Tensor, noise: Tensor) -> Tensor:
        """Actions: (..., action_size) float, or (...) int64."""

    @abstractmethod
    def mode(self, inputs: Tensor) -> Tensor:
        """The most likely actions."""

    @abstractmethod
    def log_prob(self, inputs: Tensor, actions: Tensor) -> Tensor:
        """Log density or probability. Shape (...)."""

    @abstractmethod
    def entropy(self, inputs: Tensor) -> Tensor:
        """Entropy in nats, mean over the rows. Shape ()."""

    @abstractmethod
    def differentiate(self, inputs: Tensor, actions: Tensor) -> tuple[Tensor, Callable[[Tensor, float], Tensor]]:
        """``log_prob`` without autograd, and how to go back through it.

        Returns:
            Log probabilities, shape (rows,), and ``backward(gradient, entropy_weight)``: from the gradient of the log probabilities,
            shape (rows,), to that of ``inputs``; it adds to the ``grad`` of the distribution's own parameters. ``entropy_weight``
            is how much of every row's entropy is taken off the loss.
        """

    @abstractmethod
    def figures(self) -> dict[str, float]:
        """What is worth watching, by name."""


class GaussianActions(ActionDistribution):
    """Independent Gaussians around the actor's mean; ``log_std`` is a parameter of its own. Shape (action_size,)."""

    def __init__(self, action_size: int, initial_std: float) -> None:
        super().__init__()
        self.input_size = action_size
        self.log_std = nn.Parameter(torch.full((action_size,), math.log(initial_std)))

    def draw_noise(self, shape: tuple[int, ...], generator: torch.Generator | None = None) -> Tensor:
        """Standard normal. Shape (*shape, action_size)."""
        return torch.randn(*shape, self.input_size, generator=generator)

    def sample(self, inputs: Tensor, noise: Tensor) -> Tensor:
        """See ``ActionDistribution.sample``."""
        return torch.addcmul(inputs, torch.exp(self.log_std), noise)

    def mode(self, inputs: Tensor) -> Tensor:
        """The mean."""
        return inputs

    def log_prob(self, inputs: Tensor, actions: Tensor) -> Tensor:
        """See ``ActionDistribution.log_prob``."""
        deviation = (actions - inputs) * torch.exp(-self.log_std)
        return deviation.square().sum(-1) * -0.5 - (self.log_std.sum() + 0.5 * self.input_size * math.log(2 * math.pi))

    def entropy(self, inputs: Tensor) -> Tensor:
        """The same for every row."""
        return self.log_std.sum() + 0.5 * self.input_size * math.log(2 * math.pi * math.e)

    def differentiate(self, inputs: Tensor, actions: Tensor) -> tuple[Tensor, Callable[[Tensor, float], Tensor]]:
        """See ``ActionDistribution.differentiate``."""
        log_std = self.log_std.detach()
        inverse_std = torch.exp(-log_std)
        deviation = (actions - inputs).mul_(inverse_std)
        squared = deviation.square()
        log_prob = squared.sum(-1).mul_(-0.5).sub_(log_std.sum() + 0.5 * self.input_size * math.log(2 * math.pi))

        def backward(gradient: Tensor, entropy_weight: float) -> Tensor:
            # d log p / d log_std = deviation^2 - 1; each row's entropy grows by 1 with every log_std.
            self.log_std.grad.add_(gradient @ squared).sub_(gradient.sum() + entropy_weight * len(gradient))
            return deviation.mul_(inverse_std).mul_(gradient.unsqueeze(-1))

        return log_prob, backward

    def figures(self) -> dict[str, float]:
        """``action_std``: mean over the actions, in normalised units."""
        return {"action_std": float(torch.exp(self.log_std.detach()).mean())}


class CategoricalActions(ActionDistribution):
    """One of ``num_actions``; the actor gives unnormalised logits."""

    def __init__(self, num_actions: int) -> None:
        super().__init__()
        self.input_size = num_actions

    def draw_noise(self, shape: tuple[int, ...], generator: torch.Generator | None = None) -> Tensor:
        """Standard Gumbel noise. Shape (*shape, num_actions)."""
        uniform = torch.rand(*shape, self.input_size, generator=generator).clamp_(1e-20, 1 - 1e-7)
        return -torch.log(-torch.log(uniform))

    def sample(self, inputs: Tensor, noise: Tensor) -> Tensor:
        """The Gumbel-max trick (Gumbel 1954): the largest of logits plus Gumbel noise is distributed by their softmax."""
        return (inputs + noise).argmax(-1)

    def mode(self, inputs: Tensor) -> Tensor:
        """The largest logit."""
        return inputs.argmax(-1)

    def log_prob(self, inputs: Tensor, actions: Tensor) -> Tensor:
        """See ``ActionDistribution.log_prob``."""
        return torch.log_softmax(inputs, -1).gather(-1, actions.long().unsqueeze(-1)).squeeze(-1)

    def entropy(self, inputs: Tensor) -> Tensor:
        """Mean over the rows."""
        log_probs = torch.log_softmax(inputs, -1)
        return -(log_probs.exp() * log_probs).sum(-1).mean()

    def differentiate(self, inputs: Tensor, actions: Tensor) -> tuple[Tensor, Callable[[Tensor, float], Tensor]]:
        """See ``ActionDistribution.differentiate``."""
        log_probs = torch.log_softmax(inputs, -1)
        chosen = actions.long().unsqueeze(-1)

        def backward(gradient: Tensor, entropy_weight: float) -> Tensor:
            probabilities = log_probs.exp()
            back = probabilities * -gradient.unsqueeze(-1)
            back.scatter_add_(-1, chosen, gradient.unsqueeze(-1))
            if entropy_weight:
                entropy = -(probabilities * log_probs).sum(-1, keepdim=True)
                back += entropy_weight * probabilities * (log_probs + entropy)
            return back

        return log_probs.gather(-1, chosen).squeeze(-1), backward

    def figures(self) -> dict[str, float]:
        """Nothing of its own."""
        return {}


def make_distribution(space: gymnasium.Space, initial_std: float) -> ActionDistribution:
    """The distribution over a single action space: ``Box`` (flat) or ``Discrete``."""
    if isinstance(space, gymnasium.spaces.Discrete):
        return CategoricalActions(int(space.n))
    return GaussianActions(space.shape[0], initial_std)
