"""Grades by the digest of the dataset that they are of: ``<shared storage>/grades/<digest>.jsonl``.

Two lines: the letter, which is all that a list of datasets needs, and the whole grade, which has some kilobytes an episode.
"""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import ValidationError

from cluster.config import write_text_atomic
from cluster.settings import Settings
from trainables.datasets.quality.model import DatasetGrade, Letter

__all__ = ["load_grade", "load_letter", "save_grade"]


def save_grade(settings: Settings, grade: DatasetGrade) -> Path | None:
    """Keep a grade, in place of an earlier one of the same data; None where the dataset has no digest to keep it by."""
    if not grade.digest:
        return None
    path = _path(settings, grade.digest)
    write_text_atomic(path, f"{json.dumps({'letter': grade.letter})}\n{grade.model_dump_json()}\n")
    return path


def load_grade(settings: Settings, digest: str | None) -> DatasetGrade | None:
    """The grade of a dataset; None where it was never graded, or by a version with another layout."""
    lines = _lines(settings, digest, 2)
    try:
        return DatasetGrade.model_validate_json(lines[1]) if lines else None
    except ValidationError:
        return None


def load_letter(settings: Settings, digest: str | None) -> Letter | None:
    """The letter of a dataset alone; None where it was never graded."""
    lines = _lines(settings, digest, 1)
    return json.loads(lines[0])["letter"] if lines else None


def _lines(settings: Settings, digest: str | None, count: int) -> list[bytes]:
    if not digest:
        return []
    try:
        with _path(settings, digest).open("rb") as file:
            return [file.readline() for _ in range(count)]
    except FileNotFoundError:
        return []


def _path(settings: Settings, digest: str) -> Path:
    return settings.shared_path / "grades" / f"{digest}.jsonl"
