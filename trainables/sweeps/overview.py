"""Sweeps as people ask for them: by name or folder, how they stand, which trial it was, and please stop."""

from __future__ import annotations

import platform
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from cluster.config import write_text_atomic
from cluster.errors import UsageError
from cluster.settings import Settings
from cluster.storage import is_url, open_storage
from trainables.sweeps.place import STOP_FILE, fetch_sweep
from trainables.sweeps.records import INFO_FILE, SweepRecord, TrialRecord, is_driven, load_sweep

__all__ = ["describe", "find_sweep", "list_sweeps", "request_stop"]

_FOLDER = "rl_model"


def find_sweep(settings: Settings, name: str | None) -> Path:
    """The run folder of a sweep.

    Args:
        settings: where run folders are.
        name: a run folder, its name (or the only one that begins so), a storage URL; None: the newest sweep.

    Raises:
        UsageError: there is none, or there are several.
    """
    folders = _run_folders(settings)
    if name is None:
        if not folders:
            raise UsageError(f"{settings.experiments_path}: no sweep is there yet; start one with `gaitway sweep start CONFIG`")
        return folders[-1]
    if is_url(name):
        return fetch_sweep(name, settings)
    for path in (Path(name).expanduser(), settings.experiments_path / name):
        if (path / _FOLDER / INFO_FILE).is_file():
            return path.resolve()
        if (path / INFO_FILE).is_file():
            return path.resolve().parent
    near = [folder for folder in folders if folder.name.startswith(name)]
    if len(near) == 1:
        return near[0]
    known = ", ".join(folder.name for folder in (near or folders)[-5:]) or "none yet"
    raise UsageError(f"sweep {name}: " + (f"several begin so: {known}" if near else f"no such sweep; the newest: {known}"))


def list_sweeps(settings: Settings) -> list[dict[str, Any]]:
    """One summary a sweep, the oldest first."""
    summaries = []
    for folder in _run_folders(settings):
        try:
            summaries.append(_summary(load_sweep(folder, with_reports=False)))
        except UsageError as error:
            summaries.append({"name": folder.name, "status": "unreadable", "error": str(error)})
    return summaries


def describe(settings: Settings, name: str | None, find: str | None = None) -> dict[str, Any]:
    """A sweep and its trials, the best first.

    Args:
        settings: where run folders are.
        name: see ``find_sweep``.
        find: only trials whose id, number, status or ``parameter=value`` holds this text.
    """
    record = load_sweep(find_sweep(settings, name), with_reports=False)
    trials = [trial for trial in record.trials if find is None or _matches(trial, find)]
    ranked = sorted(trials, key=lambda trial: -(trial.best_score if trial.best_score is not None else float("-inf")))
    return _summary(record) | {"search_space": list(record.info.search_space), "trials": [asdict(trial) for trial in ranked]}


def request_stop(settings: Settings, name: str | None) -> str:
    """Ask a running sweep to stop after its trials' next checkpoints; returns its name.

    One that runs on another machine is asked through its storage, whose URL must be given. Raises ``UsageError`` when it does not run.
    """
    run_folder = find_sweep(settings, name)
    record = load_sweep(run_folder, with_reports=False)
    status = _status(record)
    if status != "running":
        raise UsageError(f"sweep {run_folder.name} does not run: it is {status}")
    if record.host == platform.node():
        write_text_atomic(record.folder / STOP_FILE, "")
    elif name is not None and is_url(name):
        open_storage(name).write_bytes(STOP_FILE, b"")
    else:
        raise UsageError(f"sweep {run_folder.name} runs on {record.host}; stop it there, or give the URL of its storage")
    return run_folder.name


def _run_folders(settings: Settings) -> list[Path]:
    """Run folders with a sweep of several trials in them, by the time of their start."""
    found = []
    for path in settings.experiments_path.glob(f"*/{_FOLDER}/{INFO_FILE}"):
        try:
            if load_sweep(path.parent, with_reports=False).info.num_trials > 1:
                found.append(path.parents[1])
        except UsageError:
            found.append(path.parents[1])
    return sorted(found, key=lambda folder: (folder / _FOLDER / INFO_FILE).stat().st_mtime)


def _summary(record: SweepRecord) -> dict[str, Any]:
    info = record.info
    scored = [trial for trial in record.trials if trial.best_score is not None]
    best = max(scored, key=lambda trial: trial.best_score or 0.0, default=None)
    counts: dict[str, int] = {}
    for trial in record.trials:
        counts[trial.status] = counts.get(trial.status, 0) + 1
    waiting = info.num_trials - len(record.trials)
    progress = sum(min(trial.progress, info.trial_budget) for trial in record.trials)
    return {
        "name": info.name,
        "status": _status(record),
        "scheduler": info.scheduler,
        "searcher": info.searcher,
        "metric": info.metric,
        "mode": info.mode,
        "unit": info.unit,
        "trials_by_status": counts | ({"waiting": waiting} if waiting > 0 else {}),
        "num_trials": info.num_trials,
        "progress": progress,
        "work": sum(trial.work for trial in record.trials),
        "budget": info.num_trials * info.trial_budget,
        "best_trial": best.trial_id if best else None,
        "best_value": best.best_value if best else None,
        "created_at": info.created_at,
        "updated_at": record.updated_at,
        "elapsed_s": (datetime.fromisoformat(record.updated_at) - datetime.fromisoformat(info.created_at)).total_seconds(),
        "folder": str(record.folder),
        "run_folder": str(record.folder.parent),
    }


def _status(record: SweepRecord) -> str:
    """As recorded; one whose driver is gone without having said so was interrupted."""
    return "interrupted" if record.status == "running" and not is_driven(record) else record.status


def _matches(trial: TrialRecord, text: str) -> bool:
    words = [trial.trial_id, str(trial.number), trial.status, trial.configuration]
    words += [f"{path}={value}" for path, value in trial.sample.items()] + [f"{value}" for value in trial.sample.values()]
    return any(text.lower() in word.lower() for word in words)
