"""Learning curves of all trials, and what happened at each rung."""

from __future__ import annotations

from typing import Any

import numpy as np

from trainables.sweeps.analysis.numbers import Curve, finite, floats
from trainables.sweeps.analysis.ranking import cut_rung
from trainables.sweeps.records import SweepRecord

__all__ = ["describe_curves", "rungs"]


def describe_curves(record: SweepRecord, curves: dict[str, Curve]) -> list[dict[str, Any]]:
    """Progress and value of every report, trial by trial; trials without a report are left out."""
    return [
        {
            "trial": trial.trial_id,
            "number": trial.number,
            "progress": floats(curve.progress),
            "value": floats(curve.value),
        }
        for trial in record.trials
        if (curve := curves.get(trial.trial_id)) is not None
    ]


def rungs(record: SweepRecord, curves: dict[str, Curve]) -> list[dict[str, Any]]:
    """For each rung: how many trials reached it, which were cut there, and the median of the values with which it was reached."""
    cuts = {trial.trial_id: cut_rung(trial, record.info.rungs) for trial in record.trials}
    outcome = []
    for rung in sorted(record.info.rungs):
        reached = [trial for trial in record.trials if trial.progress >= rung]
        cut = [trial for trial in reached if cuts[trial.trial_id] == rung]
        values = [value for trial in reached if (value := _value_when_reached(curves.get(trial.trial_id), rung)) is not None]
        outcome.append(
            {
                "progress": rung,
                "reached": len(reached),
                "cut": [trial.trial_id for trial in cut],
                "cut_numbers": [trial.number for trial in cut],
                "median_value": float(np.median(values)) if values else None,
            }
        )
    return outcome


def _value_when_reached(curve: Curve | None, rung: int) -> float | None:
    """The value of the first report at or past the rung: what a scheduler compares."""
    if curve is None:
        return None
    at = np.flatnonzero(curve.progress >= rung)
    return finite(curve.value[at[0]]) if len(at) else None
