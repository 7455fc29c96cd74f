"""What a sweep's record says: ``analyse(load_sweep(folder))`` -> plain data, for ``--json`` and for the HTML report. Imports no Ray.

The keys of the result, each described where it is made: sweep, summary, best, configurations, trials, curves, rungs, importance, budget,
stopping, lineage, failures, commands.
"""

from __future__ import annotations

from typing import Any

from trainables.sweeps.analysis.budget import budget, wall_seconds
from trainables.sweeps.analysis.commands import commands
from trainables.sweeps.analysis.curves import describe_curves, rungs
from trainables.sweeps.analysis.importance import importance
from trainables.sweeps.analysis.lineage import Lineage, describe_lineage
from trainables.sweeps.analysis.numbers import curves_by_trial, plain
from trainables.sweeps.analysis.ranking import best_trial, configurations, describe_best, trial_rows
from trainables.sweeps.analysis.stopping import stopping
from trainables.sweeps.analysis.words import summary
from trainables.sweeps.records import SweepRecord

__all__ = ["analyse"]


def analyse(record: SweepRecord) -> dict[str, Any]:
    """Everything that the report shows, as JSON-able data; numbers that are not finite are None."""
    curves, lineage, winner = curves_by_trial(record), Lineage(record), best_trial(record)
    best = describe_best(record, lineage)
    analysis = {
        "sweep": _facts(record),
        "best": best,
        "configurations": configurations(record),
        "trials": trial_rows(record),
        "curves": describe_curves(record, curves),
        "rungs": rungs(record, curves),
        "importance": importance(record),
        "budget": budget(record, curves),
        "stopping": stopping(record, curves),
        "lineage": describe_lineage(lineage, winner),
        "failures": _failures(record),
        "commands": commands(record, winner, best["sample"] if best else None),
    }
    return {"summary": summary(analysis), **analysis}


def _facts(record: SweepRecord) -> dict[str, Any]:
    info, counts = record.info, {}
    for trial in record.trials:
        counts[trial.status] = counts.get(trial.status, 0) + 1
    return {
        "name": info.name,
        "folder": str(record.folder),
        "run_folder": info.run_folder,
        "status": record.status,
        "trainable": info.trainable,
        "unit": info.unit,
        "metric": info.metric,
        "mode": info.mode,
        "scheduler": info.scheduler,
        "searcher": info.searcher,
        "search_space": plain(info.search_space),
        "trial_budget": info.trial_budget,
        "planned_trials": info.num_trials,
        "trials": len(record.trials),
        "counts": counts,
        "created_at": info.created_at,
        "updated_at": record.updated_at,
        "wall_s": wall_seconds(record),
        "warm_start_sha256": info.warm_start_sha256,
    }


def _failures(record: SweepRecord) -> list[dict[str, Any]]:
    """Trials that failed for good, with what is known of why."""
    return [
        {
            "trial": trial.trial_id,
            "number": trial.number,
            "status": trial.status,
            "error": trial.error,
            "reason": trial.reason,
            "traceback": trial.traceback,
            "restarts": trial.restarts,
            "progress": trial.progress,
            "node": trial.node,
            "sample": plain(trial.sample),
        }
        for trial in record.trials
        if trial.status == "failed"
    ]
