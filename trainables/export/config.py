"""Configuration of the export stage."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from cluster.config import Config
from cluster.contract import Name
from trainables.networks.sources import check_sources

__all__ = ["ExportConfig", "VerificationConfig"]


class VerificationConfig(Config):
    """How a bundle is checked and measured before it is sealed."""

    observations: int = Field(1000, ge=1, description="observations of real rollouts on which torch and ONNX Runtime must agree")
    tolerance_rad: float = Field(1e-5, gt=0, description="largest difference allowed, rad")
    physics: Literal["fast", "medium", "production"] = Field("production", description="physics of the rollouts")
    seed: int = Field(3_000_017, ge=0, description="of the rollouts")
    latency_batches: tuple[int, ...] = Field((1, 8, 64), min_length=1, description="batch sizes whose latency is measured")
    latency_calls: int = Field(1000, ge=10, description="timed calls of each batch size")


class ExportConfig(Config):
    """Checkpoints into bundles that are served and registered."""

    policies: dict[str, Path | None] = Field(
        {"imitation": None, "rl": None},
        min_length=1,
        description="name -> checkpoint folder; None: what this pipeline made. The last one goes to final_model/",
    )
    policy_name: Name = Field("pidog-run", description="policy family under which the bundles are registered and served")
    verification: VerificationConfig = Field(default_factory=VerificationConfig, description="parity and latency")

    @model_validator(mode="after")
    def _sources(self) -> ExportConfig:
        check_sources(self.policies)
        return self
