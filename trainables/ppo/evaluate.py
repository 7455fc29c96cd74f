"""Deterministic episodes of a policy on its task: the score by which checkpoints are compared while training runs."""

from __future__ import annotations

import gymnasium
import numpy as np
import torch

from cluster.errors import UsageError
from trainables.envs.vector import make_vector_task
from trainables.networks.policies import Policy
from trainables.ppo.config import PPOConfig
from trainables.ppo.distributions import make_distribution

__all__ = ["evaluate_policy"]


@torch.no_grad()
def evaluate_policy(policy: Policy, config: PPOConfig) -> dict[str, float]:
    """Mean of each episode metric over ``config.evaluation.episodes`` episodes, one per environment, with the likeliest action.

    An episode that is still going after ``max_steps`` is left out. Raises ``UsageError`` when all are.
    """
    evaluation = config.evaluation
    task = make_vector_task(config.task, evaluation.episodes, evaluation.task_config or config.task_config, evaluation.seed)
    space: gymnasium.Space = task.single_action_space
    distribution = make_distribution(space, 1.0)
    observations, _ = task.reset(seed=evaluation.seed)
    waiting = np.ones(evaluation.episodes, dtype=bool)
    finished: dict[str, list[np.ndarray]] = {}
    state = policy.initial_state(evaluation.episodes)
    for _ in range(evaluation.max_steps):
        inputs, state = policy.step(torch.from_numpy(np.asarray(observations, dtype=np.float32)), state)
        observations, _, _, _, infos = task.step(distribution.mode(inputs).numpy())
        if "episode_metrics" in infos:
            # Only each environment's first episode: a second one would favour those that fall early.
            first = infos["_episode_metrics"] & waiting
            for name, values in infos["episode_metrics"].items():
                finished.setdefault(name, []).append(np.asarray(values, dtype=np.float64)[first])
            waiting &= ~first
        if not waiting.any():
            break
    task.close()
    if not finished:
        raise UsageError(f"no evaluation episode ended within evaluation.max_steps {evaluation.max_steps}; make it longer than an episode")
    return {name: float(np.concatenate(values).mean()) for name, values in finished.items()}
