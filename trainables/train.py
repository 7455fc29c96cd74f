"""Train one policy with PPO: ``python -m trainables.train configs/train/pidog.yaml``.

A sweep of one trial: the same checkpoints, records and resumption after a crash, nothing searched and nobody stopped early.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from cluster.stage import StageContext, stage_main
from trainables import sweep
from trainables.ppo.config import PPOConfig
from trainables.sweeps.config import Bound, SweepConfig

__all__ = ["Config", "run"]


class Config(PPOConfig):
    """One PPO run, and by which figure its checkpoints are ranked."""

    metric: str = Field("evaluation/return", description="reported figure that ranks checkpoints")
    mode: Literal["max", "min"] = Field("max", description="whether more of the metric is better")
    constraints: dict[str, Bound] = Field(default_factory=dict, description="figures that a good checkpoint must keep within bounds")


def run(config: Config, context: StageContext) -> dict[str, Any]:
    """Train under ``<run>/rl_model/``; the result is that of ``trainables.sweep``."""
    ppo = PPOConfig(**{name: getattr(config, name) for name in PPOConfig.model_fields})
    single = SweepConfig(
        ppo=ppo, metric=config.metric, mode=config.mode, constraints=config.constraints, num_trials=1, scheduler=None, search_space={}
    )
    return sweep.run(single, context)


if __name__ == "__main__":
    stage_main("trainables.train")
