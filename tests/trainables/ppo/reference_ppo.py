"""PPO as a textbook has it, in plain PyTorch: per-parameter Adam, ``clip_grad_norm_``, autograd, loops. An oracle for the learner."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Independent, Normal

from trainables.ppo.config import PPOConfig
from trainables.ppo.fragment import Fragment
from trainables.ppo.module import ActorCritic


class ReferencePPO:
    """Holds its own copies of the networks of ``module`` and trains them."""

    def __init__(self, module: ActorCritic, settings: PPOConfig) -> None:
        self.settings = settings
        self.actor, self.critic = self._plain(module.actor.network), self._plain(module.critic)
        self.discrete = not hasattr(module.distribution, "log_std")
        self.log_std = None if self.discrete else nn.Parameter(module.distribution.log_std.detach().clone())
        self.mean, self.std = module.actor.normalizer.mean.clone(), torch.sqrt(module.actor.normalizer.var + 1e-8)
        self.parameters = [*self.actor.parameters(), *self.critic.parameters(), *([] if self.discrete else [self.log_std])]
        self.optimizer = torch.optim.Adam(self.parameters, lr=settings.learning_rate, eps=1e-5)
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.seen: list[Tensor] = []

    @staticmethod
    def _plain(network: nn.Sequential) -> nn.Sequential:
        other = copy.deepcopy(network)
        for parameter in other.parameters():  # not views of the learner's one tensor any more
            parameter.data, parameter.grad = parameter.data.clone(), None
        return other

    def distribution(self, observations: Tensor) -> Independent | Categorical:
        out = self.actor(observations)
        return Categorical(logits=out) if self.discrete else Independent(Normal(out, self.log_std.exp()), 1)

    def learn(self, fragment: Fragment, learning_rate: float) -> None:
        settings = self.settings
        valid = torch.from_numpy(fragment.valid)
        raw = torch.from_numpy(fragment.observations)
        observations = ((raw - self.mean) / self.std).clamp(-10, 10)
        with torch.no_grad():
            values = self.critic(observations).squeeze(-1)
        advantages = self._advantages(fragment, values)
        targets = advantages + values[:-1]
        rows = {
            "observations": observations[:-1][valid],
            "actions": torch.from_numpy(fragment.actions)[valid],
            "log_probs": torch.from_numpy(fragment.log_probs)[valid],
            "advantages": (advantages[valid] - advantages[valid].mean()) / advantages[valid].std(correction=0),
            "targets": targets[valid],
            "values": values[:-1][valid],
        }
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        count = int(valid.sum())
        for _ in range(settings.num_epochs):
            order = torch.randperm(count, generator=self.generator)
            for indices in order.tensor_split(math.ceil(count / settings.minibatch_size)):
                self._step({name: column[indices] for name, column in rows.items()})
        self.seen.append(raw[:-1][valid])
        everything = torch.cat(self.seen).double()
        self.mean, self.std = everything.mean(0).float(), torch.sqrt(everything.var(0, correction=0) + 1e-8).float()

    def _advantages(self, fragment: Fragment, values: Tensor) -> Tensor:
        settings, advantages = self.settings, torch.zeros(fragment.valid.shape)
        for env in range(fragment.valid.shape[1]):
            following = 0.0
            for step in reversed(range(fragment.valid.shape[0])):
                if fragment.terminated[step, env] or fragment.truncated[step, env]:
                    following = 0.0
                rest = 0.0 if fragment.terminated[step, env] else settings.gamma * float(values[step + 1, env])
                following = (
                    float(fragment.rewards[step, env]) + rest - float(values[step, env]) + settings.gamma * settings.gae_lambda * following
                )
                advantages[step, env] = following
        return advantages

    def _step(self, rows: dict[str, Tensor]) -> None:
        settings = self.settings
        distribution = self.distribution(rows["observations"])
        ratio = torch.exp(distribution.log_prob(rows["actions"]) - rows["log_probs"])
        clipped = torch.clamp(ratio, 1 - settings.clip, 1 + settings.clip)
        policy_loss = -torch.min(ratio * rows["advantages"], clipped * rows["advantages"]).mean()
        value = self.critic(rows["observations"]).squeeze(-1)
        error = (value - rows["targets"]) ** 2
        if settings.value_clip is not None:
            limited = rows["values"] + torch.clamp(value - rows["values"], -settings.value_clip, settings.value_clip)
            error = torch.max(error, (limited - rows["targets"]) ** 2)
        loss = policy_loss + settings.value_coefficient * 0.5 * error.mean() - settings.entropy_coefficient * distribution.entropy().mean()
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, settings.max_gradient_norm)
        self.optimizer.step()
