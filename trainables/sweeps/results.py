"""The best trial at its best checkpoint, and a copy of it that is never half."""

from __future__ import annotations

import math
import os
import posixpath
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cluster.storage import Storage
from trainables.sweeps.records import TrialRecord

__all__ = ["POLICY_FOLDER", "BestCheckpoint", "CheckpointRecord", "copy_folder_atomic", "copy_policy", "select_best"]

POLICY_FOLDER = "policy"
"""Where a checkpoint keeps the policy that evaluation and export read."""


@dataclass(frozen=True)
class CheckpointRecord:
    """A checkpoint that is still there."""

    path: str
    progress: int
    score: float
    value: float | None
    """The sweep's metric at this checkpoint; None while no training episode has ended."""


@dataclass(frozen=True)
class BestCheckpoint:
    """Which trial won, and with which of its checkpoints."""

    trial: TrialRecord
    checkpoint: CheckpointRecord


def select_best(trials: Iterable[tuple[TrialRecord, Iterable[CheckpointRecord]]]) -> BestCheckpoint | None:
    """The checkpoint with the highest score over all trials and all their checkpoints; None when there is none.

    A failed trial's checkpoints count: what they scored was measured. Of equal scores the one with less progress wins, then the lower
    trial id, so that the choice does not depend on the order of arrival.
    """
    candidates = [
        BestCheckpoint(trial, checkpoint) for trial, checkpoints in trials for checkpoint in checkpoints if not math.isnan(checkpoint.score)
    ]
    return min(candidates, key=lambda best: (-best.checkpoint.score, best.checkpoint.progress, best.trial.trial_id), default=None)


def copy_policy(storage: Storage, checkpoint: str, destination: Path) -> None:
    """Bring the policy inside a checkpoint, wherever the storage is, into a local folder; whole or not at all."""
    if storage.is_local:
        copy_folder_atomic(Path(checkpoint) / POLICY_FOLDER, destination)
        return
    with tempfile.TemporaryDirectory(dir=destination.parent, prefix=f".{destination.name}.") as arriving:
        inside = posixpath.relpath(posixpath.join(checkpoint, POLICY_FOLDER), storage.root)
        storage.download_folder(inside, arriving)
        copy_folder_atomic(Path(arriving), destination)


def copy_folder_atomic(source: Path, destination: Path) -> None:
    """Copy a folder so that ``destination`` is the whole old one or the whole new one (or, for an instant, absent), never half."""
    incoming, outgoing = (destination.with_name(f".{destination.name}.{suffix}") for suffix in ("new", "old"))
    for leftover in (incoming, outgoing):
        shutil.rmtree(leftover, ignore_errors=True)
    shutil.copytree(source, incoming)
    if destination.exists():
        os.replace(destination, outgoing)
    os.replace(incoming, destination)
    shutil.rmtree(outgoing, ignore_errors=True)
