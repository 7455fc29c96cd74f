"""One PPO run from its configuration to checkpoints: what a Tune trial and a plain script both drive.

run = PPORun(PPOConfig(task="pidog_run"))
figures = run.evaluate()            # the starting policy, before any training
while run.env_steps < run.config.total_env_steps:
    figures = run.advance()         # trains to the next report and evaluates
    run.save(folder / "checkpoint")
run.close()
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    ENV_RUNNER_SAMPLING_TIMER,
    LEARNER_RESULTS,
    LEARNER_UPDATE_TIMER,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    TIMERS,
)

from cluster.errors import GaitwayError
from trainables.ppo.algorithm import build_algorithm, load_warm_start
from trainables.ppo.config import PPOConfig
from trainables.ppo.evaluate import evaluate_policy

__all__ = ["PPORun"]

_LEARNER_FIGURES = {
    "policy_loss": "policy_loss",
    "vf_loss": "value_loss",
    "entropy": "entropy",
    "mean_kl_loss": "kl",
    "clip_fraction": "clip_fraction",
    "action_std": "action_std",
    "default_optimizer_learning_rate": "learning_rate",
}


class PPORun:
    """An algorithm with its counters. Figures are flat: ``evaluation/<metric>``, ``train/<metric>``, ``learner/<figure>``."""

    def __init__(self, config: PPOConfig) -> None:
        self.config = config
        self.algorithm = build_algorithm(config)

    @property
    def env_steps(self) -> int:
        """Environment steps trained on so far, over restarts."""
        return int(self.algorithm.metrics.peek((ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME), default=0))

    @torch.no_grad()
    def warm_start_error(self) -> float:
        """Largest difference between the actions of the warm-start policy and of the module that samples, over 256 observations.

        The observations are spread over the policy's own statistics, three standard deviations to each side. 0 without a warm start.
        """
        if self.config.warm_start is None:
            return 0.0
        source = load_warm_start(self.config.warm_start, self.config.task)
        normalizer = source.normalizer
        spread = torch.randn(256, source.observation_size, generator=torch.Generator().manual_seed(0)).clamp(-3, 3)
        observations = normalizer.mean + spread * normalizer.var.sqrt()
        sampled = self.algorithm.env_runner.module.forward_inference({"obs": observations})["actions"]
        return float((source(observations) - sampled).abs().max())

    def evaluate(self) -> dict[str, float]:
        """Deterministic episodes of the policy as it is now."""
        return {f"evaluation/{name}": value for name, value in evaluate_policy(self.algorithm.policy(), self.config).items()}

    def advance(self) -> dict[str, float]:
        """Train to the next report, or to the end of the budget, then evaluate. Raises ``GaitwayError`` when a figure is not finite."""
        started_steps, started_s = self.env_steps, time.perf_counter()
        goal = min(started_steps + self.config.report_every_env_steps, self.config.total_env_steps)
        result: dict[str, Any] = {}
        while self.env_steps < goal:
            result = self.algorithm.train()
        trained_s = time.perf_counter() - started_s
        learner = result.get(LEARNER_RESULTS, {}).get(DEFAULT_MODULE_ID, {})
        figures = {f"learner/{name}": float(learner[key]) for key, name in _LEARNER_FIGURES.items() if key in learner}
        broken = [name for name, value in figures.items() if not math.isfinite(value)]
        if broken:
            raise GaitwayError(f"training diverged at {self.env_steps} env steps: {', '.join(broken)} not finite; lower the learning rate")
        episodes = result.get(ENV_RUNNER_RESULTS, {}).get("episode", {})
        # A metric that no episode has reported yet is NaN there.
        figures |= {f"train/{name}": float(value) for name, value in episodes.items() if math.isfinite(value)}
        timers = result.get(TIMERS, {})
        iteration_steps = self.config.batch_steps_per_env * self.config.num_envs * max(1, self.config.num_env_runners)
        for timer, name in ((ENV_RUNNER_SAMPLING_TIMER, "sampling"), (LEARNER_UPDATE_TIMER, "learning")):
            if timers.get(timer):
                figures[f"{name}_env_steps_per_s"] = iteration_steps / float(timers[timer])
        figures["env_steps_per_s"] = (self.env_steps - started_steps) / max(trained_s, 1e-9)
        return figures | self.evaluate()

    def save(self, folder: Path) -> None:
        """Write a checkpoint: RLlib's, and ``policy/`` inside it."""
        folder.mkdir(parents=True, exist_ok=True)
        self.algorithm.save_checkpoint(str(folder))

    def restore(self, folder: Path) -> None:
        """Continue from a checkpoint: weights, statistics, optimizer and counters."""
        self.algorithm.load_checkpoint(str(folder.resolve()))

    def close(self) -> None:
        """Stop env runners and environments."""
        self.algorithm.stop()
