"""Mirroring an episode: exact, and its own inverse."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cluster.lerobot.episodes import Episode
from cluster.lerobot.errors import DatasetError
from trainables.datasets.augmentation.components import Layout, in_rows, with_rows
from trainables.datasets.augmentation.config import MirrorStep
from trainables.datasets.augmentation.phase import PhaseShift, derive_phase_shift
from trainables.datasets.augmentation.symmetry import FeatureMap, symmetry_map
from trainables.motions.gaits import GAITS, expert_targets_rad
from trainables.robots.base import RobotSpec

__all__ = ["mirror"]

_GRID = np.arange(64) / 64


def mirror(episode: Episode, step: MirrorStep, layout: Layout, robot: RobotSpec | None) -> Episode:
    """The episode seen in a mirror. ``about`` gets ``mirror_phase_shift`` (cycles) and ``mirror_asymmetry`` (of the actions).

    Raises:
        DatasetError: its phase in the mirror cannot be derived, or it is more asymmetric than ``step.max_asymmetry``.
        ConfigError: see ``symmetry_map``.
    """
    maps = symmetry_map(layout, step, robot)
    rows = {name: maps[name].apply(in_rows(episode, layout.features[name], None)) for name in layout.components}
    shift = _shift(episode, step, layout, maps, robot)
    if shift is None:
        return with_rows(episode, rows, layout.features)
    if step.max_asymmetry is not None and shift.asymmetry > step.max_asymmetry:
        raise DatasetError(
            f"its mirrored actions differ from its own by {shift.asymmetry:.3g} (RMS), more than max_asymmetry "
            f"{step.max_asymmetry:g}: under the same command a policy would be told two things"
        )
    if shift.cycles:
        # Half a cycle later sine and cosine have the other sign, exactly.
        for feature, sine, cosine in _gait_phases(layout):
            rows[feature][:, [sine, cosine]] *= -1
    facts = {"mirror_phase_shift": shift.cycles, "mirror_asymmetry": round(shift.asymmetry, 9)}
    return replace(with_rows(episode, rows, layout.features), about={**episode.about, **facts})


def _shift(episode: Episode, step: MirrorStep, layout: Layout, maps: dict[str, FeatureMap], robot: RobotSpec | None) -> PhaseShift | None:
    """How the phase moves; None: there is none."""
    phase = _phase(episode, layout)
    if phase is None:
        return None
    if "action" not in layout.components:
        if step.phase_shift == "derive":
            raise DatasetError("it has a phase but no action to derive the phase's place in the mirror from; give phase_shift 0 or 0.5")
        return PhaseShift(step.phase_shift, 0.0)
    actions = in_rows(episode, layout.features["action"])
    mirrored = maps["action"].apply(actions)
    if step.phase_shift != "derive":
        return PhaseShift(float(step.phase_shift), _residual(phase, actions, mirrored, float(step.phase_shift)))
    try:
        return derive_phase_shift(phase, actions, mirrored)
    except DatasetError:
        # Too short to tell by itself; of a known gait, the whole cycle is known.
        if robot is None or episode.task not in GAITS or layout.features["action"].size != robot.num_joints:
            raise
        targets = expert_targets_rad(episode.task, _GRID, robot.name)
        return derive_phase_shift(_GRID, targets, robot.mirrored(targets))


def _residual(phase: np.ndarray, actions: np.ndarray, mirrored: np.ndarray, shift: float) -> float:
    """Asymmetry under a given shift, where the episode shows it; 0 where it is too short."""
    try:
        found = derive_phase_shift(phase, actions, mirrored)
    except DatasetError:
        return 0.0
    return found.asymmetry if found.cycles == shift else float(np.sqrt(((mirrored - actions) ** 2).mean()))


def _phase(episode: Episode, layout: Layout) -> np.ndarray | None:
    """Place in the gait's cycle, 0..1. Shape (frames,)."""
    for feature, sine, cosine in _gait_phases(layout):
        rows = in_rows(episode, layout.features[feature])
        return np.arctan2(rows[:, sine], rows[:, cosine]) / (2 * np.pi) % 1.0
    return None


def _gait_phases(layout: Layout) -> list[tuple[str, int, int]]:
    return [found for found in layout.phases() if layout.components[found[0]][found[1]].name.endswith("phase_sin")]
