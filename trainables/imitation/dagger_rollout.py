"""One batch of DAgger's driving: the policy, or now and then the expert, moves the robots; what the expert would do is kept.

The functions here run inside Ray tasks; each call simulates a handful of robots, one episode each, and needs no Ray itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from cluster.lerobot.episodes import Episode
from trainables.envs.registry import make_robot_task
from trainables.evaluation.controllers import TorchController
from trainables.networks.policies import build_policy

__all__ = ["Rollout", "roll_out"]


@dataclass(frozen=True)
class Rollout:
    """One batch: ``num_robots`` episodes of one gait."""

    key: str
    """Prefix of the episodes' keys."""
    gait: str
    num_robots: int
    steps: int
    """Control steps of an episode that nothing ends early."""
    seed: int
    task: str
    task_config: Mapping[str, Any]
    """Of the task, its command excepted."""
    beta: float
    """Probability, at every step of every robot, that the expert drives."""


def roll_out(rollout: Rollout, architecture: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> list[Episode]:
    """Simulate one batch.

    Args:
        rollout: what to play.
        architecture: of the policy that drives.
        weights: its parameters and buffers.

    Returns:
        Episodes of what was observed and what the expert would have sent there (rad). A robot that falls ends its episode early.
    """
    torch.set_num_threads(1)
    policy = build_policy(dict(architecture))
    policy.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in weights.items()})
    config = {**rollout.task_config, "command": {"gaits": {rollout.gait: 1.0}}, "max_episode_steps": rollout.steps}
    task: Any = make_robot_task(rollout.task, rollout.num_robots, config, rollout.seed, reward_terms_in_info=False)
    try:
        return _play(task, TorchController(policy), rollout)
    finally:
        task.close()


def _play(task: Any, controller: TorchController, rollout: Rollout) -> list[Episode]:
    random = np.random.default_rng([rollout.seed, 2])
    shape = (rollout.steps, rollout.num_robots)
    observations = np.zeros((*shape, task.observation_size), np.float32)
    actions = np.zeros((*shape, task.action_size), np.float32)
    rewards = np.zeros(shape, np.float32)
    lengths = np.full(rollout.num_robots, rollout.steps)
    running = np.ones(rollout.num_robots, dtype=bool)
    observation, _ = task.reset()
    controller.reset(rollout.num_robots)
    for step in range(rollout.steps):
        expert = task.action_scaling.to_normalised(task.expert_targets_rad())
        observations[step] = observation
        actions[step] = task.action_scaling.to_physical(expert)
        drives = random.random((rollout.num_robots, 1)) < rollout.beta
        observation, rewards[step], terminated, truncated, _ = task.step(np.where(drives, expert, controller.act(observation)))
        ended = running & (terminated | truncated)
        lengths[ended] = step + 1
        running &= ~ended
        if not running.any():
            break
    return [
        Episode(
            f"{rollout.key}-{robot:04d}",
            rollout.gait,
            {
                "observation.state": observations[:length, robot],
                "action": actions[:length, robot],
                "next.reward": rewards[:length, robot],
                "next.done": np.arange(length) == length - 1,
            },
        )
        for robot, length in enumerate(lengths)
    ]
