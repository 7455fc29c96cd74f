"""The env runner: one policy call and one environment call a control step, straight into preallocated [time, environment] arrays.

``sample_fragment`` is what training uses. ``sample`` is RLlib's own interface on top of it: the same steps as
``SingleAgentEpisode``s, built once per fragment.
"""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
import ray
import torch
from ray.rllib.core import COMPONENT_RL_MODULE, DEFAULT_MODULE_ID
from ray.rllib.env import INPUT_ENV_SINGLE_SPACES, INPUT_ENV_SPACES
from ray.rllib.env.env_runner import EnvRunner
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.utils.checkpoints import Checkpointable
from ray.rllib.utils.metrics import (
    EPISODE_LEN_MEAN,
    EPISODE_RETURN_MAX,
    EPISODE_RETURN_MEAN,
    EPISODE_RETURN_MIN,
    NUM_ENV_STEPS_SAMPLED,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    NUM_EPISODES,
    NUM_EPISODES_LIFETIME,
    SAMPLE_TIMER,
    WEIGHTS_SEQ_NO,
)

from trainables.envs.vector import make_vector_task
from trainables.nonfinite import NonFiniteError
from trainables.ppo.episodes import EpisodeBuilder
from trainables.ppo.fragment import Fragment

__all__ = ["BatchedEnvRunner"]

_SEED_STRIDE = 10_007
"""Runners get seeds this far apart: a vector environment spreads its own seed over its copies."""
_RECENT_EPISODES = 100
"""Episodes behind the mean return and the task's own figures, over all runners."""


class BatchedEnvRunner(EnvRunner, Checkpointable):
    """``num_envs`` environments in lockstep; ``config.settings`` is a ``trainables.ppo.PPOConfig``.

    Attributes:
        env: the vector environment; None in a process that only keeps the module.
        module: the ``ActorCritic`` that acts, without its critic.
    """

    def __init__(self, *, config: Any, **kwargs: Any) -> None:
        super().__init__(config=config, **kwargs)
        settings = self.config.settings
        self.spaces: dict[str, Any] = kwargs.get("spaces") or {}
        self.num_envs = settings.num_envs
        self.module: Any = None
        self._weights_seq_no = 0
        self._generator = torch.Generator().manual_seed(settings.seed * _SEED_STRIDE + (self.worker_index or 0))
        self._recent: deque[dict[str, float]] = deque(maxlen=max(1, _RECENT_EPISODES // max(1, self.num_workers or 1)))
        self._finished = 0
        self._sampled = 0
        if not self.worker_index and settings.num_env_runners > 0:
            return  # the remote ones sample
        torch.set_num_threads(settings.torch_threads)
        self.make_env()
        self.make_module()
        if self.worker_index and ray.get_runtime_context().was_current_actor_reconstructed:
            self.begin_anew(secrets.randbits(62))  # in the place of one that died; how far the run is, it cannot know

    # Building ------------------------------------------------------------------------------------------------------------

    def make_env(self) -> None:
        """Make the environments and their arrays, reset them."""
        settings = self.config.settings
        if self.env is not None:
            self.env.close()
        seed = settings.seed * _SEED_STRIDE + 101 * (self.worker_index or 0)
        self.env = make_vector_task(settings.task, self.num_envs, settings.model_dump(mode="json")["task_config"], seed)
        self._begin_episodes(seed)

    def begin_anew(self, env_steps: int) -> None:
        """Go on, in a run restored at ``env_steps``, with other episodes and noise than a new run begins with.

        With the same ones, a trial that is often paused, as under population-based training, would train on the same few again and again.
        """
        if self.env is None:
            return
        seed = int(np.random.SeedSequence([self.config.settings.seed, self.worker_index or 0, env_steps]).generate_state(1)[0] >> 1)
        self._generator.manual_seed(seed)
        self._begin_episodes(seed)

    def _begin_episodes(self, seed: int) -> None:
        self._observations, _ = self.env.reset(seed=seed)
        self._episodes = EpisodeBuilder(self.num_envs, self.env.single_observation_space, self.env.single_action_space)
        self._resetting = np.zeros(self.num_envs, dtype=bool)
        self._starts = np.ones(self.num_envs, dtype=bool)
        self._discounted = np.zeros(self.num_envs, dtype=np.float32)
        self._episode_steps = np.zeros(self.num_envs, dtype=np.int64)
        self._state: dict[str, torch.Tensor] | None = None

    def make_module(self) -> None:
        """Make the network, with RLlib's own specification."""
        spec = self.config.get_rl_module_spec(spaces=self.get_spaces(), inference_only=True)
        self.module = spec.build()

    def get_spaces(self) -> dict[str, tuple[gymnasium.Space, gymnasium.Space]]:
        """See ``EnvRunner.get_spaces``."""
        if self.env is None:
            return self.spaces
        single = (self.env.single_observation_space, self.env.single_action_space)
        return {
            INPUT_ENV_SPACES: (self.env.observation_space, self.env.action_space),
            INPUT_ENV_SINGLE_SPACES: single,
            DEFAULT_MODULE_ID: single,
        }

    # Sampling ------------------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def sample_fragment(
        self, weights: Mapping[str, np.ndarray] | None = None, steps: int | None = None, explore: bool = True, env_steps: int | None = None
    ) -> tuple[Fragment, dict[str, Any]]:
        """``steps`` control steps of every environment (default: its part of a batch), and the metrics since the last call.

        Args:
            weights: what the learner's ``sampling_weights`` gave; None: as they are.
            steps: control steps.
            explore: False takes the most likely actions.
            env_steps: how far the whole run is, for tasks whose reward changes over training; None: as it was told last.

        Raises:
            NonFiniteError: as soon as an observation or a reward is not finite.
        """
        started_s = time.perf_counter()
        settings, module, env = self.config.settings, self.module, self.env
        if weights is not None:
            self.set_sampling_weights(weights)
        if env_steps is not None and hasattr(env, "set_env_steps"):
            env.set_env_steps(env_steps)
        steps = steps or settings.batch_steps_per_env
        shape = (steps, self.num_envs)
        distribution = module.distribution
        observations = np.empty((steps + 1, self.num_envs, *env.single_observation_space.shape), dtype=np.float32)
        inputs = torch.empty(*shape, distribution.input_size)
        noise = distribution.draw_noise(shape, self._generator) if explore else None
        actions: np.ndarray | None = None
        rewards, discounted = np.empty(shape, dtype=np.float32), np.empty(shape, dtype=np.float32)
        terminated, truncated, valid = (np.empty(shape, dtype=bool) for _ in range(3))
        starts = np.empty((steps + 1, self.num_envs), dtype=bool)
        states: dict[str, list[np.ndarray]] = {}
        if self._state is None:
            self._state = module.initial_state(self.num_envs)
        for step in range(steps):
            observations[step] = self._observations
            starts[step] = self._starts
            if self._state and step % settings.sequence_length == 0:
                for name, state in self._state.items():
                    states.setdefault(name, []).append(state.numpy().copy())
            inputs[step], self._state = module.act(torch.from_numpy(observations[step]), self._state, torch.from_numpy(starts[step]))
            chosen = distribution.mode(inputs[step]) if noise is None else distribution.sample(inputs[step], noise[step])
            action = chosen.numpy()
            if actions is None:
                actions = np.empty((steps, *action.shape), dtype=action.dtype)
            actions[step] = action
            self._observations, rewards[step], terminated[step], truncated[step], infos = env.step(action)
            self._check_finite(observations[step], action, rewards[step])
            ended = terminated[step] | truncated[step]
            np.logical_not(self._resetting, out=valid[step])
            self._episode_steps += 1
            self._episode_steps[self._resetting] = 0
            self._discounted *= settings.gamma
            self._discounted[self._resetting] = 0.0
            self._discounted += rewards[step]
            discounted[step] = self._discounted
            self._starts, self._resetting = self._resetting, ended
            if "episode_metrics" in infos:
                self._remember(infos["episode_metrics"], infos["_episode_metrics"])
        observations[steps], starts[steps] = self._observations, self._starts
        sampling_s = time.perf_counter() - started_s
        fragment = Fragment(
            observations=observations,
            actions=actions,
            log_probs=distribution.log_prob(inputs, torch.from_numpy(actions)).numpy(),
            rewards=rewards,
            terminated=terminated,
            truncated=truncated,
            valid=valid,
            discounted_returns=discounted,
            starts=starts,
            states={name: np.stack(parts) for name, parts in states.items()},
            sampling_s=sampling_s,
        )
        self._count(fragment)
        return fragment, self.get_metrics()

    def sample(
        self,
        *,
        num_timesteps: int | None = None,
        num_episodes: int | None = None,
        explore: bool = True,
        force_reset: bool = False,
        **_: Any,
    ) -> list[SingleAgentEpisode]:
        """RLlib's interface: at least ``num_timesteps`` steps, or ``num_episodes`` whole episodes from freshly reset environments."""
        if force_reset or num_episodes is not None:
            self.make_env()
        if num_episodes is None:
            steps = None if num_timesteps is None else -(-num_timesteps // self.num_envs)
            return self._episodes.build(self.sample_fragment(steps=steps, explore=explore)[0], self._weights_seq_no)
        done: list[SingleAgentEpisode] = []
        parts: dict[str, SingleAgentEpisode] = {}
        while len(done) < num_episodes:
            for part in self._episodes.build(self.sample_fragment(explore=explore)[0], self._weights_seq_no):
                earlier = parts.pop(part.id_, None)
                whole = part if earlier is None else earlier.concat_episode(part) or earlier
                (done.append if whole.is_done else lambda episode: parts.__setitem__(episode.id_, episode))(whole)
        return done[:num_episodes]

    def set_sampling_weights(self, weights: Mapping[str, np.ndarray]) -> None:
        """Copy the learner's weights in place."""
        own = self.module.state_dict()
        with torch.no_grad():
            for name, value in weights.items():
                own[name].copy_(torch.from_numpy(np.asarray(value)))

    def _check_finite(self, observations: np.ndarray, actions: np.ndarray, rewards: np.ndarray) -> None:
        if np.isfinite(self._observations).all() and np.isfinite(rewards).all():
            return
        rows = np.isfinite(self._observations).reshape(self.num_envs, -1).all(1) & np.isfinite(rewards)
        env = int(np.flatnonzero(~rows)[0])
        last = {"observation": observations[env].tolist(), "action": np.asarray(actions[env]).tolist()}
        step = 0 if self._resetting[env] else int(self._episode_steps[env]) + 1
        raise NonFiniteError("the observation or the reward", env, step, last)

    # Metrics -------------------------------------------------------------------------------------------------------------

    def _remember(self, metrics: Mapping[str, np.ndarray], ended: np.ndarray) -> None:
        for env in np.flatnonzero(ended):
            self._recent.append({name: float(values[env]) for name, values in metrics.items()})
        self._finished += int(ended.sum())

    def _count(self, fragment: Fragment) -> None:
        """Once per fragment, RLlib's names."""
        steps, metrics = fragment.env_steps, self.metrics
        self._sampled += steps
        self._log_env_steps(self._metrics_num_env_steps_sampled, steps)
        metrics.log_value(NUM_ENV_STEPS_SAMPLED, steps, reduce="sum")
        metrics.log_value(NUM_ENV_STEPS_SAMPLED_LIFETIME, steps, reduce="lifetime_sum", with_throughput=True)
        metrics.log_value(NUM_EPISODES, self._finished, reduce="sum")
        metrics.log_value(NUM_EPISODES_LIFETIME, self._finished, reduce="lifetime_sum")
        metrics.log_value(SAMPLE_TIMER, fragment.sampling_s, window=1)
        self._finished = 0
        if not self._recent:
            return
        for name in self._recent[-1]:
            metrics.log_value(("episode", name), float(np.mean([episode[name] for episode in self._recent])), window=1)
        returns = [episode["return"] for episode in self._recent]
        figures = {EPISODE_RETURN_MEAN: np.mean(returns), EPISODE_RETURN_MIN: np.min(returns), EPISODE_RETURN_MAX: np.max(returns)}
        figures[EPISODE_LEN_MEAN] = np.mean([episode["length"] for episode in self._recent])
        for name, value in figures.items():
            metrics.log_value(name, float(value), window=1)

    def get_metrics(self) -> dict[str, Any]:
        """See ``EnvRunner.get_metrics``."""
        return self.metrics.reduce()

    # RLlib's bookkeeping ---------------------------------------------------------------------------------------------------

    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        """Weights, where there is a module."""
        state: dict[str, Any] = {NUM_ENV_STEPS_SAMPLED_LIFETIME: self._sampled}
        if self.module is not None and self._check_component(COMPONENT_RL_MODULE, components, not_components):
            state[COMPONENT_RL_MODULE] = self.module.get_state(**kwargs)
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        """Take weights, which RLlib sends as they are or as a reference; everything else starts anew with the process."""
        weights = state.get(COMPONENT_RL_MODULE)
        if weights is None or self.module is None:
            return
        if isinstance(weights, ray.ObjectRef):
            weights = ray.get(weights)
        self.module.set_state(weights.get(DEFAULT_MODULE_ID, weights))
        self._weights_seq_no = state.get(WEIGHTS_SEQ_NO, self._weights_seq_no)

    def get_ctor_args_and_kwargs(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """See ``Checkpointable``."""
        return (), {"config": self.config}

    def get_checkpointable_components(self) -> list[tuple[str, Any]]:
        """None: a checkpoint's weights are the learner's."""
        return []

    def assert_healthy(self) -> None:
        """See ``EnvRunner.assert_healthy``."""
        assert self.module is not None or self.config.settings.num_env_runners > 0

    def stop(self) -> None:
        """Close the environments."""
        if self.env is not None:
            self.env.close()
