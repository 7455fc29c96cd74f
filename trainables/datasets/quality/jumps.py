"""Jumps: single frames far from their neighbours, and commands that turn back at every other frame."""

from __future__ import annotations

import numpy as np

from trainables.datasets.quality.config import QualityConfig
from trainables.datasets.quality.model import Finding
from trainables.datasets.quality.runs import Runs, mean_square
from trainables.datasets.quality.signals import Channel

__all__ = ["chatter", "spikes"]

MOSTLY_STILL = 0.9
_QUARTERS = np.array([[0.25], [0.5], [0.75]])
NEIGHBOURS = 4
"""Steps on each side to which a step is compared."""


def spikes(
    values: np.ndarray,
    channel: Channel,
    scale: np.ndarray,
    runs: Runs,
    periods: np.ndarray,
    seconds: np.ndarray,
    config: QualityConfig,
) -> tuple[float, list[Finding]]:
    """Steps that are too large for their component, for their surroundings and for chance.

    A step counts when it exceeds ``spike_range_share`` of the range, ``spike_median_ratio`` times the component's median step (of
    those that are not 0), median + ``spike_robust_z`` deviations, and ``spike_local_ratio`` times the third largest of the eight steps
    around it, so that a fast movement, which has fast neighbours, is none. A step over a gap or after identical frames is shared
    out among the periods it took.

    Args:
        values: shape (frames, components).
        channel: their names.
        scale: ranges. Shape (components,).
        runs: of them.
        periods: interval of each step in periods. Shape (frames - 1,).
        seconds: of each frame.
        config: thresholds.

    Returns:
        Steps that count, and a defect for each component.
    """
    signed = values[1:] - values[:-1]
    step = np.abs(signed)
    if runs.before is not None or periods.max() > 1:
        step /= periods[:, None] + (0 if runs.before is None else runs.before)
    ordered = np.sort(step, axis=0)
    zeros = np.zeros(step.shape[1], int) if ordered[0].all() else (ordered == 0).sum(axis=0)
    places = np.minimum(len(step) - 1, zeros + ((len(step) - zeros) * _QUARTERS).astype(int))
    # Where a component hardly ever moves, its few steps are no measure of what is usual.
    quartile, median, upper = np.where(zeros < MOSTLY_STILL * len(step), ordered[places, np.arange(step.shape[1])], 0.0)
    threshold = np.maximum(config.spike_range_share * scale, config.spike_median_ratio * median)
    # 1.4826 · MAD is the interquartile range / 1.349 for the normal distribution, and the quartiles are here already.
    threshold = np.maximum(threshold, median + config.spike_robust_z * (upper - quartile) / 1.349)
    if not (ordered[-1] > threshold).any():
        return 0.0, []
    frames, components = np.nonzero(step > threshold)
    offsets = np.concatenate([np.arange(-NEIGHBOURS, 0), np.arange(1, NEIGHBOURS + 1)])
    padded = np.concatenate([np.zeros((NEIGHBOURS, step.shape[1])), step, np.zeros((NEIGHBOURS, step.shape[1]))])
    around = np.sort(padded[frames[:, None] + NEIGHBOURS + offsets, components[:, None]], axis=1)[:, -3]
    alone = step[frames, components] > config.spike_local_ratio * around
    frames, components = frames[alone], components[alone]
    findings = []
    for component in np.unique(components):
        own = frames[components == component]
        if len(own) < config.spike_least_frames:
            continue
        largest = int(own[np.argmax(step[own, component])])
        largest -= largest - 1 in own  # there and back again: the first of the two
        size, unit, at_s = abs(signed[largest, component]), channel.units[component], seconds[largest + 1]
        what = "command of" if channel.column == "action" else "joint"
        text = f"{what} {channel.labels[component]} jumps {size:.3g}{' ' + unit if unit else ''} in one frame at {at_s:.2f} s"
        text += f"; {len(own)} such steps" if len(own) > 2 else ""
        findings.append(_finding("spikes", "defect", text, channel, component, at_s, at_s))
    return float(len(frames)), findings


def chatter(values: np.ndarray, channel: Channel, scale: np.ndarray, config: QualityConfig) -> tuple[dict[str, float], list[Finding]]:
    """Share of frames in which a component's step turns back, both steps beyond noise; and the high-frequency share of its energy.

    White noise turns back in two frames of three, alternation in all. The energy share is the mean squared second difference / 6 over
    the variance: 1 for white noise, near 0 for what a hand does. Arguments as above.
    """
    step = (values[1:] - values[:-1]) / scale
    large = np.abs(step) > config.chatter_range_share
    turns = np.zeros(step.shape[1])
    if large.any():
        turns = (large[1:] & large[:-1] & (step[1:] * step[:-1] < 0)).sum(axis=0) / (len(step) - 1)
    second = mean_square(step[1:] - step[:-1]) / 6.0
    variance = values.var(axis=0) / scale**2
    energy = np.where(variance > config.chatter_range_share**2, second / np.maximum(variance, 1e-12), 0.0)
    findings = []
    for component in np.flatnonzero(turns >= config.reversal_risk_share):
        severity = "defect" if turns[component] >= config.reversal_defect_share else "risk"
        amplitude, unit = np.sqrt(second[component]) * scale[component], channel.units[component]
        text = f"{channel.labels[component]} chatters: it turns back in {turns[component]:.0%} of the frames, by about {amplitude:.2g}"
        findings.append(_finding("chatter", severity, text + (f" {unit}" if unit else ""), channel, component, None, None))
    return {"reversal_share": float(turns.max()), "high_frequency_share": float(energy.max())}, findings


def _finding(check: str, severity: str, text: str, channel: Channel, component: int, start_s: float | None, end_s: float | None) -> Finding:
    name = channel.names[int(component)]
    bounds = {"start_s": None if start_s is None else float(start_s), "end_s": None if end_s is None else float(end_s)}
    return Finding.model_validate(
        {"check": check, "severity": severity, "text": text, "component": name, "column": channel.column, **bounds}
    )
