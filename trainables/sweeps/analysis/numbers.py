"""Small numeric helpers: JSON without NaN, Student's interval, curves of trials as arrays."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import stdtrit

if TYPE_CHECKING:
    from trainables.sweeps.records import SweepRecord

__all__ = ["Curve", "curves_by_trial", "finite", "floats", "plain", "student_interval"]


@dataclass(frozen=True)
class Curve:
    """One trial's reports in the order written. All arrays: shape (num_reports,), float64, NaN where nothing was reported."""

    progress: np.ndarray
    value: np.ndarray
    time_s: np.ndarray


def curves_by_trial(record: SweepRecord) -> dict[str, Curve]:
    """Trial id -> its reports; trials without reports are left out."""
    reports = record.reports
    columns = {name: reports[name].to_numpy(dtype=float) for name in ("progress", "value", "time_s")}
    return {
        str(trial): Curve(**{name: column[rows] for name, column in columns.items()})
        for trial, rows in reports.groupby("trial", sort=False).indices.items()
    }


def finite(value: Any) -> float | None:
    """``value`` as a float, None when it is not a finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        return None
    return float(value) if math.isfinite(value) else None


def floats(values: np.ndarray) -> list[float | None]:
    """An array as a JSON-able list: not finite becomes None."""
    listed: list[float | None] = values.tolist()
    for index in np.flatnonzero(~np.isfinite(values)):
        listed[index] = None
    return listed


def plain(value: Any) -> Any:
    """A JSON-able copy: what is not finite becomes None, what JSON does not know becomes text."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def student_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float] | None:
    """Student's t interval of the mean of independent values; None for fewer than two.

    mean ± t(level, n - 1) * s / sqrt(n), exact for normally distributed values.
    """
    count = len(values)
    if count < 2:
        return None
    mean, deviation = float(np.mean(values)), float(np.std(values, ddof=1))
    half_width = float(stdtrit(count - 1, (1 + level) / 2)) * deviation / math.sqrt(count)
    return mean - half_width, mean + half_width
