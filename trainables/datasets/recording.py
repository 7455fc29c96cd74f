"""Recording of experts: gaits and motions played on batched physics, what the task observes and what the expert wants at each step.

The functions here run inside Ray tasks; each call simulates a handful of robots, one episode each, and needs no Ray itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cluster.contract import component_names
from cluster.lerobot.episodes import Episode
from cluster.lerobot.features import Feature
from trainables.envs.registry import make_robot_task
from trainables.envs.robot_task import RobotTask
from trainables.motions.motion import Motion

__all__ = ["Recording", "play", "record", "reference_command", "task_features"]


@dataclass(frozen=True)
class Recording:
    """One batch to record: ``num_robots`` episodes of one gait or motion."""

    key: str
    """Prefix of the episodes' keys."""
    name: str
    """Gait or motion; becomes the episodes' task string."""
    num_robots: int
    steps: int
    """Control steps of an episode that nothing ends early."""
    seed: int
    task: str
    task_config: Mapping[str, Any]
    """Of the task, its command excepted."""
    motion: Motion | None = None
    """The clip to play; None: ``name`` is a built-in gait."""
    target_noise_rad: float = 0.0


def reference_command(motion: Motion) -> dict[str, float]:
    """The command under which a policy is told to follow ``motion``: its phase clock, its mean root speed, standing."""
    return {
        "frequency_hz": 1.0 / motion.duration_s,
        "forward_velocity_m_s": motion.forward_velocity_m_s,
        "posture": 1.0,
    }


def task_features(task: RobotTask) -> tuple[Feature, ...]:
    """LeRobot features of a task's observation and action, named component by component."""
    return (
        Feature("observation.state", "float32", (task.observation_size,), component_names(task.observation_fields)),
        Feature("action", "float32", (task.action_size,), component_names(task.action_fields)),
        Feature("next.reward", "float32", (1,)),
        Feature("next.done", "bool", (1,)),
    )


def record(recording: Recording) -> list[Episode]:
    """Simulate one batch.

    Each step keeps the observation and the expert's joint targets for it (rad); the robots are sent the targets plus noise, so
    that the data also hold states beside the expert's own path, with what the expert would do there. A robot that falls ends
    its episode early.
    """
    motion = recording.motion
    if motion is None:
        command: dict[str, Any] = {"gaits": {recording.name: 1.0}}
    else:
        command = {"gaits": {}, "references": {recording.name: reference_command(motion)}}
    config = {**recording.task_config, "command": command, "max_episode_steps": recording.steps}
    task = make_robot_task(recording.task, recording.num_robots, config, recording.seed, reward_terms_in_info=False)
    random = np.random.default_rng([recording.seed, 1])

    def act(observation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        wanted = _expert_targets_rad(task, motion)
        # What a policy of this task can send: within the range that its actions cover.
        normalised = task.action_scaling.to_normalised(wanted)
        return normalised, normalised + random.normal(0.0, recording.target_noise_rad, wanted.shape) / task.action_scaling.scale

    try:
        return play(task, recording.key, recording.name, recording.steps, act)
    finally:
        task.close()


def play(task: RobotTask, key: str, name: str, steps: int, act: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]) -> list[Episode]:
    """One episode of every robot of ``task``: what it observed and what the expert wanted there.

    Args:
        task: is reset first.
        key: prefix of the episodes' keys.
        name: the episodes' task string.
        steps: control steps of an episode that nothing ends early.
        act: of the observation, shape (num_robots, observation_size), the expert's action, which is kept, and the one that is sent;
            both normalised, shape (num_robots, action_size).
    """
    num_robots = task.num_envs
    shape = (steps, num_robots)
    observations = np.zeros((*shape, task.observation_size), np.float32)
    actions = np.zeros((*shape, task.action_size), np.float32)
    rewards = np.zeros(shape, np.float32)
    lengths = np.full(num_robots, steps)
    running = np.ones(num_robots, dtype=bool)
    observation, _ = task.reset()
    for step in range(steps):
        wanted, sent = act(observation)
        observations[step] = observation
        actions[step] = task.action_scaling.to_physical(wanted)
        observation, rewards[step], terminated, truncated, _ = task.step(sent)
        ended = running & (terminated | truncated)
        lengths[ended] = step + 1
        running &= ~ended
        if not running.any():
            break
    return [
        Episode(
            f"{key}-{robot:04d}",
            name,
            {
                "observation.state": observations[:length, robot],
                "action": actions[:length, robot],
                "next.reward": rewards[:length, robot],
                "next.done": np.arange(length) == length - 1,
            },
        )
        for robot, length in enumerate(lengths)
    ]


def _expert_targets_rad(task: Any, motion: Motion | None) -> np.ndarray:
    """What the expert sends now. Shape (num_robots, num_joints)."""
    if motion is None:
        return task.expert_targets_rad()
    return motion.sample(task.commands.phase * motion.duration_s)[0]
