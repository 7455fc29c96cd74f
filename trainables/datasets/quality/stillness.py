"""What stands still or lies at an edge: repeated frames, frozen sensors, stuck commands, limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainables.datasets.quality.config import QualityConfig
from trainables.datasets.quality.limits import Limits
from trainables.datasets.quality.model import Finding
from trainables.datasets.quality.runs import Runs, noise, true_runs
from trainables.datasets.quality.signals import Channel

__all__ = ["Partners", "at_limits", "clipped_share", "held_frames", "still_while_partner_moves"]

SETTLING_S = 0.3
"""What a joint may still move after its command has come to rest."""
RESUMES_RANGE = 0.08
"""Step, in ranges, with which a frozen sensor wakes up somewhere else; a joint that was blocked starts slowly."""
MOST_CLIPPED = 0.9
"""A component that lies at its extreme for longer does not move; a single jump away from there is no cut-off motion."""
NOISE_SPREAD = 8.0
"""Standard deviations between the extremes of a second of white noise, with room: what a joint at rest seems to move."""


@dataclass(frozen=True)
class Partners:
    """The other side of components: their commands, or their measured positions."""

    values: np.ndarray
    """Shape (frames, components of the other side)."""
    scale: np.ndarray
    """Ranges of them."""
    places: Mapping[int, int]
    """Component -> the one of the other side that belongs to it."""


def held_frames(
    same: np.ndarray, position: np.ndarray, scale: np.ndarray, seconds: np.ndarray, config: QualityConfig
) -> tuple[float, list[Finding]]:
    """Share of frames that repeat the whole measured state bit by bit in the middle of a motion.

    The motion must be on right before and right after, at ``held_speed``: a robot that stops, or one whose coarse encoders change now
    and then, is none.

    Args:
        same: steps in which the whole state stays the same. Shape (frames - 1,).
        position: joints. Shape (frames, components).
        scale: ranges of the joints.
        seconds: of each frame.
        config: thresholds.
    """
    starts, ends = true_runs(same)
    inside = (starts > 0) & (ends < len(same))
    starts, ends = starts[inside], ends[inside]
    if not len(starts):
        return 0.0, []
    speed = (np.abs(np.diff(position, axis=0)) / scale).max(axis=1)
    held = (speed[starts - 1] > config.held_speed) & (speed[ends] > config.held_speed)
    starts, ends = starts[held], ends[held]
    share = float((ends - starts).sum() / len(position))
    if share < config.held_risk_share:
        return share, []
    longest = int(np.argmax(ends - starts))
    text = f"{int((ends - starts).sum())} frames ({share:.1%}) repeat the one before in mid-motion"
    text += f", up to {int((ends - starts)[longest])} in a row"
    severity = "defect" if share >= config.held_defect_share else "risk"
    begin, end = float(seconds[starts[longest]]), float(seconds[ends[longest]])
    return share, [Finding.model_validate({"check": "repeated_frames", "severity": severity, "text": text, "start_s": begin, "end_s": end})]


def still_while_partner_moves(
    values: np.ndarray, channel: Channel, runs: Runs, partners: Partners, rate_hz: float, config: QualityConfig
) -> list[Finding]:
    """Components that stay bit-identical while their partner moves: a frozen sensor, or a stuck command.

    A gripper that holds something stands still too while its command goes on. So a sensor counts when the command passes over
    ``still_partner_range`` and either the sensor wakes with a step or the command has gone a whole range in that time.

    Args:
        values: shape (frames, components).
        channel: their names; ``action`` is looked at as commands.
        runs: of them.
        partners: their other side.
        rate_hz: frames a second.
        config: thresholds.

    Returns:
        A defect for each component.
    """
    longest, start = runs.longest, runs.first
    commands, findings = channel.column == "action", []
    for component in np.flatnonzero(longest >= config.still_s * rate_hz):
        place = partners.places.get(int(component))
        if place is None:
            continue
        other, scale = partners.values[:, place], float(partners.scale[place])
        begin, end = int(start[component]), int(start[component] + longest[component]) + 1
        settled = begin + round(SETTLING_S * rate_hz) if commands else begin
        own = other[settled:end] / scale
        if len(own) < 3:
            continue
        # Where the partner itself stands still, bit by bit, it has no noise that could be measured.
        changes = np.concatenate([[True], np.diff(other) != 0])
        travel = np.ptp(own) - NOISE_SPREAD * float(noise(other[changes, None] / scale)[0])
        if travel < config.still_partner_range:
            continue
        if not commands:
            wakes = end < len(values) and abs(values[end, component] - values[end - 1, component]) > RESUMES_RANGE * scale
            if not wakes and np.abs(np.diff(own)).sum() < 1.0:
                continue
        name, label, held_s = channel.names[component], channel.labels[component], longest[component] / rate_hz
        moves = f"moves {travel:.0%} of its range"
        text = f"command of {label} is stuck for {held_s:.2g} s from {begin / rate_hz:.2f} s while the joint {moves}"
        if not commands:
            text = f"{label} is frozen for {held_s:.2g} s from {begin / rate_hz:.2f} s while its command {moves}"
        bounds = {"start_s": begin / rate_hz, "end_s": end / rate_hz}
        check = "stuck_command" if commands else "frozen_sensor"
        findings.append(
            Finding.model_validate(
                {"check": check, "severity": "defect", "text": text, "component": name, "column": channel.column, **bounds}
            )
        )
    return findings


def at_limits(
    values: np.ndarray, channel: Channel, limits: Limits, moving: np.ndarray, seconds: np.ndarray, config: QualityConfig
) -> tuple[dict[str, float], list[Finding]]:
    """Share of the moving frames at a known limit, and what lies beyond one.

    Args:
        values: shape (frames, components).
        channel: their names.
        limits: of them.
        moving: frames that are not idle. Shape (frames,).
        seconds: of each frame.
        config: thresholds.
    """
    known = np.flatnonzero(np.isfinite(limits.span))
    if not len(known):
        return {}, []
    part, low, high, span = values[:, known], limits.low[known], limits.high[known], limits.span[known]
    margin = config.limit_margin * span
    at = ((part <= low + margin) | (part >= high - margin))[moving].mean(axis=0) if moving.any() else np.zeros(len(known))
    over = np.maximum(low - part, part - high)
    excess = over.max(axis=0)
    commands, findings = channel.column == "action", []
    for place, component in enumerate(known):
        name, unit = channel.names[component], channel.units[component]
        what = f"{'command of ' if commands else ''}{channel.labels[component]}"
        if excess[place] > config.beyond_margin * span[place]:
            text = f"{what} goes {excess[place]:.3g}{' ' + unit if unit else ''} beyond its limit ({limits.sources[component]})"
            beyond = seconds[over[:, place] > config.beyond_margin * span[place]]
            where: dict[str, Any] = {"component": name, "column": channel.column, "start_s": beyond[0], "end_s": beyond[-1]}
            findings.append(Finding(check="beyond_limits", severity="defect", text=text, **where))
        elif at[place] >= config.limit_risk_share:
            text = f"{what} is at its limit in {at[place]:.0%} of the moving frames ({limits.sources[component]})"
            findings.append(Finding(check="saturation", severity="risk", text=text, component=name, column=channel.column))
    return {"at_limit_share": float(at.max())}, findings


def clipped_share(values: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Share of frames in which a component lies bit-identical at its own extreme, three frames or more in a row; 0 where it hardly moves.

    Shapes (frames, components), (components,) -> (components,).
    """
    if len(values) < 3:
        return np.zeros(values.shape[1])
    low, high = values.min(axis=0), values.max(axis=0)
    edge = (values == low) | (values == high)
    whole = edge[2:] & edge[1:-1] & edge[:-2]
    if not whole.any():
        return np.zeros(values.shape[1])
    three = np.zeros_like(edge)
    three[2:] |= whole
    three[1:-1] |= whole
    three[:-2] |= whole
    share: np.ndarray = three.mean(axis=0)
    return np.where((high - low > 0.1 * scale) & (share < MOST_CLIPPED), share, 0.0)
