"""Action against state: how many frames a joint is behind its command, and whether each channel is the joint that it says."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trainables.datasets.quality.config import QualityConfig
from trainables.datasets.quality.model import Finding
from trainables.datasets.quality.runs import mean_square
from trainables.datasets.quality.signals import Signals

__all__ = ["Following", "follow", "start_jump"]

LEAST_STEP = 0.002
"""Root mean square step, in ranges, of a component that moves."""
START_S = 0.5
NEAR_BEST = 0.97
"""A periodic motion correlates again a period later: of lags nearly as good as the best one the shortest is meant."""


@dataclass(frozen=True)
class Following:
    """Of one episode."""

    lag_frames: float
    """Frames by which the state follows the command; negative: the state came first. NaN: not to be told."""
    correlation: float
    """Mean correlation of the velocities at that lag."""
    own: np.ndarray
    """Correlation of each pair at that lag; NaN where one does not move. Shape (pairs,)."""
    findings: tuple[Finding, ...]


def follow(
    state: np.ndarray, action: np.ndarray, periods: np.ndarray, signals: Signals, rate_hz: float, config: QualityConfig
) -> Following:
    """Cross-correlate commands and positions.

    Differences over two frames are correlated, so that an offset or a slow drift between command and joint does not matter and
    single-frame noise matters little; every joint has the same say.

    Args:
        state: in ranges. Shape (frames, state components).
        action: in ranges. Shape (frames, action components).
        periods: interval before each frame but the first, in periods; a step over a gap, which both make at once, is left out.
        signals: which belong together.
        rate_hz: frames a second.
        config: thresholds.
    """
    count = len(signals.pairs)
    nothing = Following(float("nan"), float("nan"), np.full(count, np.nan), ())
    most = min(round(config.lag_most_s * rate_hz), len(state) // 3)
    if not count or most < 1:
        return nothing
    left, right = (list(places) for places in zip(*signals.pairs, strict=True))
    moved = [state[2:] - state[:-2], action[2:] - action[:-2]]
    if periods.max() > 1:
        whole = ((periods[1:] == 1) & (periods[:-1] == 1))[:, None]
        moved = [item * whole for item in moved]
    size = [np.sqrt(mean_square(item)) for item in moved]
    pairs = ((size[0][left] > LEAST_STEP) & (size[1][right] > LEAST_STEP)).nonzero()[0]
    if not len(pairs):
        return nothing
    measured, wanted = (
        _rows(item, norm, [places[pair] for pair in pairs], most) for item, norm, places in zip(moved, size, (left, right), strict=True)
    )
    frames = len(state) - 2
    lag, correlation = _best_lag(measured, wanted, frames, most)
    shift = lag if correlation >= config.lag_correlation else 0
    late = measured[:, most + max(shift, 0) : most + frames + min(shift, 0)]
    soon = wanted[:, most + max(-shift, 0) : most + frames + min(-shift, 0)]
    norms = np.sqrt(np.outer(mean_square(late.T), mean_square(soon.T))) * late.shape[1]
    matrix = late @ soon.T / np.maximum(norms, 1e-12)
    own = np.full(count, np.nan)
    own[pairs] = matrix.diagonal()
    findings = _channels(matrix, [right[pair] for pair in pairs], signals, config)
    believed = correlation >= config.lag_correlation
    return Following(float(lag) if believed else float("nan"), correlation, own, findings)


def start_jump(state: np.ndarray, action: np.ndarray, signals: Signals, rate_hz: float, config: QualityConfig) -> list[Finding]:
    """A joint that travels to its first command while that stands still: follower and leader were not together when recording began.

    ``state``, ``action`` and the others as of ``follow``.
    """
    window = min(len(state), max(2, round(START_S * rate_hz)))
    travels: dict[str, float] = {}
    travelled = np.abs(state[window - 1] - state[0])
    if travelled.max() <= config.start_range:
        return []
    for left, right in signals.pairs:
        own, command, travel = state[:window, left], action[:window, right], float(travelled[left])
        if travel > config.start_range and np.ptp(command) < 0.2 * travel and abs(own[-1] - command[-1]) < 0.5 * abs(own[0] - command[0]):
            travels[signals.state.names[left] if signals.state else ""] = travel
    if not travels:
        return []
    name = max(travels, key=lambda joint: travels[joint])
    label = signals.state.labels[signals.state.names.index(name)] if signals.state else name
    text = f"starts away from the first command and travels there by itself: {label} by {travels[name]:.0%} of its range"
    text += f", and {len(travels) - 1} more joints" if len(travels) > 1 else ""
    return [Finding(check="start", severity="risk", text=text, component=name, start_s=0.0, end_s=window / rate_hz)]


def _rows(moved: np.ndarray, size: np.ndarray, places: list[int], most: int) -> np.ndarray:
    """Some components in rows, of root mean square 1, ``most`` zeros at both ends. (n, k) -> (places, n + 2 · most), float32.

    Single precision is plenty for a correlation.
    """
    rows = np.zeros((len(places), len(moved) + 2 * most), np.float32)
    np.divide(moved.T[places], size[places, None], out=rows[:, most : most + len(moved)], casting="same_kind")
    return rows


def _best_lag(measured: np.ndarray, wanted: np.ndarray, frames: int, most: int) -> tuple[int, float]:
    """Rows as ``_rows`` gives them, of ``frames``. The lag and the mean correlation there."""
    # Between two rows lie enough zeros that all of them together, one after the other, are correlated in one go.
    raw = np.correlate(measured.reshape(-1), wanted.reshape(-1)[most:-most], mode="valid")
    lags = np.arange(-most, most + 1)
    values = raw.astype(np.float64) / (len(measured) * (frames - np.abs(lags)))  # fewer frames overlap at a longer lag
    peak = np.ones(len(values), bool)
    peak[1:] &= values[1:] >= values[:-1]
    peak[:-1] &= values[:-1] >= values[1:]
    near = (peak & (values >= NEAR_BEST * values.max())).nonzero()[0]
    chosen = near[np.abs(lags[near]).argmin()] if len(near) else values.argmax()
    return int(lags[chosen]), float(values[chosen])


def _channels(matrix: np.ndarray, actions: list[int], signals: Signals, config: QualityConfig) -> tuple[Finding, ...]:
    """Two channels that were exchanged, and one whose sign was."""
    assert signals.action is not None
    names = [signals.action.names[place] for place in actions]
    labels = [signals.action.labels[place] for place in actions]
    own = matrix.diagonal()
    if (own >= config.channel_own).all():
        return ()
    other = matrix - np.diag(np.full(len(own), np.inf))
    findings, exchanged = [], set()
    for joint in range(len(own)):
        if len(own) < 2 or joint in exchanged or own[joint] >= config.channel_own:
            continue
        best = int(np.argmax(other[joint]))
        mutual = other[joint, best] > config.channel_other and other[best, joint] > config.channel_other and own[best] < config.channel_own
        if mutual and best not in exchanged:
            exchanged |= {joint, best}
            text = f"commands of {labels[joint]} and {labels[best]} look exchanged: each joint follows the other's "
            text += (
                f"(correlation {other[joint, best]:.2f} and {other[best, joint]:.2f}; with its own {own[joint]:.2f} and {own[best]:.2f})"
            )
            findings.append(Finding(check="channels", severity="defect", text=text, component=names[joint], column="action"))
    for joint in np.flatnonzero(own < -config.channel_other):
        if int(joint) not in exchanged:
            text = f"command of {labels[joint]} has the other sign: the joint moves against it (correlation {own[joint]:.2f})"
            findings.append(Finding(check="channels", severity="defect", text=text, component=names[joint], column="action"))
    return tuple(findings)
