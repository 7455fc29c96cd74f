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
from trainables.datasets.recording import play
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
    controller = TorchController(policy)
    controller.reset(rollout.num_robots)
    random = np.random.default_rng([rollout.seed, 2])

    def act(observation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        expert = task.action_scaling.to_normalised(task.expert_targets_rad())
        drives = random.random((rollout.num_robots, 1)) < rollout.beta
        return expert, np.where(drives, expert, controller.act(observation))

    try:
        return play(task, rollout.key, rollout.gait, rollout.steps, act)
    finally:
        task.close()
