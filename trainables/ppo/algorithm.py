"""RLlib's PPO with our pieces: built from one ``PPOConfig``, warm-started, and readable without RLlib from every checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import torch
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.ppo import PPO
from ray.rllib.algorithms.ppo import PPOConfig as RLlibPPOConfig
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.core import COMPONENT_LEARNER, COMPONENT_RL_MODULE, DEFAULT_MODULE_ID
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.tune.registry import register_env

from cluster.errors import UsageError
from trainables.networks.checkpoint import load_policy, save_policy
from trainables.networks.policies import MlpPolicy
from trainables.ppo.config import PPOConfig
from trainables.ppo.connectors import ActionsToNumpy, StackObservations
from trainables.ppo.learner import PPOLearner
from trainables.ppo.module import ActorCritic
from trainables.ppo.tasks import find_collector, rllib_environment

__all__ = ["POLICY_FOLDER", "GaitwayPPO", "GaitwayPPOConfig", "build_algorithm", "load_warm_start"]

POLICY_FOLDER = "policy"
"""Folder inside a checkpoint that ``trainables.networks.checkpoint.load_policy`` reads."""
_ENVIRONMENT = "gaitway-task"


class EpisodeMetrics(RLlibCallback):
    """Logs what the task measured in each finished episode, once per fragment."""

    def on_sample_end(self, *, env_runner: Any, metrics_logger: Any, samples: list[Any], **kwargs: Any) -> None:
        """Means over the episodes that ended in this fragment, under ``env_runners/episode/<name>``."""
        for name, values in find_collector(env_runner.env).drain().items():
            for value in values:
                metrics_logger.log_value(("episode", name), float(value), reduce="mean", window=100)


class GaitwayPPOConfig(RLlibPPOConfig):
    """RLlib's PPO configuration that carries ours as ``settings``."""

    def __init__(self, algo_class: type[Algorithm] | None = None) -> None:
        super().__init__(algo_class=algo_class or GaitwayPPO)
        self.settings = PPOConfig()


class GaitwayPPO(PPO):
    """PPO that starts from a policy checkpoint and leaves one in every checkpoint of its own."""

    config: GaitwayPPOConfig

    @classmethod
    def get_default_config(cls) -> GaitwayPPOConfig:
        """RLlib asks for it by this name."""
        return GaitwayPPOConfig()

    def setup(self, config: GaitwayPPOConfig) -> None:
        """Build everything, then put the warm start into the learner and all env runners."""
        super().setup(config)
        settings = self.config.settings
        if settings.warm_start is not None:
            policy = load_warm_start(settings.warm_start, settings.task)
            state = self._module_state()
            state |= {f"actor.{name}": tensor.numpy() for name, tensor in policy.state_dict().items()}
            self.learner_group.set_state({COMPONENT_LEARNER: {COMPONENT_RL_MODULE: {DEFAULT_MODULE_ID: state}}})
            self._force_weights()

    def load_checkpoint(self, checkpoint_dir: str) -> None:
        """Restore everything, also in env runners that sampled with other weights before."""
        super().load_checkpoint(checkpoint_dir)
        self._force_weights()

    def _force_weights(self) -> None:
        """Give every env runner the learner's weights.

        RLlib's own synchronisation skips runners whose weights carry the same sequence number, whatever they are.
        """
        state = {COMPONENT_RL_MODULE: self._module_state()}
        self.env_runner_group.foreach_env_runner(lambda runner: runner.set_state(state))

    def _module_state(self) -> dict[str, Any]:
        component = f"{COMPONENT_LEARNER}/{COMPONENT_RL_MODULE}"
        return self.learner_group.get_state(components=component)[COMPONENT_LEARNER][COMPONENT_RL_MODULE][DEFAULT_MODULE_ID]

    def policy(self) -> MlpPolicy:
        """A copy of the actor as the learner has it now, with its statistics; in eval mode."""
        prefix, state = "actor.", self._module_state()
        model, observation_space, action_space = self.config.model_config, *self.env_runner_group.get_spaces()[DEFAULT_MODULE_ID]
        policy = MlpPolicy(observation_space.shape[0], action_space.shape[0], model["hidden"], model["activation"])
        # RLlib hands scalars such as the row count over as plain numbers.
        policy.load_state_dict(
            {name.removeprefix(prefix): torch.as_tensor(value) for name, value in state.items() if name.startswith(prefix)}
        )
        return policy.eval()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """RLlib's checkpoint, and beside it the policy folder that evaluation and export read."""
        super().save_checkpoint(checkpoint_dir)
        settings = self.config.settings
        metadata = {
            "task": settings.task,
            "task_config": settings.model_dump(mode="json")["task_config"],
            "source": "ppo",
            "warm_start": str(settings.warm_start) if settings.warm_start else None,
            "iteration": self.iteration,
        }
        save_policy(self.policy(), Path(checkpoint_dir) / POLICY_FOLDER, metadata)


def load_warm_start(folder: Path, task: str) -> MlpPolicy:
    """Read the policy that the actor starts from. Raises ``UsageError`` when it is recurrent or of another task."""
    policy, metadata = load_policy(folder)
    if not isinstance(policy, MlpPolicy):
        raise UsageError(f"warm_start {folder}: PPO continues from an mlp policy, this is {policy.kind}")
    if metadata.get("task") != task:
        raise UsageError(f"warm_start {folder}: it was trained on the task {metadata.get('task')!r}, this run is on {task!r}")
    return policy


def build_algorithm(settings: PPOConfig) -> GaitwayPPO:
    """An algorithm ready to train. ``num_env_runners`` 0 keeps sampling and learning in this process."""
    torch.set_num_threads(settings.torch_threads)
    hidden, activation = settings.hidden, settings.activation
    if settings.warm_start is not None:
        architecture = load_warm_start(settings.warm_start, settings.task).architecture()
        hidden, activation = architecture["hidden"], architecture["activation"]
    learning_rate: Any = settings.learning_rate
    if settings.final_learning_rate is not None:
        learning_rate = [[0, settings.learning_rate], [settings.total_env_steps, settings.final_learning_rate]]
    register_env(_ENVIRONMENT, rllib_environment)
    # RLlib registers its environment under this one name for every algorithm of a process, and Gymnasium warns about the second.
    gymnasium.registry.pop("rllib-single-agent-env-v0", None)
    config = (
        GaitwayPPOConfig()
        .environment(
            _ENVIRONMENT,
            env_config={"task": settings.task, "task_config": settings.model_dump(mode="json")["task_config"], "seed": settings.seed},
            normalize_actions=False,  # the task clips to [-1, 1] and scales
            clip_actions=False,
            disable_env_checking=True,
        )
        .env_runners(
            num_env_runners=settings.num_env_runners,
            num_envs_per_env_runner=settings.num_envs,
            gym_env_vectorize_mode=gymnasium.VectorizeMode.VECTOR_ENTRY_POINT,
            rollout_fragment_length=settings.batch_steps_per_env,
            batch_mode="truncate_episodes",
            env_to_module_connector=lambda env, spaces, device: StackObservations(),
            module_to_env_connector=lambda env, spaces: ActionsToNumpy(),
            add_default_connectors_to_env_to_module_pipeline=False,
            add_default_connectors_to_module_to_env_pipeline=False,
            num_cpus_per_env_runner=1,
        )
        .learners(num_learners=0, num_gpus_per_learner=0, add_default_connectors_to_learner_pipeline=False)
        .training(
            learner_class=PPOLearner,
            lr=learning_rate,
            gamma=settings.gamma,
            lambda_=settings.gae_lambda,
            train_batch_size_per_learner=settings.batch_steps_per_env * settings.num_envs * max(1, settings.num_env_runners),
            minibatch_size=settings.minibatch_size,
            num_epochs=settings.num_epochs,
            clip_param=settings.clip,
            entropy_coeff=settings.entropy_coefficient,
            use_kl_loss=settings.kl_coefficient > 0,
            kl_coeff=settings.kl_coefficient,
            kl_target=settings.kl_target,
            grad_clip=settings.max_gradient_norm,
            grad_clip_by="global_norm",
        )
        .rl_module(
            rl_module_spec=RLModuleSpec(module_class=ActorCritic),
            model_config={
                "hidden": list(hidden),
                "activation": activation,
                "critic_hidden": list(settings.critic_hidden),
                "critic_activation": settings.activation,
                "initial_action_std": settings.initial_action_std,
            },
        )
        .callbacks(EpisodeMetrics)
        .debugging(seed=settings.seed, log_level="ERROR")
        .reporting(min_time_s_per_iteration=0, metrics_num_episodes_for_smoothing=max(1, settings.num_envs))
    )
    config.settings = settings
    return config.build_algo()
