"""The outcome of a sweep: every trial's record, and the best trial at its best checkpoint."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["BestCheckpoint", "CheckpointRecord", "TrialRecord", "copy_folder_atomic", "select_best"]


@dataclass(frozen=True)
class CheckpointRecord:
    """A checkpoint that is on disk."""

    path: str
    env_steps: int
    score: float
    value: float | None
    """The sweep's metric at this checkpoint; None while no training episode has ended."""


@dataclass(frozen=True)
class TrialRecord:
    """What one trial did."""

    trial_id: str
    status: str
    """finished | stopped early | failed | unfinished"""
    sample: dict[str, Any]
    env_steps: int = 0
    last_value: float | None = None
    best_value: float | None = None
    """The metric at the best report, which need not be the last."""
    best_env_steps: int | None = None
    error: str | None = None
    warm_start_error: float | None = None
    """Largest action difference between the warm-start policy and the trial's own before training; normalised units."""
    last_figures: dict[str, float] = field(default_factory=dict)
    """Every figure of the last report."""
    checkpoints: tuple[CheckpointRecord, ...] = field(default=())

    def as_json(self) -> dict[str, Any]:
        """For the stage's result; checkpoints and the last report are left out."""
        record = asdict(self)
        del record["checkpoints"], record["last_figures"]
        return record


@dataclass(frozen=True)
class BestCheckpoint:
    """Which trial won, and with which of its checkpoints."""

    trial: TrialRecord
    checkpoint: CheckpointRecord


def select_best(trials: Iterable[TrialRecord]) -> BestCheckpoint | None:
    """The checkpoint with the highest score over all trials and all their checkpoints; None when there is none.

    A failed trial's checkpoints count: what they scored was measured. Of equal scores the one with fewer environment steps wins,
    then the lower trial id, so that the choice does not depend on the order of arrival.
    """
    candidates = [
        BestCheckpoint(trial, checkpoint) for trial in trials for checkpoint in trial.checkpoints if not math.isnan(checkpoint.score)
    ]
    return min(candidates, key=lambda best: (-best.checkpoint.score, best.checkpoint.env_steps, best.trial.trial_id), default=None)


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
