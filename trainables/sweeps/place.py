"""Where a sweep lives: its record in the run folder, its trials' checkpoints where all nodes can write.

On one machine that is one folder. With an object store, or a folder that several nodes share, the record is copied there too, so that
another machine that sees the same storage can resume the sweep.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cluster.config import write_text_atomic
from cluster.errors import StoreError, UsageError
from cluster.settings import Settings
from cluster.storage import Storage, check_writable, is_url, join_url, open_storage, shown_url
from trainables.sweeps.config import SweepConfig
from trainables.sweeps.records import INFO_FILE, LINEAGE_FILE, REPORTS_FILE, TRIALS_FILE, is_driven, load_sweep
from trainables.sweeps.snapshots import mend
from trainables.sweeps.tracker import RECORD_FILE

__all__ = ["EXPERIMENT", "STOP_FILE", "WARM_START", "SweepPlace", "choose_storage", "fetch_sweep", "warm_start_sha256"]

EXPERIMENT = "tune"
"""Folder of Tune's experiment below the storage."""
CONFIG_FILE = "config.yaml"
STOP_FILE = "stop.request"
"""Whoever writes it into the sweep's folder asks the sweep to stop, as Ctrl-C does."""
WARM_START = "warm_start"
"""Folder of the record with the policy that the trials start from: where the sweep is resumed, nothing else of it may be there."""
_RECORD_FILES = (INFO_FILE, TRIALS_FILE, REPORTS_FILE, LINEAGE_FILE, RECORD_FILE)
_PUSH_INTERVAL_S = 15.0
_PASSING = ("created_at", "run_folder", "name")
"""What may differ between two runs of one sweep."""


class SweepPlace:
    """One sweep's folder and storage.

    Attributes:
        folder: local folder of the record.
        storage: where Tune's experiment is; the folder itself on one machine.
        created_at: when a sweep that is resumed was first started; None for a new one.
    """

    def __init__(self, folder: Path, storage: Storage, run_folder: Path) -> None:
        self.folder, self.storage, self._run_folder = folder, storage, run_folder
        self.created_at: str | None = None
        self._pushed: dict[str, tuple[int, int]] = {}
        self._pushed_s = 0.0
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def is_shared(self) -> bool:
        """Whether the storage is another place than the folder."""
        return not (self.storage.is_local and Path(self.storage.root) == self.folder)

    def claim(self, info: Any) -> bool:
        """Make the place this sweep's; True when an unfinished experiment of the same configuration is there to be resumed.

        Raises ``UsageError`` while another driver is at work on it.
        """
        self._refuse_a_second_driver()
        marker = self.folder / INFO_FILE
        before = json.loads(marker.read_text(encoding="utf-8")) if marker.is_file() else None
        # Through JSON: tuples become lists there.
        wanted = json.loads(json.dumps(asdict(info)))
        for described in (before or {}, wanted):  # where the policy is may differ, its digest may not
            (described.get("config", {}).get("ppo") or {}).pop("warm_start", None)
        same = before is not None and all(before.get(key) == value for key, value in wanted.items() if key not in _PASSING)
        if same and mend(self.storage.below(EXPERIMENT)):
            self.created_at = before["created_at"] if before else None
            return True
        self.storage.delete_folder(EXPERIMENT)
        for name in _RECORD_FILES[1:]:
            if not (same and name == RECORD_FILE):
                (self.folder / name).unlink(missing_ok=True)
        return False

    def _refuse_a_second_driver(self) -> None:
        if not (self.folder / INFO_FILE).is_file():
            return
        record = load_sweep(self.folder, with_reports=False)
        if is_driven(record) and (record.host, record.pid) != (platform.node(), os.getpid()):
            raise UsageError(
                f"sweep {self._run_folder.name} is at work already, in process {record.pid} on {record.host}, seen {record.updated_at}; "
                "stop it first, or wait a minute if it is gone"
            )

    def clear_stop_request(self) -> None:
        """Forget what was asked of an earlier driver."""
        (self.folder / STOP_FILE).unlink(missing_ok=True)
        if self.is_shared:
            self.storage.delete_file(STOP_FILE)

    def stop_requested(self) -> bool:
        """Whether somebody on this machine asked the sweep to stop; those elsewhere are heard at each ``push``."""
        return (self.folder / STOP_FILE).is_file()

    def push(self) -> None:
        """Copy what has changed of the record to a shared storage, and look there for a request to stop."""
        self._pushed_s = time.monotonic()
        if not self.is_shared:
            return
        warm_start = [f"{WARM_START}/{path.name}" for path in (self.folder / WARM_START).glob("*")]
        for name in (*_RECORD_FILES, *warm_start, CONFIG_FILE):
            path = (self._run_folder if name == CONFIG_FILE else self.folder) / name
            if not path.is_file():
                continue
            stat = path.stat()
            if self._pushed.get(name) != (stat.st_size, stat.st_mtime_ns):
                self.storage.write_bytes(name, path.read_bytes())
                self._pushed[name] = (stat.st_size, stat.st_mtime_ns)
        if self.storage.exists(STOP_FILE):
            write_text_atomic(self.folder / STOP_FILE, "")

    def push_if_due(self) -> None:
        """``push``, every quarter of a minute; a storage that does not answer for a while must not cost the sweep."""
        if time.monotonic() - self._pushed_s >= _PUSH_INTERVAL_S:
            with contextlib.suppress(StoreError):
                self.push()


def choose_storage(config: SweepConfig, settings: Settings, folder: Path, name: str, several_nodes: bool) -> Storage:
    """Where the trials' checkpoints go; tried out before anything starts.

    Raises ``UsageError``, one line, when it cannot be written.
    """
    if config.storage:
        url = join_url(config.storage, name)
    elif is_url(settings.storage_url) or several_nodes:
        url = join_url(settings.storage_url, "sweeps", name)
    else:
        return open_storage(folder)
    return check_writable(url)


def fetch_sweep(url: str, settings: Settings) -> Path:
    """Bring a sweep's record from a storage that this machine sees into a run folder here; the run folder's path."""
    storage = open_storage(url)
    if not storage.exists(INFO_FILE):
        raise UsageError(f"{shown_url(url)}: no sweep is there (no {INFO_FILE})")
    # The last part only: a name that somebody wrote into a shared place must not lead out of the experiments.
    run_folder = settings.experiments_path / Path(str(json.loads(storage.read_bytes(INFO_FILE))["name"])).name
    folder = run_folder / "rl_model"
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / TRIALS_FILE).is_file() and storage.exists(TRIALS_FILE):
        stored = json.loads(storage.read_bytes(TRIALS_FILE))["updated_at"]
        if load_sweep(folder, with_reports=False).updated_at >= stored:
            return run_folder  # its driver is, or was, at work in this very folder, ahead of the copy
    for name in _RECORD_FILES:
        if storage.exists(name):
            (folder / name).write_bytes(storage.read_bytes(name))
    if storage.exists(WARM_START):
        storage.download_folder(WARM_START, folder / WARM_START)
    (run_folder / CONFIG_FILE).write_bytes(storage.read_bytes(CONFIG_FILE))
    return run_folder


def warm_start_sha256(config: SweepConfig) -> str | None:
    """Digest of that policy's weights: another policy in the same place makes it another sweep."""
    folder = config.ppo.warm_start if config.ppo else None
    return hashlib.sha256((folder / "policy.pt").read_bytes()).hexdigest() if folder else None
