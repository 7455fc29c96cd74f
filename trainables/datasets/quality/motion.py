"""How an episode moves: smoothness, straightness, idle time, stability at the end."""

from __future__ import annotations

import numpy as np

from trainables.datasets.quality.config import QualityConfig
from trainables.datasets.quality.model import Finding
from trainables.datasets.quality.runs import noise, true_runs

__all__ = ["final_stability", "idle", "log_dimensionless_jerk", "path_efficiency", "sigma_frames"]

CUTOFF_HZ = 6.0
"""Of the low-pass before derivatives: what people and arms do on purpose is slower."""
WINDOW_S = 1.0
"""Over which a path is compared with its chord."""
IDLE_WINDOW_S = 0.2


def sigma_frames(rate_hz: float) -> float:
    """Width of the Gaussian low-pass at ``CUTOFF_HZ``, in frames."""
    return rate_hz / (2 * np.pi * CUTOFF_HZ)


def log_dimensionless_jerk(position: np.ndarray, rate_hz: float, smooth: np.ndarray, kernel: np.ndarray) -> float:
    """Log dimensionless jerk of joint positions; higher (nearer to 0) is smoother. NaN where nothing moves.

    LDLJ = -ln( T³ / v_peak² · ∫ |d³x/dt³|² dt ), Balasubramanian, Melendez-Calderon, Roby-Brami and Burdet 2015, "On the analysis of
    movement smoothness", with |.| over all joints. Positions are low-passed at ``CUTOFF_HZ``, and the share of the integral that white
    noise of the measured size would have is taken off; a joint that stands still adds nothing.

    Args:
        position: in ranges. Shape (frames, joints), at least 4 frames.
        rate_hz: frames a second.
        smooth: ``position`` through the low-pass (``runs.smoothed`` with ``sigma_frames``).
        kernel: of the low-pass.
    """
    variance = noise(position) ** 2
    speed = np.linalg.norm(np.diff(smooth, axis=0), axis=1) * rate_hz
    velocity_noise = np.sqrt((variance * np.square(np.convolve(kernel, [1, -1])).sum()).sum()) * rate_hz
    peak = float(speed.max())
    if peak <= max(1e-9, 3 * velocity_noise):
        return float("nan")
    jerk = np.diff(smooth, n=3, axis=0) * rate_hz**3
    raw = np.square(jerk).mean(axis=0)
    clean = np.maximum(raw - variance * np.square(np.convolve(kernel, [1, -3, 3, -1])).sum() * rate_hz**6, 0.05 * raw).sum()
    duration_s = len(position) / rate_hz
    return float(-np.log(max(duration_s**4 * clean / peak**2, 1e-12)))


def path_efficiency(smooth: np.ndarray, rate_hz: float) -> float:
    """Chord over path within windows of a second, weighted by path: 1 is straight, towards 0 wanders. NaN where nothing moves.

    Over a whole episode a chord says nothing of a task that ends where it began. ``smooth`` as above.
    """
    window = min(max(2, round(WINDOW_S * rate_hz)), len(smooth) - 1)
    step = np.linalg.norm(np.diff(smooth, axis=0), axis=1)
    travelled = np.concatenate([[0.0], np.cumsum(step)])
    start = np.arange(0, len(smooth) - window, max(1, window // 2))
    path = travelled[start + window] - travelled[start]
    chord = np.linalg.norm(smooth[start + window] - smooth[start], axis=1)
    return float(chord.sum() / path.sum()) if path.sum() > 1e-9 else float("nan")


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
    for start, end in zip(starts, ends, strict=True):
        mask[start : end + window] = True
    seconds = len(values) / rate_hz
    lead = 0.0 if not mask[0] else float((~mask).argmax() / rate_hz if not mask.all() else seconds)
    tail = 0.0 if not mask[-1] else float((~mask[::-1]).argmax() / rate_hz if not mask.all() else seconds)
    figures = {"idle_share": float(mask.mean()), "idle_lead_s": lead, "idle_tail_s": tail}
    findings = []
    if not mask.all():
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
    return float(np.exp(-last.std(axis=0).max() / 0.05))
