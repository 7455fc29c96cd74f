"""A trainable of somebody's own, swept like PPO and imitation."""

from __future__ import annotations

import importlib
from typing import Any

from pydantic import Field, field_validator

from cluster.config import Config
from cluster.errors import ConfigError

__all__ = ["CustomConfig", "load_trainable"]


class CustomConfig(Config):
    """A class that ``trainables.sweeps.trial.SweepTrial`` is the base of, and its parameters."""

    trainable: str = Field(description="package.module:Class, importable on every node")
    parameters: dict[str, Any] = Field(default_factory=dict, description="what the class is given; the search space names keys of it")
    budget: int = Field(100, ge=1, description="progress after which a trial has finished")
    unit: str = Field("steps", description="what progress counts")
    seed: int = Field(0, ge=0, description="handed to the class")

    @field_validator("trainable")
    @classmethod
    def _importable(cls, value: str) -> str:
        module, separator, name = value.partition(":")
        if not (separator and module and name.isidentifier()):
            raise ValueError(f"{value!r} is not package.module:Class")
        return value


def load_trainable(path: str) -> type:
    """Import the class. Raises ``ConfigError`` when it is not there."""
    module, _, name = path.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"custom.trainable {path}: {error}") from None
