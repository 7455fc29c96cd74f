"""Configuration of the evaluation stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from cluster.config import Config
from trainables.networks.sources import check_sources

__all__ = ["EvaluationConfig"]


class EvaluationConfig(Config):
    """Seeded episodes of one or more policies, and how they compare."""

    policies: dict[str, Path | None] = Field(
        {"imitation": None, "rl": None},
        min_length=1,
        description="name -> checkpoint or bundle folder; None: what this pipeline made. Others are compared to the first",
    )
    episodes: int = Field(64, ge=2, description="episodes of each policy; the same seeds for all")
    num_envs: int | None = Field(None, ge=1, description="robots side by side; None: as many as episodes, at most 64")
    physics: Literal["fast", "medium", "production"] = Field("production", description="physics quality")
    num_threads: int | None = Field(None, ge=1, description="physics threads; None: one for each CPU")
    task_config: dict[str, Any] | None = Field(None, description="task settings; None: those that the last checkpoint was trained with")
    seed: int = Field(2_000_003, ge=0, description="of starts, commands, dynamics, pushes and noise")
    resamples: int = Field(4000, ge=100, description="bootstrap resamples")

    @model_validator(mode="after")
    def _sources(self) -> EvaluationConfig:
        check_sources(self.policies)
        return self
