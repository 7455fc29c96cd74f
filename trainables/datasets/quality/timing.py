"""Time stamps: dropped frames, jitter, time that goes backwards, a rate that is not the dataset's."""

from __future__ import annotations

import numpy as np

from trainables.datasets.quality.config import QualityConfig
from trainables.datasets.quality.model import Finding
from trainables.datasets.quality.runs import median

__all__ = ["Timing", "measure_timing"]
LEAST_DELAY = 0.7
"""Periods by which the frames around a long interval must be late on the whole. After a dropped frame they stay late by one; stamps that
jitter come back."""


class Timing:
    """Of one episode.

    Attributes:
        periods: interval before each frame but the first, in whole periods, at least 1. Shape (frames - 1,).
        seconds: of each frame from the first, finite and increasing even where the stamps are not. Shape (frames,).
        measures: figures.
        findings: what is wrong.
    """

    def __init__(self, frames: int, fps: float) -> None:
        self.periods = np.ones(max(0, frames - 1))
        self.seconds = np.arange(frames) / fps
        self.measures: dict[str, float] = {}
        self.findings: list[Finding] = []

    def add(self, check: str, defect: bool, text: str, start_s: float | None = None, end_s: float | None = None) -> None:
        """One more finding."""
        self.findings.append(
            Finding(check=check, severity="defect" if defect else "risk", text=text, start_s=start_s, end_s=end_s, column="timestamp")
        )


def measure_timing(stamps: np.ndarray | None, frames: int, fps: int, config: QualityConfig) -> Timing:
    """Look at the time stamps of one episode.

    Args:
        stamps: seconds, shape (frames,); None: the source has none, so its frames are a period apart by definition.
        frames: number of frames.
        fps: frames a second of the dataset.
        config: thresholds.
    """
    timing = Timing(frames, fps)
    if stamps is None or frames < 2:
        return timing
    stamps = np.asarray(stamps, dtype=np.float64).reshape(-1)
    period = 1.0 / fps
    if not np.isfinite(stamps).all():
        return timing  # found as NaN
    interval = np.diff(stamps)
    back = np.flatnonzero(interval <= 0)
    if len(back):
        first = int(back[0])
        what = "stands still" if interval[first] == 0 else f"goes back by {-interval[first]:.3g} s"
        timing.add("time_order", True, f"time {what} at frame {first + 1}; {len(back)} such frames", first * period, (first + 1) * period)
        return timing
    timing.seconds = stamps - stamps[0]
    rate_hz = 1.0 / float(median(interval))
    timing.measures["rate_hz"] = rate_hz
    if abs(rate_hz / fps - 1) > config.rate_tolerance:
        timing.add("frame_rate", True, f"its frames come at {rate_hz:.4g} Hz; the dataset says {fps} Hz")
        period = 1.0 / rate_hz
    # Stamps are often float32: what rounding does to an interval is no jitter.
    relative = interval / period
    is_long = relative > config.gap_periods
    gaps = np.flatnonzero(is_long & (_delay(relative) > LEAST_DELAY)) if is_long.any() else np.zeros(0, int)
    dropped = np.rint(relative[gaps]).astype(int) - 1
    timing.periods[gaps] = 1.0 + dropped
    share = float(dropped.sum() / (frames + dropped.sum()))
    regular = np.delete(relative, gaps) if len(gaps) else relative
    timing.measures |= {
        "dropped_share": share,
        "longest_gap_s": float(interval.max()),
        "jitter_periods": float(regular.std()) if len(regular) else 0.0,
    }
    if len(gaps):
        worst = int(gaps[np.argmax(interval[gaps])])
        defect = share > config.dropped_defect_share or interval[worst] > config.gap_defect_s
        text = f"{int(dropped.sum())} frames dropped ({share:.1%}), the longest gap is {interval[worst]:.3g} s"
        timing.add("dropped_frames", defect, text, timing.seconds[worst], timing.seconds[worst + 1])
    if timing.measures["jitter_periods"] > config.jitter_risk:
        timing.add(
            "jitter", False, f"intervals scatter by {timing.measures['jitter_periods'] * period * 1e3:.3g} ms about {period * 1e3:.3g} ms"
        )
    return timing


def _delay(relative: np.ndarray) -> np.ndarray:
    """Of each interval, how many periods too long it is together with the two on each side. Shape (intervals,), in periods."""
    excess = np.concatenate([np.zeros(2), relative - 1.0, np.zeros(2)])
    return np.convolve(excess, np.ones(5), mode="valid")
