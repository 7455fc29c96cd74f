"""Which trial and which configuration won."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from trainables.sweeps.analysis.lineage import Lineage
from trainables.sweeps.analysis.numbers import finite, plain, student_interval
from trainables.sweeps.records import SweepRecord, TrialRecord

__all__ = ["best_trial", "configurations", "cut_rung", "describe_best", "ranked", "seconds_between", "trial_rows"]


def ranked(trials: Iterable[TrialRecord]) -> list[TrialRecord]:
    """Trials that scored, the best first; of equal scores the one that needed less progress, then the earlier one.

    A failed trial's reports count: what they scored was measured.
    """
    scored = [trial for trial in trials if finite(trial.best_score) is not None]
    return sorted(scored, key=lambda trial: (-_number(trial.best_score), trial.best_progress or 0, trial.number))


def best_trial(record: SweepRecord) -> TrialRecord | None:
    """The winner; None while nothing has scored."""
    return next(iter(ranked(record.trials)), None)


def keeps_constraints(trial: TrialRecord, mode: str) -> bool | None:
    """Whether the trial's best report keeps the sweep's constraints: its score is then the signed metric itself. None: no score yet."""
    score, value = finite(trial.best_score), finite(trial.best_value)
    if score is None or value is None:
        return None
    return math.isclose(score, value if mode == "max" else -value, rel_tol=1e-6, abs_tol=1e-9)


def describe_best(record: SweepRecord, lineage: Lineage) -> dict[str, Any] | None:
    """The winner: its sample in force at its best report, and the metric there and at its last one."""
    winner = best_trial(record)
    if winner is None:
        return None
    return {
        "trial": winner.trial_id,
        "number": winner.number,
        "configuration": winner.configuration,
        "seed": winner.seed,
        "status": winner.status,
        "sample": plain(lineage.sample_at_best(winner)),
        "score": finite(winner.best_score),
        "keeps_constraints": keeps_constraints(winner, record.info.mode),
        "at_best": {"value": finite(winner.best_value), "progress": winner.best_progress},
        "at_last": {"value": finite(winner.last_value), "progress": winner.progress},
        "checkpoint": {
            "path": winner.checkpoint,
            "value": finite(winner.checkpoint_value),
            "progress": winner.checkpoint_progress,
        },
    }


def trial_rows(record: SweepRecord) -> list[dict[str, Any]]:
    """One row a trial, in the order of creation."""
    places = {trial.trial_id: place for place, trial in enumerate(ranked(record.trials), start=1)}
    return [
        {
            "trial": trial.trial_id,
            "number": trial.number,
            "rank": places.get(trial.trial_id),
            "configuration": trial.configuration,
            "seed": trial.seed,
            "status": trial.status,
            "reason": trial.reason,
            "sample": plain(trial.sample),
            "progress": trial.progress,
            "work": trial.work,
            "best_value": finite(trial.best_value),
            "best_progress": trial.best_progress,
            "best_score": finite(trial.best_score),
            "keeps_constraints": keeps_constraints(trial, record.info.mode),
            "last_value": finite(trial.last_value),
            "cut_at_rung": cut_rung(trial, record.info.rungs),
            "restarts": trial.restarts,
            "node": trial.node,
            "wall_s": seconds_between(trial.started_at, trial.ended_at),
            "error": trial.error,
            "checkpoint": trial.checkpoint,
            "mlflow_run_id": trial.mlflow_run_id,
        }
        for trial in record.trials
    ]


def cut_rung(trial: TrialRecord, rungs: tuple[int, ...]) -> int | None:
    """The rung at which a trial was stopped early: the highest that it reached. None for other trials and without rungs."""
    if trial.status != "stopped early":
        return None
    return max((rung for rung in rungs if rung <= trial.progress), default=None)


def configurations(record: SweepRecord) -> dict[str, Any]:
    """Configurations by the mean score of their seeds, best first, with 95 % Student's intervals of the mean.

    The intervals say how far a configuration's mean is known, each taken alone; the best of many is an optimistic choice all the same.
    Where some configurations have several seeds, only those compete for ``best_by_mean``: one lucky seed is no mean.
    """
    groups: dict[str, list[TrialRecord]] = {}
    for trial in record.trials:
        groups.setdefault(trial.configuration, []).append(trial)
    rows = [_configuration(name, trials) for name, trials in groups.items()]
    rows.sort(key=lambda row: -math.inf if row["mean_score"] is None else row["mean_score"], reverse=True)
    several = [row for row in rows if row["n"] > 1]
    candidates = several or [row for row in rows if row["n"]]
    return {
        "several_seeds": any(len(trials) > 1 for trials in groups.values()),
        "best_by_mean": candidates[0]["configuration"] if candidates else None,
        "rows": rows,
    }


def _configuration(name: str, trials: list[TrialRecord]) -> dict[str, Any]:
    scored = [trial for trial in trials if finite(trial.best_score) is not None]
    best = [value for trial in scored if (value := finite(trial.best_value)) is not None]
    last = [value for trial in scored if (value := finite(trial.last_value)) is not None]
    leader = next(iter(ranked(scored)), trials[0])
    return {
        "configuration": name,
        "sample": plain(leader.sample),
        "trials": [trial.number for trial in trials],
        "seeds": [trial.seed for trial in trials],
        "n": len(best),
        "mean_score": _mean([_number(trial.best_score) for trial in scored]),
        "best_values": best,
        "mean_best": _mean(best),
        "interval_best": student_interval(best),
        "mean_last": _mean(last),
        "interval_last": student_interval(last),
        "best_trial": leader.number,
    }


def seconds_between(start: str | None, end: str | None) -> float | None:
    """Seconds from one ISO 8601 time to another; None when one is missing or no time."""
    try:
        return max(0.0, (datetime.fromisoformat(end or "") - datetime.fromisoformat(start or "")).total_seconds())
    except (TypeError, ValueError):  # TypeError: one with and one without a time zone
        return None


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _number(value: float | None) -> float:
    return -math.inf if value is None else float(value)
