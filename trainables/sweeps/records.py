"""A sweep's own record, in plain files beside Tune's: what ``gaitway sweep status`` and the report read. Imports no Ray.

In the sweep's folder:

- ``sweep.json``: what the sweep is (``SweepInfo``), written once;
- ``trials.json``: how every trial stands (``TrialRecord``), replaced as a whole whenever one changes;
- ``reports.jsonl``: one line a report of a trial, appended;
- ``lineage.jsonl``: one line a clone of population-based training, appended.

The driver is the only writer. What a killed driver cut short, or wrote twice after its restart, the reader repairs: a broken last line
is left out, and of two reports of one trial at the same progress the later one counts.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import psutil

from cluster.config import write_text_atomic
from cluster.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ENDED", "Clone", "SweepInfo", "SweepLog", "SweepRecord", "TrialRecord", "is_driven", "load_sweep", "now"]

INFO_FILE, TRIALS_FILE, REPORTS_FILE, LINEAGE_FILE = "sweep.json", "trials.json", "reports.jsonl", "lineage.jsonl"
ENDED = ("finished", "stopped early", "failed", "unfinished")
"""Statuses of a trial that will not go on by itself."""
_SILENCE_S = 60.0
"""A driver writes every second, to a shared storage every quarter of a minute; one that is silent for longer is gone."""


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class SweepInfo:
    """What a sweep is."""

    name: str
    trainable: str
    """ppo | imitate"""
    unit: str
    """What progress counts: env_steps | epochs."""
    metric: str
    mode: str
    """max | min"""
    trial_budget: int
    """Progress at which a trial has finished."""
    num_trials: int
    """Trials altogether, seeds of one configuration counted one by one."""
    scheduler: str
    searcher: str
    search_space: dict[str, Any]
    """Dotted parameter -> its domain, such as {"loguniform": [1e-5, 1e-3]}."""
    config: dict[str, Any]
    """The sweep's whole configuration."""
    created_at: str
    run_folder: str
    """Where the configuration, the logs and the best policy are."""
    rungs: tuple[int, ...] = ()
    """Progress at which the scheduler compares and stops; empty for schedulers without rungs."""
    warm_start_sha256: str | None = None


@dataclass(frozen=True)
class TrialRecord:
    """What one trial did so far."""

    trial_id: str
    number: int
    """1, 2, .. in the order of creation."""
    configuration: str
    """The same for trials that differ in their seed only."""
    sample: dict[str, Any]
    """Dotted parameter -> value; after a clone of population-based training the present one."""
    seed: int = 0
    status: str = "pending"
    """pending | running | paused | finished | stopped early | failed | unfinished"""
    reason: str = ""
    """Why it ended before its budget, in words."""
    progress: int = 0
    """Where its policy stands, in the sweep's unit. A clone takes over its donor's."""
    work: int = 0
    """What was computed for it, in the sweep's unit, repeated work after a crash counted twice."""
    last_value: float | None = None
    best_value: float | None = None
    """The metric at the report with the best score, which need not be the last one."""
    best_progress: int | None = None
    best_score: float | None = None
    """The best score over all reports: the metric signed so that more is better, far below everything where constraints break."""
    started_at: str | None = None
    ended_at: str | None = None
    restarts: int = 0
    node: str | None = None
    error: str | None = None
    """The last line of what made it fail."""
    traceback: str | None = None
    checkpoint: str | None = None
    """Path or URL of its best checkpoint that is still there."""
    checkpoint_value: float | None = None
    checkpoint_progress: int | None = None
    mlflow_run_id: str | None = None
    warm_start_error: float | None = None
    """Largest action difference between the warm-start policy and the trial's own before training; normalised units."""
    last_figures: dict[str, float] = field(default_factory=dict)
    """Every figure of the last report."""

    def summary(self) -> dict[str, Any]:
        """Without the traceback and the last report, for a stage's result."""
        record = asdict(self)
        del record["traceback"], record["last_figures"]
        return record


@dataclass(frozen=True)
class Clone:
    """One trial took over another's policy, optimizer and statistics, and changed its configuration."""

    at: str
    trial: str
    donor: str
    progress: int
    """Where the trial stood when it gave its own policy up."""
    donor_progress: int
    changes: dict[str, tuple[Any, Any]]
    """Dotted parameter -> (the donor's value, the value after exploring)."""


class SweepLog:
    """Writes the record; one driver at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def write_info(self, info: SweepInfo) -> None:
        """What the sweep is."""
        write_text_atomic(self.folder / INFO_FILE, json.dumps(asdict(info), indent=2) + "\n")

    def write_trials(self, status: str, trials: Iterable[TrialRecord]) -> None:
        """How all trials stand.

        Args:
            status: the sweep's: running | finished | stopped | failed.
            trials: all that exist.
        """
        document = {"status": status, "updated_at": now(), "host": platform.node(), "pid": os.getpid()}
        document["trials"] = [asdict(trial) for trial in trials]
        write_text_atomic(self.folder / TRIALS_FILE, orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY).decode() + "\n")

    def add_report(
        self, trial_id: str, progress: int, value: float | None, score: float, work: int, time_s: float, figures: dict[str, float]
    ) -> None:
        """One report of a trial. A value that is not finite is written as null."""
        line = {"trial": trial_id, "progress": progress, "value": value, "score": score, "work": work, "time_s": time_s, "figures": figures}
        self._append(REPORTS_FILE, line)

    def add_clone(self, clone: Clone) -> None:
        """One exploit of population-based training."""
        self._append(LINEAGE_FILE, asdict(clone))

    def _append(self, name: str, line: dict[str, Any]) -> None:
        path = self.folder / name
        text = orjson.dumps(line, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE)
        with path.open("ab") as file:
            # One write call a line; after a crash in the middle of it the next line must not be glued to the rest.
            torn = file.tell() > 0 and not _ends_with_newline(path)
            file.write(b"\n" + text if torn else text)


@dataclass(frozen=True)
class SweepRecord:
    """A sweep as its folder tells it.

    Attributes:
        folder: where it was read from.
        status: running | finished | stopped | failed; of a driver that was killed: still "running", see ``is_driven``.
        updated_at: when its driver wrote it last.
        host: machine of that driver.
        pid: its process there.
        reports: columns trial, progress, value, score, work, time_s (float, NaN where nothing was reported), in the order written; of
            repeated ones the last.
    """

    folder: Path
    info: SweepInfo
    status: str
    updated_at: str
    host: str
    pid: int
    trials: tuple[TrialRecord, ...]
    reports: pd.DataFrame
    lineage: tuple[Clone, ...]


def is_driven(record: SweepRecord) -> bool:
    """Whether a driver is at work on the sweep: its process is there or, on another machine, the record is not a minute old."""
    if record.status != "running" or not record.host:  # the latter: it was killed before it wrote a single time
        return False
    updated_s = datetime.fromisoformat(record.updated_at).timestamp()
    if record.host != platform.node():
        return time.time() - updated_s < _SILENCE_S
    try:
        process = psutil.Process(record.pid)
        # A process that began later only got the same number.
        return bool(process.create_time() <= updated_s + 1.0 and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def load_sweep(folder: Path, with_reports: bool = True) -> SweepRecord:
    """Read a sweep's folder, or a run folder with a sweep in it; ``with_reports=False`` leaves the reports out, which takes no time.

    Raises ``UsageError`` when none is there.
    """
    for place in (folder, folder / "rl_model", folder / "imitation_sweep"):
        if (place / INFO_FILE).is_file():
            return _load(place, with_reports)
    raise UsageError(f"{folder}: no sweep is there (no {INFO_FILE}); `gaitway sweep ls` shows those that are")


def _load(folder: Path, with_reports: bool) -> SweepRecord:
    try:
        info = json.loads((folder / INFO_FILE).read_text(encoding="utf-8"))
        known = {item.name for item in fields(SweepInfo)}
        trials_path = folder / TRIALS_FILE
        document = orjson.loads(trials_path.read_bytes()) if trials_path.is_file() else {}
        trials = tuple(TrialRecord(**trial) for trial in document.get("trials", []))
        sweep = SweepInfo(**{key: tuple(value) if key == "rungs" else value for key, value in info.items() if key in known})
    except (AttributeError, TypeError, ValueError) as error:
        raise UsageError(f"{folder}: the sweep's record cannot be read: {' '.join(str(error).split())[:200]}") from None
    return SweepRecord(
        folder=folder,
        info=sweep,
        status=document.get("status", "running"),
        updated_at=document.get("updated_at", sweep.created_at),
        host=document.get("host", ""),
        pid=document.get("pid", 0),
        trials=trials,
        reports=_load_reports(folder / REPORTS_FILE if with_reports else None),
        lineage=tuple(
            Clone(**{**line, "changes": {key: tuple(value) for key, value in line["changes"].items()}})
            for line in read_lines(folder / LINEAGE_FILE)
        ),
    )


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file with one JSON object a line; lines cut short by a crash are left out. None when there is no file."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        for text in file:
            try:
                line = orjson.loads(text)
            except orjson.JSONDecodeError:
                continue
            if isinstance(line, dict):
                yield line


def _load_reports(path: Path | None) -> pd.DataFrame:
    import pandas as pd

    names = ("trial", "progress", "value", "score", "work", "time_s")
    # Only what the table holds is kept of each line: all figures of 200,000 reports would fill a gigabyte.
    rows = [tuple(line.get(name) for name in names) for line in read_lines(path)] if path else []
    table = pd.DataFrame(rows, columns=list(names)).astype(dict.fromkeys(names[1:], float))
    return table.drop_duplicates(["trial", "progress"], keep="last").reset_index(drop=True)


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
