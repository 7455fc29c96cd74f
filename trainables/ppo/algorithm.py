"""RLlib's PPO with our pieces: built from one ``PPOConfig``, warm-started, and readable without RLlib from every checkpoint."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import ray
import torch
from ray.exceptions import RayTaskError
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.ppo import PPO
from ray.rllib.algorithms.ppo import PPOConfig as RLlibPPOConfig
from ray.rllib.core import COMPONENT_LEARNER, COMPONENT_RL_MODULE, DEFAULT_MODULE_ID
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    ENV_RUNNER_SAMPLING_TIMER,
    LEARNER_RESULTS,
    LEARNER_UPDATE_TIMER,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    TIMERS,
)

from cluster.errors import UsageError
from trainables.envs.vector import trained_task_config
from trainables.networks.checkpoint import load_policy, save_policy
from trainables.networks.policies import LstmPolicy, MlpPolicy, Policy, build_policy
from trainables.ppo.config import PPOConfig
from trainables.ppo.distributions import make_distribution
from trainables.ppo.env_runner import BatchedEnvRunner
from trainables.ppo.fragment import Fragment
from trainables.ppo.learner import PPOLearner
from trainables.ppo.module import ActorCritic, actor_architecture
from trainables.ppo.recurrent import RecurrentActorCritic
from trainables.ppo.sampling import FragmentSource

__all__ = ["POLICY_FOLDER", "GaitwayPPO", "GaitwayPPOConfig", "build_algorithm", "load_warm_start", "rllib_config"]

POLICY_FOLDER = "policy"
"""Folder inside a checkpoint that ``trainables.networks.checkpoint.load_policy`` reads."""


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
        """Build everything, then put the warm start into the learners."""
        super().setup(config)
        settings = self.config.settings
        self._source = FragmentSource(self.env_runner_group, self.config.sample_timeout_s)
        if settings.warm_start is not None:
            policy = load_warm_start(settings)
            state = self._module_state()
            state |= {f"actor.{name}": tensor.numpy() for name, tensor in policy.state_dict().items()}
            self.learner_group.set_state({COMPONENT_LEARNER: {COMPONENT_RL_MODULE: {DEFAULT_MODULE_ID: state}}})
        self._weights = self._sampling_weights()

    def training_step(self) -> None:
        """One batch: sampled now, or while the last one was learned from (``overlap``)."""
        overlap = self.config.settings.overlap
        with self.metrics.log_time((TIMERS, ENV_RUNNER_SAMPLING_TIMER)):
            fragment, runner_metrics = self._source.collect(self._weights, self._env_steps())
            self.metrics.aggregate(runner_metrics, key=ENV_RUNNER_RESULTS)
            if overlap:
                self._source.ask(self._weights, self._env_steps())
        with self.metrics.log_time((TIMERS, LEARNER_UPDATE_TIMER)):
            answers = self._learn(fragment, self._env_steps())
            self.metrics.aggregate([metrics for metrics, _ in answers], key=LEARNER_RESULTS)
            self._weights = next(weights for _, weights in answers if weights is not None)

    def _learn(self, fragment: Fragment, env_steps: int) -> list[tuple[dict[str, Any], dict[str, Any] | None]]:
        group = self.learner_group
        if group.is_local:
            return [group._learner.learn(fragment, env_steps)]
        requests = [learner.learn.remote(part, env_steps) for learner, part in zip(group._workers, fragment.split(len(group)), strict=True)]
        try:
            return ray.get(requests)
        except RayTaskError as error:
            raise error.cause from None

    def load_checkpoint(self, checkpoint_dir: str) -> None:
        """Restore everything; what is being sampled belongs to other weights and is dropped."""
        super().load_checkpoint(checkpoint_dir)
        self._source.forget()
        self._weights = self._sampling_weights()
        self.env_runner_group.foreach_env_runner(functools.partial(BatchedEnvRunner.begin_anew, env_steps=self._env_steps()))

    def _env_steps(self) -> int:
        """Environment steps sampled so far, over restarts."""
        return int(self.metrics.peek((ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME), default=0))

    def _sampling_weights(self) -> dict[str, Any]:
        return next(iter(self.learner_group.foreach_learner(lambda learner: learner.sampling_weights()))).get()

    def _module_state(self) -> dict[str, Any]:
        component = f"{COMPONENT_LEARNER}/{COMPONENT_RL_MODULE}"
        return self.learner_group.get_state(components=component)[COMPONENT_LEARNER][COMPONENT_RL_MODULE][DEFAULT_MODULE_ID]

    def policy(self) -> Policy:
        """A copy of the actor as the learner has it now, with its statistics; in eval mode."""
        prefix = "actor."
        observation_space, action_space = self.spaces[DEFAULT_MODULE_ID]
        inputs = make_distribution(action_space, 1.0).input_size
        policy = build_policy(actor_architecture(self.config.model_config, observation_space.shape[0], inputs))
        weights = {name.removeprefix(prefix): value for name, value in self._weights.items() if name.startswith(prefix)}
        policy.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in weights.items()})
        return policy.eval()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """RLlib's checkpoint, and beside it the policy folder that evaluation and export read."""
        super().save_checkpoint(checkpoint_dir)
        settings = self.config.settings
        metadata = {
            "task": settings.task,
            "task_config": trained_task_config(settings.task, settings.model_dump(mode="json")["task_config"]),
            "source": "ppo",
            "warm_start": str(settings.warm_start) if settings.warm_start else None,
            "iteration": self.iteration,
        }
        save_policy(self.policy(), Path(checkpoint_dir) / POLICY_FOLDER, metadata)


def load_warm_start(settings: PPOConfig) -> Policy:
    """Read the policy that the actor starts from. Raises ``UsageError`` when it is of another kind, or of another task."""
    folder = settings.warm_start
    policy, metadata = load_policy(folder)
    if metadata.get("task") != settings.task:
        raise UsageError(f"warm_start {folder}: it was trained on the task {metadata.get('task')!r}, this run is on {settings.task!r}")
    kind = {"mlp": MlpPolicy, "lstm": LstmPolicy}[settings.network].kind
    if policy.kind != kind:
        raise UsageError(f"warm_start {folder}: network {settings.network} continues from a policy of kind {kind}, this is {policy.kind}")
    if isinstance(policy, LstmPolicy) and policy.input_indices != tuple(range(policy.observation_size)):
        raise UsageError(
            f"warm_start {folder}: network lstm reads all {policy.observation_size} observations, this {policy.kind} only "
            f"{len(policy.input_indices)} of them; start from an mlp, or without a warm start"
        )
    return policy


def build_algorithm(settings: PPOConfig) -> GaitwayPPO:
    """An algorithm ready to train. ``num_env_runners`` 0 and ``num_learners`` 0 keep everything in this process."""
    torch.set_num_threads(settings.torch_threads)
    return rllib_config(settings).build_algo()


def rllib_config(settings: PPOConfig) -> GaitwayPPOConfig:
    """Our settings as RLlib's; algorithm, learners and env runners are built from it."""
    config = (
        GaitwayPPOConfig()
        .environment("gaitway", disable_env_checking=True)  # only a name: the env runner makes its own
        .env_runners(
            env_runner_cls=BatchedEnvRunner,
            num_env_runners=settings.num_env_runners,
            num_envs_per_env_runner=settings.num_envs,
            rollout_fragment_length=settings.batch_steps_per_env,
            batch_mode="truncate_episodes",
            num_cpus_per_env_runner=1,
            sample_timeout_s=600.0,
        )
        .fault_tolerance(restart_failed_env_runners=True, delay_between_env_runner_restarts_s=1.0)
        .learners(
            learner_class=PPOLearner,
            num_learners=settings.num_learners,
            num_gpus_per_learner=settings.gpus_per_learner,
            num_cpus_per_learner=1,
        )
        .training(
            train_batch_size_per_learner=settings.batch_steps_per_env * settings.num_envs * max(1, settings.num_env_runners),
            minibatch_size=settings.minibatch_size,
            num_epochs=settings.num_epochs,
            lr=settings.learning_rate,
            gamma=settings.gamma,
        )
        .rl_module(
            rl_module_spec=RLModuleSpec(module_class=module_class(settings)),
            model_config={
                "actor": _actor(settings),
                "critic_hidden": list(settings.critic_hidden),
                "critic_activation": settings.activation,
                "initial_action_std": settings.initial_action_std,
            },
        )
        .debugging(seed=settings.seed, log_level="ERROR")
        .reporting(min_time_s_per_iteration=0)
    )
    config.settings = settings
    return config


def _actor(settings: PPOConfig) -> dict[str, Any]:
    """The actor's architecture without its sizes, which the task decides."""
    if settings.warm_start is not None:
        architecture = load_warm_start(settings).architecture()
        return {name: value for name, value in architecture.items() if name not in ("observation_size", "action_size")}
    if settings.network == "lstm":
        return {"kind": LstmPolicy.kind, "hidden_size": settings.lstm_size, "head_size": settings.lstm_size}
    return {"kind": MlpPolicy.kind, "hidden": list(settings.hidden), "activation": settings.activation}


def module_class(settings: PPOConfig) -> type[ActorCritic]:
    """The network's class."""
    return RecurrentActorCritic if settings.network == "lstm" else ActorCritic
