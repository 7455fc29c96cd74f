"""Stage: seeded episodes of each policy, with intervals. ``python -m trainables.evaluate CONFIG.yaml``."""

from __future__ import annotations

from typing import Any

from cluster.stage import StageContext, stage_main
from trainables.evaluation.config import EvaluationConfig

__all__ = ["Config", "run"]

Config = EvaluationConfig


def run(config: EvaluationConfig, context: StageContext) -> dict[str, Any]:
    """Evaluate into ``<run folder>/evaluation``: ``evaluation.json``, ``evaluation.md``, ``episodes.json``.

    Returns ``policies`` (name -> metric -> mean, ci95, iqm, iqm_ci95, std, min, max), ``comparisons`` (each later policy against the
    first), ``json`` and ``markdown`` (paths).

    Raises:
        GaitwayError: a policy is missing, unreadable or belongs to another task.
    """
    from trainables.evaluation.stage import run_stage

    return run_stage(config, context)


if __name__ == "__main__":
    stage_main("trainables.evaluate")
