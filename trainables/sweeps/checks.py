"""What can be known to be wrong with a sweep before any trial runs."""

from __future__ import annotations

import difflib

from cluster.errors import UsageError
from trainables.ppo.config import PPOConfig
from trainables.sweeps.config import SweepConfig

__all__ = ["check_metric"]

_IMITATION_FIGURES = ("train/loss", "validation/loss")


def check_metric(config: SweepConfig) -> None:
    """Raise ``UsageError`` when the metric, or a figure of a constraint or a stop rule, is one that trials never report."""
    known = _known_figures(config)
    if known is None:
        return
    for name in (config.metric_name, *config.constraints, *config.stop.figures):
        # What the learner and the machine report depends on the run; only the task's figures are known beforehand.
        if name in known or name.startswith(("learner/", "usage/")) or name.endswith("_per_s"):
            continue
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UsageError(f"{name!r} is never reported; {hint}known: {', '.join(sorted(known))}")


def _known_figures(config: SweepConfig) -> list[str] | None:
    base = config.swept.base
    if config.imitation is not None:
        return list(_IMITATION_FIGURES)
    if not isinstance(base, PPOConfig):
        return None
    from trainables.envs.base import BatchedTask
    from trainables.envs.vector import make_vector_task

    task = make_vector_task(base.task, 1, base.model_dump(mode="json")["task_config"], 0)
    try:
        if not isinstance(task, BatchedTask):
            return None  # somebody's own environment may report what it likes
        names = task.episode_metric_names
    finally:
        task.close()
    families = ["train", *(["evaluation"] if base.evaluation.episodes else [])]
    return [f"{family}/{name}" for family in families for name in names]
