"""Seeded episodes of one controller on batched physics.

Every robot of a batch plays one whole episode and its later ones are thrown away: taking the first N episodes to *finish* would
favour policies that fall. The same seed gives robot i the same start, command, dynamics and pushes whatever drives it, so
the episodes of two policies are pairs.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from trainables.envs.base import BatchedTask
from trainables.evaluation.controllers import Controller

__all__ = ["OnStep", "play_batch", "run_episodes"]

OnStep = Callable[[int], None]
"""Called after every control step with the number of robot steps that it took."""

Observer = Callable[[int, np.ndarray, np.ndarray], None]


def run_episodes(
    task: BatchedTask, controller: Controller, episodes: int, seed: int, on_step: OnStep | None = None
) -> dict[str, np.ndarray]:
    """Play ``episodes`` whole episodes in batches of ``task.num_envs``.

    Args:
        task: made with the same ``num_envs`` for every policy that is to be compared.
        controller: drives the robots.
        episodes: how many.
        seed: of starts, commands, dynamics, pushes and noise; batch k uses ``[seed, k]``.
        on_step: progress.

    Returns:
        The task's ``episode_metrics`` by name, one value an episode. Shape (episodes,) each.
    """
    batches = [play_batch(task, controller, [seed, batch], on_step) for batch in range(-(-episodes // task.num_envs))]
    return {name: np.concatenate([batch[name] for batch in batches])[:episodes] for name in batches[0]}


def play_batch(
    task: BatchedTask,
    controller: Controller,
    seed: int | list[int],
    on_step: OnStep | None = None,
    observer: Observer | None = None,
) -> dict[str, np.ndarray]:
    """One whole episode of every robot -> its metrics, shape (num_envs,) each.

    ``observer`` is shown (step, observations, normalised actions) before each step.
    """
    observations, _ = task.reset(seed=seed)
    controller.reset(task.num_envs)
    running = np.ones(task.num_envs, dtype=bool)
    collected: dict[str, np.ndarray] = {}
    step = 0
    while running.any():
        actions = controller.act(observations)
        if observer is not None:
            observer(step, observations, actions)
        observations, _, terminated, truncated, infos = task.step(actions)
        ended = terminated | truncated
        first = ended & running
        if first.any():
            for name, values in infos["episode_metrics"].items():
                collected.setdefault(name, np.full(task.num_envs, np.nan))[first] = values[first]
        if ended.any():
            controller.forget(ended)
        running &= ~ended
        step += 1
        if on_step is not None:
            on_step(task.num_envs)
    return collected
