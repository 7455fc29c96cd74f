"""Train one policy with PPO: ``python -m trainables.train configs/train/pidog.yaml --json``.

A sweep of one trial: the same checkpoints, records and resumption after a crash, nothing searched and nobody stopped early.
"""

from __future__ import annotations

import time
from typing import Any, Literal

from pydantic import Field

from cluster.stage import StageContext, stage_main
from trainables import sweep
from trainables.ppo.config import PPOConfig
from trainables.sweeps.config import Bound, SweepConfig

__all__ = ["Config", "run"]

_RATES = ("env_steps_per_s", "sampling_env_steps_per_s", "learning_env_steps_per_s")


class Config(PPOConfig):
    """One PPO run, and by which figure its checkpoints are ranked."""

    metric: str = Field("evaluation/return", description="reported figure that ranks checkpoints")
    mode: Literal["max", "min"] = Field("max", description="whether more of the metric is better")
    constraints: dict[str, Bound] = Field(default_factory=dict, description="figures that a good checkpoint must keep within bounds")


def run(config: Config, context: StageContext) -> dict[str, Any]:
    """Train under ``<run>/rl_model/``.

    Returns:
        The result of ``trainables.sweep``, and: env_steps (trained, not those of the best checkpoint), env_steps_per_s,
        sampling_env_steps_per_s and learning_env_steps_per_s (medians over the iterations after the first),
        episode_return_mean (last 100 training episodes; null before the first ended), wall_s (this call).
    """
    started_s = time.perf_counter()
    ppo = PPOConfig(**{name: getattr(config, name) for name in PPOConfig.model_fields})
    single = SweepConfig(
        ppo=ppo,
        metric=config.metric,
        mode=config.mode,
        constraints=config.constraints,
        num_trials=1,
        scheduler=None,
        search_space={},
    )
    result, outcome = sweep.run_with_outcome(single, context)
    last = outcome.best.trial.last_figures
    return {
        **result,
        "checkpoint_env_steps": result["env_steps"],
        "env_steps": outcome.best.trial.progress,
        **{name: last.get(name) for name in _RATES},
        "episode_return_mean": last.get("train/return"),
        "wall_s": round(time.perf_counter() - started_s, 3),
    }


if __name__ == "__main__":
    stage_main("trainables.train")
