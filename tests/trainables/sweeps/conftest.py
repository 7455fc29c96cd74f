"""Hand-made sweeps, written by the record's own writer and read by its own reader."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from trainables.sweeps.records import Clone, SweepInfo, SweepLog, SweepRecord, TrialRecord, load_sweep

BUDGET = 1000
SPACE: dict[str, Any] = {"learning_rate": {"loguniform": [1e-5, 1e-2]}, "clip": {"uniform": [0.1, 0.3]}}
MakeSweep = Callable[..., SweepRecord]


@pytest.fixture
def make_sweep(tmp_path: Path) -> MakeSweep:
    """``make_sweep(curves, trials, clones, **info)``: see ``write_sweep``."""

    def make(*arguments: Any, **options: Any) -> SweepRecord:
        write_sweep(tmp_path / "sweep", *arguments, **options)
        return load_sweep(tmp_path / "sweep")

    return make


def write_sweep(
    folder: Path,
    curves: Mapping[str, list[tuple[int, float | None]]],
    trials: Mapping[str, dict[str, Any]] | None = None,
    clones: Iterable[Clone] = (),
    status: str = "finished",
    **info: Any,
) -> None:
    """Write a sweep: a trial for each curve of (progress, value), finished unless ``trials[name]`` says otherwise; no constraints."""
    facts: dict[str, Any] = {
        "name": "tiny_asha",
        "trainable": "ppo",
        "unit": "env_steps",
        "metric": "evaluation/forward_velocity_m_s",
        "mode": "max",
        "trial_budget": BUDGET,
        "num_trials": len(curves),
        "scheduler": "asha",
        "searcher": "random",
        "search_space": SPACE,
        "config": {"ppo": {"task": "pidog_run", "learning_rate": 1e-4, "task_config": {"max_episode_steps": 50}}},
        "created_at": "2026-03-01T10:00:00+00:00",
        "run_folder": str(folder.parent / "run"),
        "rungs": (100, 300),
    }
    log = SweepLog(folder)
    log.write_info(SweepInfo(**{**facts, **info}))
    sign = 1 if {**facts, **info}["mode"] == "max" else -1
    records = []
    for number, (name, curve) in enumerate(curves.items(), start=1):
        seen = [(progress, value) for progress, value in curve if value is not None]
        best = max(seen, key=lambda point: sign * point[1], default=None)
        record: dict[str, Any] = {
            "trial_id": name,
            "number": number,
            "configuration": f"c{number}",
            "sample": {"learning_rate": 10.0**-number if number < 5 else 1e-4 * number, "clip": 0.1 + 0.01 * number},
            "status": "finished",
            "progress": curve[-1][0] if curve else 0,
            "work": curve[-1][0] if curve else 0,
            "last_value": curve[-1][1] if curve else None,
            "started_at": "2026-03-01T10:00:00+00:00",
            "ended_at": "2026-03-01T10:01:40+00:00",
        }
        if best:
            record |= {"best_progress": best[0], "best_value": best[1], "best_score": sign * best[1]}
        records.append(TrialRecord(**{**record, **(trials or {}).get(name, {})}))
        for progress, value in curve:
            score = float("-inf") if value is None else sign * value
            log.add_report(name, progress, value, score, progress, progress / 10, {"train/return": 1.0})
    for clone in clones:
        log.add_clone(clone)
    log.write_trials(status, records)
