"""What a killed driver leaves behind can always be gone on from: Tune's snapshots stay whole, and so do the checkpoints that they name.

Tune deletes a superseded checkpoint at once, but writes down which one a trial continues from only at its next snapshot: a driver that
is killed between the two leaves a snapshot whose checkpoint is gone, and that trial cannot go on. So Tune keeps all, and here they are
deleted once no snapshot that may still be read names them. And where the storage is a folder, Tune writes a snapshot over the last one;
a copy of the last whole one is kept beside it for a driver that is killed in the middle of that.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Sequence
from typing import Any

from cluster.errors import StoreError
from cluster.storage import Storage

__all__ = ["KEPT_BEST", "Snapshots", "mend"]

KEPT_BEST = 2
"""Best checkpoints of a trial that stay, besides its latest."""
_STATE = "experiment_state-"
_COPY = "snapshot"
"""Folder, beside the trials' ones, of the copy."""
_LOOK_INTERVAL_S = 5.0


class Snapshots:
    """Follows Tune's snapshots in the storage and deletes the checkpoints that they have left behind.

    Snapshots are written one after the other. Once two have appeared after a checkpoint was superseded, the second was begun after it,
    so whoever reads the storage from then on finds a later checkpoint named.

    Args:
        experiment: the folder of Tune's experiment.
        keep_all: delete nothing; under population-based training a clone may need any of its donor's.
    """

    def __init__(self, experiment: Storage, keep_all: bool = False) -> None:
        self._experiment, self._keep_all = experiment, keep_all
        self._seen: dict[str, tuple[Any, ...]] = {}
        self._count = 0
        self._superseded: dict[str, tuple[int, Any, Any]] = {}
        """Path -> how many snapshots had been seen then, trial, Tune's entry."""
        self._looked_s = time.monotonic()

    def supersede(self, trial: Any) -> None:
        """The trial has a newer checkpoint than those that Tune has registered; the latest of these stays until the next."""
        results, latest = _registered(trial), trial.run_metadata.checkpoint_manager.latest_checkpoint_result
        for result in [] if self._keep_all else results[:-KEPT_BEST]:
            if result.checkpoint.path != latest.checkpoint.path:
                self._superseded.setdefault(result.checkpoint.path, (self._count, trial, result))

    def look_if_due(self) -> None:
        """Every few seconds: look for a new snapshot, copy it, and delete what none names any more."""
        if time.monotonic() - self._looked_s < _LOOK_INTERVAL_S:
            return
        self._looked_s = time.monotonic()
        with contextlib.suppress(StoreError, FileNotFoundError):  # a storage that is silent for a while only costs room
            seen = {name: version for name, version in self._experiment.list_versions().items() if _belongs(name)}
            if any(seen[name] != self._seen.get(name) for name in seen if name.startswith(_STATE)) and self._copy(seen):
                self._seen = seen
                self._count += 1
            self._delete([path for path, (count, _, _) in self._superseded.items() if self._count >= count + 2])

    def delete_rest(self, trials: Sequence[Any]) -> None:
        """The sweep is over and its last snapshot written: only what is kept stays."""
        for trial in trials:
            self.supersede(trial)
        with contextlib.suppress(StoreError):
            self._delete(list(self._superseded))

    def _copy(self, seen: dict[str, tuple[Any, ...]]) -> bool:
        """Keep what has changed; False when Tune is just writing it. An object store needs no copy: it never shows half a file."""
        if not self._experiment.is_local:
            return True
        changed = {name: self._experiment.read_bytes(name) for name in seen if seen[name] != self._seen.get(name)}
        if not all(data.endswith((b"}", b".")) for data in changed.values()):  # last of a JSON object, and of a pickle
            return False
        for name, data in changed.items():
            self._experiment.write_bytes(f"{_COPY}/{name}", data)
        return True

    def _delete(self, paths: list[str]) -> None:
        for path in paths:
            _, trial, result = self._superseded[path]
            self._experiment.delete_folder(path.removeprefix(self._experiment.root).lstrip("/"))
            del self._superseded[path]
            results = _registered(trial)
            if result in results:
                results.remove(result)


def mend(experiment: Storage) -> bool:
    """After a crash: put the copy in the place of a snapshot that is torn. False when there is no whole one."""
    files = [name for name in experiment.list_files() if _belongs(name)]
    if all(_is_whole(experiment.read_bytes(name)) for name in files):
        return any(name.startswith(_STATE) for name in files)
    copied = experiment.list_files(_COPY)
    for name in files:
        if name not in copied:
            experiment.delete_file(name)
    for name in copied:
        experiment.write_bytes(name, experiment.read_bytes(f"{_COPY}/{name}"))
    return any(name.startswith(_STATE) for name in copied)


def _registered(trial: Any) -> list[Any]:
    """Tune's own list of a trial's checkpoints, from the lowest score to the highest."""
    results: list[Any] = trial.run_metadata.checkpoint_manager.best_checkpoint_results
    return results


def _belongs(name: str) -> bool:
    """Whether a file of the experiment's folder is part of the snapshot: the trials, the searcher, the callbacks."""
    return name.endswith((".json", ".pkl")) and not name.startswith(".")


def _is_whole(data: bytes) -> bool:
    """Tune writes JSON and pickles, the latter also under names that end in ``.json``; a pickle is not read here."""
    if data.startswith(b"\x80"):
        return data.endswith(b".")  # its last opcode
    try:
        json.loads(data)
    except ValueError:
        return False
    return True
