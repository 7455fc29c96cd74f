"""ASHA that still knows its rungs after the driver was killed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ray.tune.schedulers import ASHAScheduler

from trainables.sweeps.score import SCORE

__all__ = ["make_scheduler"]


class _Past:
    """What a rung needs to know of a trial."""

    def __init__(self, trial_id: str) -> None:
        self.trial_id = trial_id


def make_scheduler(grace_period_env_steps: int, reduction_factor: float, max_env_steps: int, experiment: Path) -> ASHAScheduler:
    """ASHA over ``env_steps`` (the metric is Tune's to set), its rungs filled from what trials of ``experiment`` have reported before.

    Tune restores trials and searcher but not the scheduler: without the old rungs a restored sweep would stop nobody for a while.
    """
    scheduler = ASHAScheduler(
        time_attr="env_steps",
        max_t=max_env_steps,
        grace_period=grace_period_env_steps,
        reduction_factor=reduction_factor,
    )
    for path in sorted(experiment.glob("*/result.json")):
        for report in read_reports(path):
            scheduler._brackets[0].on_result(_Past(report["trial_id"]), report["env_steps"], report[SCORE])
    return scheduler


def read_reports(path: Path) -> list[dict[str, Any]]:
    """Reports of one trial, as Tune's JSON logger wrote them; a line cut short by a crash is left out."""
    reports = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            reports.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return [report for report in reports if SCORE in report and "env_steps" in report]
