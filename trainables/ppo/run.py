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
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS, LEARNER_RESULTS, NUM_ENV_STEPS_SAMPLED, NUM_ENV_STEPS_SAMPLED_LIFETIME, SAMPLE_TIMER

from trainables.ppo.algorithm import build_algorithm, load_warm_start
from trainables.ppo.config import PPOConfig
from trainables.ppo.evaluate import evaluate_policy
from trainables.ppo.usage import ResourceUsage

__all__ = ["PPORun"]


class PPORun:
    """An algorithm with its counters.

    Figures are flat: ``evaluation/<metric>``, ``train/<metric>``, ``learner/<figure>``, ``usage/<figure>`` and the rates.
    """

    def __init__(self, config: PPOConfig) -> None:
        self.config = config
        self.algorithm = build_algorithm(config)
        self._usage = ResourceUsage()
        self._rates: dict[str, list[float]] = {}

    @property
    def env_steps(self) -> int:
        """Environment steps trained on so far, over restarts."""
        return int(self.algorithm.metrics.peek((ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME), default=0))

    @torch.no_grad()
    def warm_start_error(self) -> float:
        """Largest difference between the actions of the warm-start policy and of the network to be trained, over 256 observations.

        The observations are spread over the policy's own statistics, three standard deviations to each side. 0 without a warm start.
        """
        if self.config.warm_start is None:
            return 0.0
        source = load_warm_start(self.config)
        normalizer = source.normalizer
        spread = torch.randn(256, source.observation_size, generator=torch.Generator().manual_seed(0)).clamp(-3, 3)
        observations = normalizer.mean + spread * normalizer.var.sqrt()
        state = source.initial_state(len(observations))
        return float((source.step(observations, state)[0] - self.algorithm.policy().step(observations, state)[0]).abs().max())

    def evaluate(self) -> dict[str, float]:
        """Deterministic episodes of the policy as it is now; nothing when evaluation is off."""
        if self.config.evaluation.episodes == 0:
            return {}
        return {f"evaluation/{name}": value for name, value in evaluate_policy(self.algorithm.policy(), self.config).items()}

    def advance(self) -> dict[str, float]:
        """Train to the next report, or to the end of the budget, then evaluate.

        The rates are medians over the iterations of this process after its first, which pays for every cold start; a report that
        holds only that one gives its rate.

        Raises:
            NonFiniteError: physics or loss gave a NaN or an infinity; nothing was trained on it.
        """
        goal = min(self.env_steps + self.config.report_every_env_steps, self.config.total_env_steps)
        result: dict[str, Any] = {}
        while self.env_steps < goal:
            started_s = time.perf_counter()
            result = self.algorithm.train()
            self._time(result, time.perf_counter() - started_s)
        figures = {f"learner/{name}": value for name, value in _finite(result.get(LEARNER_RESULTS, {}).get(DEFAULT_MODULE_ID, {})).items()}
        # A metric that no episode has reported yet is NaN there.
        figures |= {f"train/{name}": value for name, value in _finite(result.get(ENV_RUNNER_RESULTS, {}).get("episode", {})).items()}
        figures |= {name: statistics.median(rates[1:] or rates) for name, rates in self._rates.items()}
        figures |= {f"usage/{name}": value for name, value in self._usage.read().items()}
        return figures | self.evaluate()

    def _time(self, result: dict[str, Any], iteration_s: float) -> None:
        runners, learner = result[ENV_RUNNER_RESULTS], result[LEARNER_RESULTS][DEFAULT_MODULE_ID]
        steps = float(runners[NUM_ENV_STEPS_SAMPLED])
        times = {"env_steps_per_s": iteration_s, "sampling_env_steps_per_s": runners[SAMPLE_TIMER]}
        times["learning_env_steps_per_s"] = learner["learning_s"]
        for name, seconds in times.items():
            self._rates.setdefault(name, []).append(steps / float(seconds))

    def save(self, folder: Path) -> None:
        """Write a checkpoint: RLlib's, and ``policy/`` inside it."""
        folder.mkdir(parents=True, exist_ok=True)
        self.algorithm.save_checkpoint(str(folder))

    def restore(self, folder: Path) -> None:
        """Continue from a checkpoint: weights, statistics, optimizer and counters."""
        self.algorithm.load_checkpoint(str(folder.resolve()))

    def close(self) -> None:
        """Stop env runners, learners and environments."""
        self.algorithm.stop()


def _finite(figures: dict[str, Any]) -> dict[str, float]:
    numbers = {name: float(value) for name, value in figures.items() if not isinstance(value, dict)}
    return {name: value for name, value in numbers.items() if math.isfinite(value)}
