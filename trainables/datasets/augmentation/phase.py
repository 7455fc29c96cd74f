"""How a gait's phase moves in the mirror: by half a cycle or not at all, derived from the actions over the phase.

Let f be the actions over the phase and M the mirror. A gait that is its own mirror image at a shift s has M f(p) = f(p + s). Mirroring
twice changes nothing, so f(p) = f(p + 2 s): s is 0 or half a cycle, and the smaller of the two residuals tells which. An
asymmetric motion fits neither; what is left over is its asymmetry.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cluster.lerobot.errors import DatasetError

__all__ = ["PhaseShift", "derive_phase_shift", "largest_gap"]

_HARMONICS = 6
_LARGEST_GAP = 0.2
"""Share of a cycle that may be missing: more, and the fit between its ends is a guess."""
_HELD = 1e-3
"""A phase that moves less than this, in cycles, is that of a held posture."""


@dataclass(frozen=True)
class PhaseShift:
    """What was found."""

    cycles: float
    """0 or 0.5."""
    asymmetry: float
    """Root mean square difference between the mirrored actions and the actions at the shifted phase, in the actions' unit."""


def derive_phase_shift(phase: np.ndarray, actions: np.ndarray, mirrored: np.ndarray) -> PhaseShift:
    """The shift under which the mirrored actions are most nearly the actions.

    Args:
        phase: place in the cycle, 0..1. Shape (frames,).
        actions: as recorded. Shape (frames, n).
        mirrored: the same in the mirror. Shape (frames, n).

    Raises:
        DatasetError: the frames do not go through the whole cycle.
    """
    centred = (phase - phase[0] + 0.5) % 1.0 - 0.5
    if np.ptp(centred) < _HELD:
        return PhaseShift(0.0, float(np.sqrt(((mirrored - actions) ** 2).mean())))
    gap = largest_gap(phase)
    if gap > _LARGEST_GAP:
        raise DatasetError(
            f"{gap:.0%} of the gait's cycle is missing, so that the phase in the mirror cannot be derived; "
            "give phase_shift 0 or 0.5 (a trot and a walk: 0.5), or leave short episodes out"
        )
    order = np.arange(1, _HARMONICS + 1)
    angle = 2 * np.pi * phase[:, None] * order
    design = np.concatenate([np.ones((len(phase), 1)), np.cos(angle), np.sin(angle)], axis=1)
    both, *_ = np.linalg.lstsq(design, np.concatenate([actions, mirrored], axis=1), rcond=1e-6)
    own, other = np.split(both, 2, axis=1)
    # Half a cycle later, the odd harmonics have the other sign.
    half = np.concatenate([[1.0], *[np.where(order % 2, -1.0, 1.0)] * 2])[:, None]
    power = np.concatenate([[1.0], np.full(2 * _HARMONICS, 0.5)])[:, None]
    residuals = [float(np.sqrt((power * (other - factor * own) ** 2).sum(axis=0).mean())) for factor in (1.0, half)]
    return PhaseShift(0.0, residuals[0]) if residuals[0] <= residuals[1] else PhaseShift(0.5, residuals[1])


def largest_gap(phase: np.ndarray) -> float:
    """Largest share of the cycle without a frame."""
    ordered = np.sort(phase % 1.0)
    return float(np.diff(np.append(ordered, ordered[0] + 1.0)).max())
