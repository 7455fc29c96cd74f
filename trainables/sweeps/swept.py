"""What is swept: the configuration that all trials share, its unit of progress and its budget, and a trial's own version of it."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any

from cluster.config import Config, parse_config
from cluster.errors import ConfigError
from trainables.imitation.config import ImitationConfig
from trainables.ppo.config import PPOConfig
from trainables.sweeps.custom import CustomConfig

__all__ = ["Swept", "apply_sample", "sample_default"]


@dataclass(frozen=True)
class Swept:
    """One kind of training and its numbers."""

    kind: str
    """ppo | imitate | custom"""
    base: Config
    unit: str
    """What progress counts."""
    budget: int
    """Progress at which a trial has finished."""
    report_interval: int
    """Progress between two reports, at least."""
    metric: str
    """What ranks trials unless the sweep says otherwise."""
    mode: str

    @classmethod
    def of(cls, base: Config) -> Swept:
        """From a training configuration."""
        if isinstance(base, PPOConfig):
            return cls("ppo", base, "env_steps", base.total_env_steps, base.report_every_env_steps, "evaluation/return", "max")
        if isinstance(base, ImitationConfig):
            model = getattr(base, base.models[0])
            return cls("imitate", base, "epochs", model.epochs, 1, "validation/loss", "min")
        assert isinstance(base, CustomConfig)
        return cls("custom", base, base.unit, base.budget, 1, "objective", "max")

    def bundles(self, cpus: float) -> list[dict[str, float]]:
        """What Ray must reserve for one trial: its own process first."""
        if isinstance(self.base, PPOConfig):
            return self.base.resource_bundles(cpus)
        return [{"CPU": cpus, **({"GPU": 1.0} if isinstance(self.base, ImitationConfig) and self.base.use_gpu else {})}]


def apply_sample(base: Config, sample: dict[str, Any]) -> Any:
    """``base`` with the dotted parameters of one trial. Raises ``ConfigError`` for an unknown parameter or a value out of range."""
    data = base.model_dump(mode="python")
    free = isinstance(base, CustomConfig)
    for path, value in sample.items():
        head, *rest = ["parameters", *path.split(".")] if free else path.split(".")
        known = type(base).model_fields
        if head not in known:
            near = difflib.get_close_matches(head, known, n=1)
            raise ConfigError(f"unknown parameter {path!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
        node, key = data, head
        for part in rest:
            node = node.setdefault(key, {})
            key = part
            if not isinstance(node, dict):
                raise ConfigError(f"unknown parameter {path!r}: {head} has no keys")
        node[key] = value
    resolved = parse_config(data, type(base), source="trial")
    if isinstance(resolved, PPOConfig):
        _task_config(resolved)
    return resolved


def sample_default(base: Config, path: str) -> Any:
    """The value of a dotted parameter as written or as its default; None when it has none."""
    value: Any = base.parameters if isinstance(base, CustomConfig) else base
    for part in path.split("."):
        if isinstance(value, PPOConfig) and part == "task_config":
            value = _task_config(value)
        elif isinstance(value, dict):
            value = value.get(part)
        else:
            value = getattr(value, part, None)
    return value


def _task_config(ppo: PPOConfig) -> Any:
    """The task's own configuration with its defaults, checked."""
    from trainables.envs.vector import validate_task_config

    return validate_task_config(ppo.task, ppo.task_config)
