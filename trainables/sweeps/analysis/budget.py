"""What a sweep cost, and what stopping trials early saved."""

from __future__ import annotations

from typing import Any

import numpy as np

from trainables.sweeps.analysis.numbers import Curve
from trainables.sweeps.analysis.ranking import seconds_between
from trainables.sweeps.records import SweepRecord

__all__ = ["budget", "wall_seconds"]


def budget(record: SweepRecord, curves: dict[str, Curve]) -> dict[str, Any]:
    """Work in the sweep's unit.

    Returns:
        spent: computed for all trials; spent_by_status;
        full: what all trials that exist would have cost, each run to its budget once;
        saved, saved_share: what trials that were stopped early had left of their budgets, and its share of ``full``;
        repeated: computed twice because of crashes (a lower bound);
        trial_s: seconds that trials spent, added up; saved_s: what the saved work would have taken at the sweep's own median rate.
    """
    limit = record.info.trial_budget
    by_status: dict[str, int] = {}
    for trial in record.trials:
        by_status[trial.status] = by_status.get(trial.status, 0) + trial.work
    full = limit * len(record.trials)
    saved = sum(max(0, limit - trial.progress) for trial in record.trials if trial.status == "stopped early")
    seconds = {trial_id: float(np.nanmax(curve.time_s)) for trial_id, curve in curves.items() if np.isfinite(curve.time_s).any()}
    rates = [seconds[trial.trial_id] / trial.work for trial in record.trials if trial.work > 0 and trial.trial_id in seconds]
    return {
        "unit": record.info.unit,
        "spent": sum(by_status.values()),
        "spent_by_status": by_status,
        "full": full,
        "saved": saved,
        "saved_share": saved / full if full else None,
        "repeated": sum(max(0, trial.work - trial.progress) for trial in record.trials),
        "trial_s": sum(seconds.values()) if seconds else None,
        "saved_s": saved * float(np.median(rates)) if rates else None,
    }


def wall_seconds(record: SweepRecord) -> float | None:
    """From the sweep's creation to its last sign of life, pauses between a stop and a resume included."""
    return seconds_between(record.info.created_at, record.updated_at)
