"""Splits that move by themselves while a comparison runs: a ramp or a bandit, one at a time."""

from __future__ import annotations

import math

from serve_apps.comparison.analysis import SAMPLE_RATIO_ALPHA
from serve_apps.comparison.bandit import describe_bandit, next_split
from serve_apps.comparison.counted import Counted
from serve_apps.comparison.ramp import describe_ramp, next_stage
from serve_apps.comparison.report_models import Report

__all__ = ["describe_split", "due_split"]


def due_split(counted: Counted, found: Report) -> tuple[dict[str, float], str] | None:
    """The split that should replace the one in force, and why; None: it stays.

    Nothing moves once there is a verdict, once a challenger has broken a guardrail, or while episodes are not split as the weights say.
    """
    if not _moves(found) or _held(found):
        return None
    if counted.comparison.ramp:
        return next_stage(counted)
    return next_split(counted) if counted.comparison.bandit else None


def describe_split(counted: Counted, found: Report) -> str:
    """How the split moves and where it stands, for the report; empty: it does not move."""
    comparison = counted.comparison
    if not _moves(found) or not (comparison.ramp or comparison.bandit):
        return ""
    said = describe_ramp(counted) if comparison.ramp else describe_bandit(counted)
    held = _held(found)
    return f"{said}; held: {held}" if held else said


def _moves(found: Report) -> bool:
    return found.status == "running" and found.decision == "inconclusive" and bool(found.challengers)


def _held(found: Report) -> str:
    """Why it does not move; empty: it may."""
    if math.log(found.sample_ratio_e_value) >= -math.log(SAMPLE_RATIO_ALPHA):
        return "the sample-ratio check failed"
    broken = [item.arm for item in found.challengers if item.arm in found.breached]
    return f"guardrail breached by {', '.join(broken)}" if broken else ""
