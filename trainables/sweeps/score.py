"""One number that ranks checkpoints: the metric, signed so that more is better, with broken constraints below everything else."""

from __future__ import annotations

import math
from collections.abc import Mapping

from cluster.errors import UsageError
from trainables.sweeps.config import SweepConfig

__all__ = ["SCORE", "is_figure", "score"]

SCORE = "score"
"""Name under which trials report it; what Tune maximises."""
_BROKEN = -1e9


def is_figure(name: str, value: object) -> bool:
    """Whether an entry of a report is one of a run's figures, and not Tune's bookkeeping."""
    return isinstance(value, (int, float)) and not name.startswith("config/") and ("/" in name or name.endswith("_per_s"))


def score(figures: Mapping[str, float], config: SweepConfig) -> float:
    """Rank of a report under the sweep's metric, mode and constraints; higher is better, a NaN ranks last.

    Raises ``UsageError`` when the metric or a constrained figure is not among the figures: it would never be.
    """
    for name in (config.metric_name, *config.constraints):
        if name not in figures:
            if name.startswith("train/") and not any(key.startswith("train/") for key in figures):
                return -math.inf  # no episode has ended yet
            known = ", ".join(sorted(key for key in figures if key.startswith(("evaluation/", "train/"))))
            raise UsageError(f"{name!r} is never reported; known: {known}")
    violation = sum(bound.violation(figures[name]) for name, bound in config.constraints.items())
    value = figures[config.metric_name] * (1 if config.direction == "max" else -1)
    if math.isnan(value) or math.isnan(violation):
        return -math.inf
    # By how much constraints are broken decides among those that break them; the metric no longer matters there.
    return value if violation == 0 else _BROKEN * (1 + violation)
