"""How pages and reports write figures: digits, units, shares, durations."""

from __future__ import annotations

import math
from typing import Any

__all__ = ["duration", "in_unit", "number", "percent", "plural", "unit_of"]

_UNITS = {
    "_m_s": "m/s",
    "_m_s2": "m/s²",
    "_rad_s": "rad/s",
    "_per_s": "per s",
    "_ms": "ms",
    "_s": "s",
    "_m": "m",
    "_rad": "rad",
    "_deg": "°",
    "_nm": "N·m",
    "_kg": "kg",
    "_hz": "Hz",
    "_j": "J",
    "_w": "W",
}
"""Suffix of a figure's name -> its unit; longer suffixes first where one ends like another."""


def unit_of(name: str) -> str:
    """The unit that a figure's name carries as a suffix; empty when it has none."""
    return next((unit for suffix, unit in _UNITS.items() if name.endswith(suffix)), "")


def number(value: Any, digits: int = 4) -> str:
    """A figure with significant digits; what is no number becomes text, None a dash."""
    if value is None:
        return "–"
    if isinstance(value, (bool, str)) or not isinstance(value, (int, float)):
        return _value_text(value)
    if isinstance(value, float) and not math.isfinite(value):
        return "–"
    if isinstance(value, int) or float(value).is_integer():
        return f"{int(value):,}" if abs(value) < 1e15 else f"{value:.{digits}g}"
    if 1e-3 <= abs(value) < 10**digits:
        return f"{value:.{digits}g}"
    if abs(value) >= 10**digits:
        return f"{value:,.0f}"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def in_unit(value: Any, name: str) -> str:
    """A figure with the unit of its name."""
    unit = unit_of(name)
    return f"{number(value)} {unit}" if unit and value is not None else number(value)


def percent(share: float | None, digits: int = 0) -> str:
    """A share; below one percent as such, never as 0."""
    if share is None:
        return "–"
    if 0 < share < 0.01 and digits == 0:
        return "under 1 %"
    return f"{100 * share:.{digits}f} %"


def duration(seconds: float | None) -> str:
    """2 h 5 min, 3 min 20 s, 4.5 s."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def plural(amount: int, noun: str) -> str:
    """1 trial, 2 trials."""
    return f"{amount:,} {noun}{'' if amount == 1 else 's'}"


def _value_text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(number(item) for item in value) + "]"
    return str(value)
