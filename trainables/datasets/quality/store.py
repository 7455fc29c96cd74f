"""Grades by the digest of the dataset that they are of: ``<shared storage>/grades/<digest>.json``."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from cluster.config import write_text_atomic
from cluster.settings import Settings
from trainables.datasets.quality.model import DatasetGrade

__all__ = ["load_grade", "save_grade"]


def save_grade(settings: Settings, grade: DatasetGrade) -> Path | None:
    """Keep a grade, in place of an earlier one of the same data; None where the dataset has no digest to keep it by."""
    if not grade.digest:
        return None
    path = _path(settings, grade.digest)
    write_text_atomic(path, grade.model_dump_json(indent=1) + "\n")
    return path


def load_grade(settings: Settings, digest: str | None) -> DatasetGrade | None:
    """The grade of a dataset; None where it was never graded, or by a version with another layout."""
    if not digest:
        return None
    try:
        return DatasetGrade.model_validate_json(_path(settings, digest).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def _path(settings: Settings, digest: str) -> Path:
    return settings.shared_path / "grades" / f"{digest}.json"
