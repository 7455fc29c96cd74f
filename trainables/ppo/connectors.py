"""Three connector pieces in place of RLlib's default pipelines: whole batches at a time, no per-row Python.

RLlib's own pieces cost more than the physics of 64 robots (NormalizeAndClipActions and the per-item batching above all).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.evaluation.postprocessing import Postprocessing

from trainables.ppo.advantages import generalized_advantages

__all__ = ["ActionsToNumpy", "EpisodesToTrainBatch", "StackObservations"]


class StackObservations(ConnectorV2):
    """Env to module: the vector environment's observations as one tensor (num_envs, observation_size)."""

    def __call__(self, *, batch: dict[str, Any], obs: list[np.ndarray], **kwargs: Any) -> dict[str, Any]:
        """``obs`` is what the env runner hands over beside the episodes: one row per environment."""
        return {Columns.OBS: torch.from_numpy(np.stack(obs))}


class ActionsToNumpy(ConnectorV2):
    """Module to env: the sampled actions and their log probabilities as arrays."""

    def __call__(self, *, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Every column is a tensor with one row per environment."""
        return {column: tensor.numpy() for column, tensor in batch.items()}


class EpisodesToTrainBatch(ConnectorV2):
    """Learner: episode fragments to one shuffled batch of rows with advantages and value targets.

    Columns: obs, actions, action_logp, advantages (standardised over the batch), value_targets and vf_preds (reward units), and
    old_action_mean and old_action_log_std, from which an exact KL divergence is computed. Rows are real steps only; nothing is
    padded or masked.
    """

    def __init__(self, gamma: float, gae_lambda: float, generator: torch.Generator) -> None:
        super().__init__()
        self.gamma, self.gae_lambda = gamma, gae_lambda
        self._generator = generator
        self.observations: torch.Tensor | None = None
        """Observations of the last batch, for the statistics that are merged after its updates. Shape (rows, observation_size)."""

    @torch.no_grad()
    def __call__(self, *, rl_module: Any, episodes: list[Any], **kwargs: Any) -> dict[str, Any]:
        """``episodes`` are numpy fragments: L steps and L + 1 observations each."""
        module = rl_module[DEFAULT_MODULE_ID].unwrapped()
        fragments = [episode for episode in episodes if len(episode) > 0]
        lengths = np.array([len(episode) for episode in fragments])
        all_observations = torch.from_numpy(np.concatenate([episode.get_observations() for episode in fragments]))
        all_values = module.compute_values({Columns.OBS: all_observations})
        rewards = np.concatenate([episode.get_rewards() for episode in fragments])
        terminated = np.array([episode.is_terminated for episode in fragments])
        advantages = torch.from_numpy(generalized_advantages(rewards, all_values.numpy(), terminated, lengths, self.gamma, self.gae_lambda))
        # Each fragment's last observation only bootstraps: it is not a step.
        is_step = np.ones(len(all_observations), dtype=bool)
        is_step[np.cumsum(lengths + 1) - 1] = False
        observations, values = all_observations[is_step], all_values[is_step]
        self.observations = observations
        value_targets = values + advantages
        module.update_value_statistics(value_targets)
        columns = {
            Columns.OBS: observations,
            Columns.ACTIONS: torch.from_numpy(np.concatenate([episode.get_actions() for episode in fragments])),
            Columns.ACTION_LOGP: torch.from_numpy(
                np.concatenate([episode.get_extra_model_outputs(Columns.ACTION_LOGP) for episode in fragments])
            ),
            "old_action_mean": module.actor(observations),
            "old_action_log_std": module.log_std.expand(len(observations), -1),
            Postprocessing.ADVANTAGES: (advantages - advantages.mean()) / (advantages.std(correction=0) + 1e-8),
            Postprocessing.VALUE_TARGETS: value_targets,
            Columns.VF_PREDS: values,
        }
        # RLlib shuffles only between epochs; neighbouring rows of one episode must not share the first epoch's minibatches.
        order = torch.randperm(len(observations), generator=self._generator)
        return {DEFAULT_MODULE_ID: {column: tensor[order] for column, tensor in columns.items()}}
