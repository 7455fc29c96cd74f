"""The learner: PPO's clipped loss on whole tensors, a critic warm-up, and the observation statistics merged after the updates."""

from __future__ import annotations

from typing import Any

import torch
from ray.rllib.algorithms.ppo.ppo import LEARNER_RESULTS_KL_KEY
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.learner import ENTROPY_KEY, POLICY_LOSS_KEY, VF_LOSS_KEY
from ray.rllib.evaluation.postprocessing import Postprocessing
from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED_LIFETIME
from torch import Tensor

from trainables.ppo.connectors import EpisodesToTrainBatch
from trainables.ppo.module import gaussian_entropy, gaussian_kl, gaussian_log_prob

__all__ = ["PPOLearner"]


class PPOLearner(PPOTorchLearner):
    """RLlib's PPO learner with our batch, our loss and our statistics; ``config.settings`` is a ``trainables.ppo.PPOConfig``."""

    def build(self) -> None:
        """Build, and make the learner pipeline one piece."""
        super().build()
        settings = self.config.settings
        self._generator = torch.Generator().manual_seed(settings.seed)
        self._train_batch = EpisodesToTrainBatch(settings.gamma, settings.gae_lambda, self._generator)
        self._learner_connector.append(self._train_batch)
        self._actor_moves = settings.critic_warmup_env_steps == 0

    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        """Adam with the epsilon of the original PPO (1e-5); RLlib's default is torch's 1e-8."""
        parameters = self.get_parameters(self._module[module_id])
        optimizer = torch.optim.Adam(parameters, eps=1e-5)
        self.register_optimizer(module_id=module_id, optimizer=optimizer, params=parameters, lr_or_lr_schedule=config.lr)

    def before_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        """Decide whether this batch may move the actor."""
        super().before_gradient_based_update(timesteps=timesteps)
        # The count includes the batch at hand, so the first K batches are those with a count up to K batches.
        self._actor_moves = timesteps.get(NUM_ENV_STEPS_SAMPLED_LIFETIME, 0) > self.config.settings.critic_warmup_env_steps

    def after_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        """Merge the batch's observations into the statistics.

        Only now: during the updates the log probabilities must be those that the batch was sampled with.
        """
        super().after_gradient_based_update(timesteps=timesteps)
        if self.config.settings.update_normalizer and self._train_batch.observations is not None:
            self.module[DEFAULT_MODULE_ID].unwrapped().actor.normalizer.update(self._train_batch.observations)
        self._train_batch.observations = None

    def compute_loss_for_module(self, *, module_id: str, config: Any, batch: dict[str, Any], fwd_out: dict[str, Any]) -> Tensor:
        """Clipped surrogate, value loss in standard deviations of the return, entropy bonus and an optional KL penalty."""
        module = self.module[module_id].unwrapped()
        settings = config.settings
        mean, log_std = fwd_out["action_mean"], fwd_out["action_log_std"]
        log_ratio = gaussian_log_prob(batch[Columns.ACTIONS], mean, log_std) - batch[Columns.ACTION_LOGP]
        ratio = torch.exp(log_ratio)
        advantages = batch[Postprocessing.ADVANTAGES]
        policy_loss = -torch.min(advantages * ratio, advantages * torch.clamp(ratio, 1 - settings.clip, 1 + settings.clip)).mean()

        value, target = fwd_out["normalized_value"], module.normalize_values(batch[Postprocessing.VALUE_TARGETS])
        squared_error = (value - target).square()
        if settings.value_clip is not None:
            old_value = module.normalize_values(batch[Columns.VF_PREDS])
            clipped = old_value + torch.clamp(value - old_value, -settings.value_clip, settings.value_clip)
            squared_error = torch.max(squared_error, (clipped - target).square())
        value_loss = 0.5 * squared_error.mean()

        entropy = gaussian_entropy(log_std)
        # Schulman's low-variance estimator of KL(old || new); http://joschu.net/blog/kl-approx.html
        kl = (ratio - 1 - log_ratio).mean()
        actor_loss = policy_loss - self.entropy_coeff_schedulers_per_module[module_id].get_current_value() * entropy
        if config.use_kl_loss:
            kl = gaussian_kl(batch["old_action_mean"], batch["old_action_log_std"], mean, log_std).mean()
            actor_loss = actor_loss + self.curr_kl_coeffs_per_module[module_id] * kl
        # A zero gradient leaves Adam's fresh moments at zero, so during the warm-up the actor does not move at all.
        loss = (actor_loss if self._actor_moves else 0.0 * actor_loss) + settings.value_coefficient * value_loss
        self.metrics.log_dict(
            {
                POLICY_LOSS_KEY: policy_loss.detach(),
                VF_LOSS_KEY: value_loss.detach(),
                ENTROPY_KEY: entropy.detach(),
                LEARNER_RESULTS_KL_KEY: kl.detach(),
                "clip_fraction": ((ratio - 1).abs() > settings.clip).float().mean(),
                "action_std": torch.exp(log_std.detach()).mean(),
            },
            key=module_id,
            window=1,
        )
        return loss
