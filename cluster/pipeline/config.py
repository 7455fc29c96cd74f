"""A pipeline file: named stages in order, each with its entry point and its configuration.

```yaml
name: quickstart
stages:
  collect: {entry: trainables.collect, config: {gaits: {trot_forward: 8}}}
  imitate: {entry: trainables.imitate}
```
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from cluster.config import Config, load_config, parse_config
from cluster.errors import ConfigError
from cluster.stage import load_stage

__all__ = ["PipelineConfig", "ResolvedPipeline", "ResolvedStage", "StageConfig", "load_pipeline"]


def _file_name(value: str) -> str:
    if not value or not value.replace("_", "").replace("-", "").isalnum():
        raise ValueError("use letters, digits, - and _ only: it names the run folder")
    return value


class StageConfig(Config):
    """One stage of a pipeline."""

    entry: str = Field(description="stage module, such as trainables.collect")
    config: dict[str, Any] = Field(default_factory=dict, description="the stage's own configuration")


class PipelineConfig(Config):
    """A whole pipeline."""

    name: Annotated[str, AfterValidator(_file_name)] = Field(description="names the run folder and the MLflow experiment")
    stages: dict[str, StageConfig] = Field(min_length=1, description="stages by name, run in this order")


@dataclass(frozen=True)
class ResolvedStage:
    """A stage whose module is imported and whose configuration is validated."""

    name: str
    entry: str
    module: ModuleType
    config: Config


@dataclass(frozen=True)
class ResolvedPipeline:
    """A pipeline that can run: every configuration in it has been checked."""

    name: str
    source: str
    stages: tuple[ResolvedStage, ...]

    def as_mapping(self) -> dict[str, Any]:
        """The resolved configuration with every default filled in; loading it again gives an equal pipeline."""
        stages = {stage.name: {"entry": stage.entry, "config": stage.config.model_dump(mode="json")} for stage in self.stages}
        return {"name": self.name, "stages": stages}


def load_pipeline(path: Path, overrides: Sequence[str] = ()) -> ResolvedPipeline:
    """Read and check a pipeline file and every stage in it, before anything starts. Raises ``ConfigError``."""
    pipeline = load_config(path, PipelineConfig, overrides)
    stages = []
    for name, stage in pipeline.stages.items():
        try:
            module = load_stage(stage.entry)
        except ModuleNotFoundError as error:
            raise ConfigError(f"{path}: stages.{name}.entry: there is no stage module {stage.entry!r} ({error})") from None
        config = parse_config(stage.config, module.Config, source=f"{path}: stages.{name}.config")
        stages.append(ResolvedStage(name=name, entry=stage.entry, module=module, config=config))
    return ResolvedPipeline(name=pipeline.name, source=str(path), stages=tuple(stages))
