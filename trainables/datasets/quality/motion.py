"""How an episode moves: smoothness, straightness, idle time, stability at the end."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from trainables.datasets.quality.config import QualityConfig
from trainables.datasets.quality.model import Finding
from trainables.datasets.quality.runs import gaussian, mean_square, noise, smoothed, true_runs

__all__ = ["SmoothPath", "final_stability", "idle", "log_dimensionless_jerk", "path_efficiency", "smooth_path"]

CUTOFF_HZ = 6.0
"""Of the low-pass before derivatives: what people and arms do on purpose is slower."""
WINDOW_S = 1.0
"""Over which a path is compared with its chord."""
IDLE_WINDOW_S = 0.2


@dataclass(frozen=True)
class SmoothPath:
    """Joint positions, in ranges, through the low-pass at ``CUTOFF_HZ``."""

    rate_hz: float
    position: np.ndarray
    """Shape (frames, joints)."""
    step: np.ndarray
    """Its first difference. Shape (frames - 1, joints)."""
    length: np.ndarray
    """Of each step, over all joints. Shape (frames - 1,)."""


def smooth_path(position: np.ndarray, rate_hz: float) -> SmoothPath:
    """Low-pass positions in ranges. Shape (frames, joints)."""
    smooth = smoothed(position, gaussian(_sigma_frames(rate_hz)))
    step = smooth[1:] - smooth[:-1]
    return SmoothPath(rate_hz, smooth, step, np.sqrt(np.einsum("ij,ij->i", step, step)))


def log_dimensionless_jerk(position: np.ndarray, path: SmoothPath) -> float:
    """Log dimensionless jerk of joint positions; higher (nearer to 0) is smoother. NaN where nothing moves.

    LDLJ = -ln( T³ / v_peak² · ∫ |d³x/dt³|² dt ), Balasubramanian, Melendez-Calderon, Roby-Brami and Burdet 2015, "On the analysis of
    movement smoothness", with |.| over all joints. Positions are low-passed at ``CUTOFF_HZ``, and the share of the integral that white
    noise of the measured size would have is taken off; a joint that stands still adds nothing.

    Args:
        position: as it was measured, in ranges. Shape (frames, joints), at least 4 frames.
        path: the same through the low-pass.
    """
    variance = noise(position) ** 2
    velocity_gain, jerk_gain = _noise_gains(path.rate_hz)
    velocity_noise = math.sqrt(float(variance.sum()) * velocity_gain) * path.rate_hz
    peak = float(path.length.max()) * path.rate_hz
    if peak <= max(1e-9, 3 * velocity_noise):
        return float("nan")
    second = path.step[1:] - path.step[:-1]
    raw = mean_square(second[1:] - second[:-1])
    clean = float(np.maximum(raw - variance * jerk_gain, 0.05 * raw).sum()) * path.rate_hz**6
    duration_s = len(position) / path.rate_hz
    return -math.log(max(duration_s**4 * clean / (peak * peak), 1e-12))


def path_efficiency(path: SmoothPath) -> float:
    """Chord over path within windows of a second, weighted by path: 1 is straight, towards 0 wanders. NaN where nothing moves.

    Over a whole episode a chord says nothing of a task that ends where it began.
    """
    smooth = path.position
    window = min(max(2, round(WINDOW_S * path.rate_hz)), len(smooth) - 1)
    travelled = np.zeros(len(smooth))
    np.cumsum(path.length, out=travelled[1:])
    every, last = max(1, window // 2), len(smooth) - window
    covered = float((travelled[window::every] - travelled[:last:every]).sum())
    chord = smooth[window::every] - smooth[:last:every]
    return float(np.sqrt(np.einsum("ij,ij->i", chord, chord)).sum()) / covered if covered > 1e-9 else float("nan")


def idle(values: np.ndarray, rate_hz: float, config: QualityConfig) -> tuple[np.ndarray, dict[str, float], list[Finding]]:
    """Frames in which no component moves faster than ``idle_speed`` over 0.2 s and than its noise would.

    Args:
        values: commands, or positions where there are none, in ranges. Shape (frames, components).
        rate_hz: frames a second.
        config: thresholds.

    Returns:
        Mask of shape (frames,), figures, and risks: a long idle beginning or end.
    """
    window = min(max(1, round(IDLE_WINDOW_S * rate_hz)), len(values) - 1)
    width_s = window / rate_hz
    speed = np.abs(values[window:] - values[:-window]) / width_s
    threshold = np.maximum(config.idle_speed, 4 * np.sqrt(2) * noise(values) / width_s)
    still = (speed < threshold).all(axis=1)
    # A frame is idle when the window that begins or the one that ends with it is.
    mask = np.zeros(len(values), dtype=bool)
    starts, ends = true_runs(still)
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        mask[start : end + window] = True
    count, seconds = int(np.count_nonzero(mask)), len(values) / rate_hz
    moves = count < len(mask)
    lead = 0.0 if not mask[0] else float(mask.argmin() / rate_hz if moves else seconds)
    tail = 0.0 if not mask[-1] else float(mask[::-1].argmin() / rate_hz if moves else seconds)
    figures = {"idle_share": count / len(mask), "idle_lead_s": lead, "idle_tail_s": tail}
    findings = []
    if moves:
        if lead >= config.idle_edge_s:
            findings.append(
                Finding(check="idle", severity="risk", text=f"nothing moves for the first {lead:.1f} s", start_s=0.0, end_s=lead)
            )
        if tail >= config.idle_edge_s:
            text = f"nothing moves for the last {tail:.1f} s"
            findings.append(Finding(check="idle", severity="risk", text=text, start_s=seconds - tail, end_s=seconds))
    return mask, figures, findings


def final_stability(position: np.ndarray, rate_hz: float) -> float:
    """exp(-std / 0.05) over the last half second, std in ranges of the joint that moves most: 1 has come to rest."""
    last = position[-max(2, round(0.5 * rate_hz)) :]
    return math.exp(-float(last.std(axis=0).max()) / 0.05)


def _sigma_frames(rate_hz: float) -> float:
    """Width of the Gaussian low-pass at ``CUTOFF_HZ``, in frames."""
    return rate_hz / (2 * np.pi * CUTOFF_HZ)


@lru_cache
def _noise_gains(rate_hz: float) -> tuple[float, float]:
    """What the variance of white noise becomes in the first and third difference of the low-passed path."""
    kernel = gaussian(_sigma_frames(rate_hz))
    return float(np.square(np.convolve(kernel, [1, -1])).sum()), float(np.square(np.convolve(kernel, [1, -3, 3, -1])).sum())
