"""The network that the env runners sample from and the learner trains: our own actor and critic with their statistics as buffers.

The actor is a ``trainables.networks`` policy, normaliser included, so an imitation policy loads into it and a trained one is saved
from it without conversion. All statistics are buffers: they travel with the weights to every env runner, into every checkpoint and
through a population-based clone.
"""

from __future__ import annotations

from typing import Any

import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis import InferenceOnlyAPI, ValueFunctionAPI
from ray.rllib.core.rl_module.torch import TorchRLModule
from torch import Tensor

from trainables.networks.normalizer import RunningNormalizer
from trainables.networks.policies import LstmPolicy, build_policy, mlp
from trainables.ppo.batch import Rows
from trainables.ppo.distributions import make_distribution
from trainables.ppo.value_scale import ValueScale

__all__ = ["ActorCritic", "actor_architecture"]

State = dict[str, Tensor]


def actor_architecture(model_config: dict[str, Any], observation_size: int, action_inputs: int) -> dict[str, Any]:
    """What ``build_policy`` needs to make this run's actor; ``action_inputs`` is the size of the distribution's input."""
    actor = {**model_config["actor"], "observation_size": observation_size, "action_size": action_inputs}
    if actor["kind"] == LstmPolicy.kind:
        actor["input_indices"] = list(range(observation_size))
    return actor


class ActorCritic(TorchRLModule, ValueFunctionAPI, InferenceOnlyAPI):
    """An actor over a state-independent deviation (or logits), and a separate critic on the same normalised observation.

    ``model_config``: actor (architecture without sizes), critic_hidden, critic_activation, initial_action_std.
    """

    def setup(self) -> None:
        """Build the networks for flat observations."""
        observation_size = self.observation_space.shape[0]
        self.distribution = make_distribution(self.action_space, self.model_config["initial_action_std"])
        self.actor = build_policy(actor_architecture(self.model_config, observation_size, self.distribution.input_size))
        self.critic = mlp([self._critic_inputs(), *self.model_config["critic_hidden"], 1], self.model_config["critic_activation"])
        self.value_scale = ValueScale()
        self.reward_scale = RunningNormalizer(1)

    def _critic_inputs(self) -> int:
        return self.observation_space.shape[0]

    def get_non_inference_attributes(self) -> list[str]:
        """What an env runner does not need."""
        return ["critic", "value_scale", "reward_scale"]

    # Sampling ------------------------------------------------------------------------------------------------------------

    def initial_state(self, num_envs: int) -> State:
        """Recurrent state at the start of an episode; empty for a stateless actor. Shapes (num_envs, ...)."""
        return self.actor.initial_state(num_envs)

    def act(self, observations: Tensor, state: State, starts: Tensor) -> tuple[Tensor, State]:
        """Input of the distribution for each environment, and the next state.

        Args:
            observations: raw. Shape (N, observation_size).
            state: see ``initial_state``; empty here.
            starts: where an episode begins and the state is forgotten. Shape (N,), bool.
        """
        return self.actor(observations), {}

    # Learning ------------------------------------------------------------------------------------------------------------

    def fragment_values(self, observations: Tensor, states: State, starts: Tensor) -> Tensor:
        """The critic's value of every observation, in its own units. Shape (T + 1, N).

        Args:
            observations: normalised. Shape (T + 1, N, observation_size).
            states: recurrent states before the steps 0, L, 2L, ..; empty here. Shapes (T / L, N, ...).
            starts: which are the first of an episode. Shape (T + 1, N), bool.
        """
        return self.critic(observations).squeeze(-1)

    def evaluate_rows(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Distribution inputs and values (critic's units) of a minibatch. Shapes (rows, input_size), (rows,)."""
        return self.actor.network(rows.observations), self.critic(rows.observations).squeeze(-1)

    # RLlib's side --------------------------------------------------------------------------------------------------------

    def _step(self, batch: dict[str, Any]) -> tuple[Tensor, State]:
        """One step from the state given, or from an empty one."""
        observations = batch[Columns.OBS]
        return self.actor.step(observations, batch.get(Columns.STATE_IN) or self.initial_state(len(observations)))

    def _forward_inference(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        with torch.no_grad():
            inputs, state = self._step(batch)
            return {Columns.ACTIONS: self.distribution.mode(inputs), **_state_out(state)}

    def _forward_exploration(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        with torch.no_grad():
            inputs, state = self._step(batch)
            actions = self.distribution.sample(inputs, self.distribution.draw_noise(tuple(inputs.shape[:-1])))
            return {Columns.ACTIONS: actions, Columns.ACTION_LOGP: self.distribution.log_prob(inputs, actions), **_state_out(state)}

    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return {Columns.ACTION_DIST_INPUTS: self._step(batch)[0], Columns.VF_PREDS: self.compute_values(batch)}

    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> Tensor:
        """Expected return of each observation, in reward units (scaled ones where rewards are scaled). (rows, size) -> (rows,)."""
        return self.value_scale.to_returns(self.critic(self.actor.normalizer(batch[Columns.OBS])).squeeze(-1))


def _state_out(state: State) -> dict[str, State]:
    """RLlib's column for the next state; its connectors cannot unpack an empty one."""
    return {Columns.STATE_OUT: state} if state else {}
