"""The learner: PPO on whole tensors, one or many processes; no connectors, no per-row Python.

One update: scale the rewards, advantages over [T, N], then ``num_epochs`` passes over one shuffled tensor. The statistics of the
observations are merged only after the updates: during them the log probabilities must be those that the batch was sampled with.

With several learners each holds some of the environments and takes its share of every minibatch; gradients, statistics and
advantage moments are summed over all of them (gloo or NCCL), so the result is that of one learner with all the rows.
"""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import torch
from ray.rllib.core import COMPONENT_OPTIMIZER, DEFAULT_MODULE_ID
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from torch import Tensor, distributed

from trainables.nonfinite import NonFiniteError
from trainables.ppo.advantages import generalized_advantages
from trainables.ppo.batch import FragmentTensors, TrainBatch
from trainables.ppo.flat import flatten_parameters
from trainables.ppo.fragment import Fragment
from trainables.ppo.micro_batch import MicroBatches
from trainables.ppo.module import ActorCritic
from trainables.ppo.moments import all_moments, all_sum
from trainables.ppo.schedules import adapted_learning_rate, linear
from trainables.ppo.steps import AutogradStep, DirectStep, LossWeights

__all__ = ["PPOLearner"]

Weights = dict[str, np.ndarray]
_SHUFFLE, _LEARNING_RATE = "shuffle_generator", "configured_learning_rate"
"""Keys of our own in the learner's state."""


class PPOLearner(TorchLearner):
    """RLlib's learner with our update; ``config.settings`` is a ``trainables.ppo.PPOConfig``.

    Attributes:
        actor_critic: the network.
    """

    def build(self) -> None:
        """Build network and optimizer; all learners start from the first one's weights."""
        super().build()
        settings = self.config.settings
        self._shared = self.distributed
        self._generator = torch.Generator().manual_seed(settings.seed)
        self._micro_batches = MicroBatches(settings.micro_batch_size)
        self._weights = LossWeights(settings)
        self._step = self._make_step()
        self._last_finite: dict[str, float] = {}
        if self._shared:
            for tensor in (self._flat.data, *self.actor_critic.buffers()):
                distributed.broadcast(tensor, src=0)

    @property
    def actor_critic(self) -> ActorCritic:
        """The network, without RLlib's wrappers."""
        return self.module[DEFAULT_MODULE_ID].unwrapped()

    def _make_modules_ddp_if_necessary(self) -> None:
        """Nothing: gradients lie in one tensor, and one all-reduce of it is all that torch's wrapper would do."""

    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        """Adam over one tensor, with the epsilon of the original PPO (1e-5); torch's default is 1e-8."""
        self._flat = flatten_parameters(list(self._module[module_id].parameters()))
        optimizer = torch.optim.Adam([self._flat], lr=config.settings.learning_rate, eps=1e-5, fused=True)
        self.register_optimizer(module_id=module_id, optimizer=optimizer, params=[self._flat])

    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        """RLlib's state; with the optimizer also what a restored run needs to shuffle, and to step, as this one would."""
        state: dict[str, Any] = super().get_state(components, not_components=not_components, **kwargs)
        if COMPONENT_OPTIMIZER in state:
            state[_SHUFFLE] = self._generator.get_state().numpy().tobytes()
            state[_LEARNING_RATE] = self.config.settings.learning_rate
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        """See ``get_state``. An adapted step size goes on; under a configuration with another ``learning_rate`` it starts from that one.

        The latter is a population-based clone: its explored learning rate holds from the first update on.
        """
        super().set_state(state)
        if _SHUFFLE in state:
            self._generator.set_state(torch.frombuffer(bytearray(state[_SHUFFLE]), dtype=torch.uint8))
        configured = self.config.settings.learning_rate
        if state.get(_LEARNING_RATE, configured) != configured:
            self.get_optimizer(DEFAULT_MODULE_ID).param_groups[0]["lr"] = configured

    def compute_loss_for_module(self, **kwargs: Any) -> Tensor:
        """RLlib's hook; this learner has one loop of its own."""
        raise TypeError("this learner takes fragments, not RLlib's batches: call learn()")

    def learn(self, fragment: Fragment, env_steps: int) -> tuple[dict[str, Any], Weights | None]:
        """One PPO update.

        Args:
            fragment: this learner's share of the batch.
            env_steps: environment steps of the whole run, this batch included.

        Returns:
            RLlib metrics, and from the first learner the new weights of the env runners.

        Raises:
            NonFiniteError: before a loss or gradient that is not finite could change anything.
        """
        started_s = time.perf_counter()
        settings, module = self.config.settings, self.actor_critic
        optimizer = self.get_optimizer(DEFAULT_MODULE_ID)
        if not settings.adaptive_learning_rate:
            done = (env_steps - settings.batch_size) / settings.total_env_steps
            optimizer.param_groups[0]["lr"] = linear(settings.learning_rate, settings.final_learning_rate, done)
        self._weights.entropy = linear(
            settings.entropy_coefficient, settings.final_entropy_coefficient, env_steps / settings.total_env_steps
        )
        # The count includes the batch at hand, so the first K batches are those with a count up to K batches.
        self._weights.actor = float(env_steps > settings.critic_warmup_env_steps)
        observations = torch.tensor(fragment.observations, device=self._device)
        with torch.no_grad():
            tensors = FragmentTensors.from_fragment(fragment, module.actor.normalizer(observations), self._scaled_rewards(fragment))
        figures: dict[str, float] = {}
        for epoch in range(settings.num_epochs):
            if epoch == 0 or settings.recompute_advantages:
                batch = self._batch(tensors)
            figures = self._epoch(batch, optimizer, with_figures=epoch == settings.num_epochs - 1)
        if settings.adaptive_learning_rate and self._weights.actor:
            rate = optimizer.param_groups[0]["lr"]
            optimizer.param_groups[0]["lr"] = adapted_learning_rate(rate, figures["kl"], settings.kl_target)
        if settings.normalize_observations and settings.update_normalizer:
            module.actor.normalizer.merge(*all_moments(observations[:-1][tensors.valid], self._shared))
        self._weights_seq_no += 1
        figures |= {"learning_rate": optimizer.param_groups[0]["lr"], "entropy_coefficient": self._weights.entropy}
        figures |= {**module.distribution.figures(), "learning_s": time.perf_counter() - started_s}
        if self._micro_batches.limit:
            figures["micro_batch_size"] = self._micro_batches.limit
        for name, value in figures.items():
            self.metrics.log_value((DEFAULT_MODULE_ID, name), value, window=1)
        first = not self._shared or distributed.get_rank() == 0
        return self.metrics.reduce(), self.sampling_weights() if first else None

    def sampling_weights(self) -> Weights:
        """What an env runner needs to act: a copy of the actor and its distribution."""
        state = self.actor_critic.state_dict()
        return {name: state[name].cpu().numpy().copy() for name in state if name.startswith(("actor.", "distribution."))}

    @torch.no_grad()
    def _scaled_rewards(self, fragment: Fragment) -> Tensor:
        settings, scale = self.config.settings, self.actor_critic.reward_scale
        rewards = torch.tensor(fragment.rewards, device=self._device)
        if settings.return_scaling != "rewards":
            return rewards
        returns = torch.tensor(fragment.discounted_returns[fragment.valid], device=self._device)
        scale.merge(*self._finite_moments("a discounted return", returns.unsqueeze(-1)))
        return torch.clamp(rewards * torch.rsqrt(scale.var + scale.eps), -settings.reward_clip, settings.reward_clip)

    def _finite_moments(self, what: str, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``all_moments`` for statistics that are kept: refused here, a NaN would stay in them."""
        count, mean, variance = all_moments(rows, self._shared)
        if not torch.isfinite(mean + variance).all():
            raise NonFiniteError(what, None, 0, self._last_finite)
        return count, mean, variance

    @torch.no_grad()
    def _batch(self, tensors: FragmentTensors) -> TrainBatch:
        settings, module = self.config.settings, self.actor_critic
        length = settings.sequence_length if settings.network == "lstm" else 0
        returns = module.value_scale.to_returns(self._values(tensors))
        advantages = generalized_advantages(
            tensors.rewards, returns, tensors.terminated, tensors.ended, settings.gamma, settings.gae_lambda
        )
        targets = returns[:-1] + advantages
        if settings.return_scaling == "popart":
            moments = self._finite_moments("a value target", targets[tensors.valid])
            module.value_scale.update(*moments, module.critic[-1])
        _, mean, variance = all_moments(advantages[tensors.valid], self._shared)
        advantages = (advantages - mean.to(advantages.dtype)) / (variance.sqrt().to(advantages.dtype) + 1e-8)
        scale = module.value_scale
        return TrainBatch(tensors, advantages, scale.to_values(targets), scale.to_values(returns[:-1]), length)

    def _values(self, tensors: FragmentTensors) -> Tensor:
        """The critic's values, some environments at a time where memory is short. Shape (T + 1, N)."""
        observations, parts = tensors.normalized_observations, []
        piece = [array.transpose(0, 1) for array in (observations, tensors.starts, *tensors.states.values())]

        def run(part: list[Tensor]) -> None:
            observations, starts, *states = (array.transpose(0, 1) for array in part)
            parts.append(self.actor_critic.fragment_values(observations, dict(zip(tensors.states, states, strict=True)), starts))

        self._micro_batches.accumulate(piece, len(observations), parts.clear, run)
        return torch.cat(parts, dim=1)

    def _epoch(self, batch: TrainBatch, optimizer: torch.optim.Optimizer, with_figures: bool) -> dict[str, float]:
        """One pass over the batch; the means of the loss terms when they are asked for."""
        settings, gradient = self.config.settings, self._flat.grad
        pieces = batch.cut(settings.minibatch_size, self._generator, self._shared)
        steps = all_sum(torch.tensor([float(batch.steps_of(piece)) for piece in pieces], device=self._device), self._shared).tolist()
        sums = torch.zeros(5, device=self._device)
        for index, piece in enumerate(pieces):
            done = sums.clone()

            def begin(done: Tensor = done) -> None:
                gradient.zero_()
                sums.copy_(done)

            def run(part: list[Tensor], of: float = steps[index]) -> None:
                figures = self._step(batch.rows(part), of, with_figures)
                if figures is not None:
                    sums.add_(figures)

            self._micro_batches.accumulate(piece, batch.steps_per_item, begin, run)
            norm = float(all_sum(gradient, self._shared).norm())
            if not math.isfinite(norm):
                raise NonFiniteError("the loss or its gradient", None, index, self._last_finite)
            self._last_finite["gradient_norm"] = norm
            if norm > settings.max_gradient_norm:
                gradient.mul_(settings.max_gradient_norm / norm)
            optimizer.step()
        if not with_figures:
            return {}
        names = ("policy_loss", "value_loss", "entropy", "kl", "clip_fraction")
        means = (all_sum(sums, self._shared) / sum(steps)).tolist()
        self._last_finite |= dict(zip(names, means, strict=True))
        return dict(self._last_finite)

    def _make_step(self) -> AutogradStep | DirectStep:
        settings, module = self.config.settings, self.actor_critic
        plain = settings.precision == "float32" and not settings.compile
        if settings.network == "mlp" and plain and self._device.type == "cpu":
            return DirectStep(module, self._weights)
        return AutogradStep(module, self._weights, torch.bfloat16 if settings.precision == "bfloat16" else None, settings.compile)
