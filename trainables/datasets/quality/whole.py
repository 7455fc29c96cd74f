"""What is wrong or odd about a dataset as a whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from cluster.lerobot.errors import DatasetError
from cluster.lerobot.features import Feature
from trainables.datasets.joints import check_joints
from trainables.datasets.quality.config import QualityConfig
from trainables.datasets.quality.measure import EpisodeRow
from trainables.datasets.quality.model import Finding
from trainables.datasets.quality.signals import Signals
from trainables.robots.registry import ROBOTS

__all__ = ["dataset_findings", "dataset_measures"]

FEW_STATES = 0.02
"""Effective number of visited regions, as a share of all, below which everything happens in one place."""


def dataset_findings(
    rows: Sequence[EpisodeRow],
    signals: Signals,
    features: Sequence[Feature],
    robot: str,
    source: str,
    coverage: dict[str, float],
    config: QualityConfig,
) -> list[Finding]:
    """Missing features, joints that are not the robot's, mixed rates, components that never change, drift, few states."""
    found: list[Finding] = []

    def add(check: str, severity: str, text: str, component: str = "", column: str = "") -> None:
        entry = {"check": check, "severity": severity, "text": text, "component": component, "column": column}
        found.append(Finding.model_validate(entry))

    if signals.action is None:
        add("missing_feature", "risk", "has no action: it can be looked at and not imitated")
    if signals.state is None:
        add("missing_feature", "risk", "has no observation.state: nothing that was measured can be held against the commands")
    if robot in ROBOTS and signals.action is not None:
        try:
            check_joints(features, robot, source)
        except DatasetError as error:
            add("joint_names", "defect", str(error).removeprefix(f"{source}: "))
    usable = [row for row in rows if row.vectors]
    rates = Counter(round(row.measures["rate_hz"]) for row in rows if "rate_hz" in row.measures)
    if len(rates) > 1 and max(rates) > min(rates) * (1 + config.rate_tolerance):
        text = ", ".join(f"{rate} Hz in {count} episodes" for rate, count in rates.most_common(4))
        add("frame_rate", "defect", f"mixes frame rates: {text}")
    if signals.action is not None and len(usable) > 1:
        span = np.max(np.stack([row.vectors["command_span"] for row in usable]), axis=0)
        still = [signals.action.labels[place] for place in np.flatnonzero(span == 0)]
        if still and len(still) < len(signals.action):
            add(
                "constant",
                "risk",
                f"{_listed(still)}: the command is the same in each episode from first to last frame",
                still[0],
                "action",
            )
    _drift(usable, signals, config, add)
    if len(usable) >= config.peers_least and coverage.get("coverage_states", np.inf) < FEW_STATES * coverage.get("coverage_regions", 0.0):
        text = f"all episodes stay in about {coverage['coverage_states']:.1f} of {coverage['coverage_regions']:.0f} regions"
        add("coverage", "risk", f"{text} of the state space")
    return found


def dataset_measures(rows: Sequence[EpisodeRow]) -> dict[str, float]:
    """Medians over the episodes, and sums."""
    found = {"duration_s": float(sum(row.duration_s for row in rows))}
    names = dict.fromkeys(name for row in rows for name in row.measures)
    for name in names:
        values = np.array([row.measures.get(name, np.nan) for row in rows])
        values = values[np.isfinite(values)]
        if len(values):
            found[f"median_{name}"] = float(np.median(values))
    return found


def _drift(rows: Sequence[EpisodeRow], signals: Signals, config: QualityConfig, add: object) -> None:
    """Whether the mean pose moves from the first to the last third of the episodes.

    Each task by itself: tasks recorded one after the other are no drift.
    """
    if len(rows) < 3 * config.peers_least // 2:
        return
    means = np.stack([row.vectors["mean"] for row in rows]).astype(np.float64)
    tasks = np.unique([row.task for row in rows], return_inverse=True)[1]
    early, late = np.zeros(len(rows), bool), np.zeros(len(rows), bool)
    for task in range(tasks.max() + 1):
        own = np.flatnonzero(tasks == task)
        if len(own) < 6:
            continue
        means[own] -= np.median(means[own], axis=0)
        early[own[: len(own) // 3]], late[own[-(len(own) // 3) :]] = True, True
    if early.sum() < 4:
        return
    shift = np.abs(np.median(means[late], axis=0) - np.median(means[early], axis=0))
    spread = (means[late].std(axis=0) + means[early].std(axis=0)) / 2
    drifting = (shift > config.drift_range) & (shift > config.drift_deviations * spread)
    for place in np.flatnonzero(drifting):
        name = signals.position.names[place]
        text = f"the mean of {signals.position.labels[place]} moves by {shift[place]:.0%} of its range"
        text += " from the first to the last third of the episodes"
        add("drift", "risk", text, name, signals.position.column)  # type: ignore[operator]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
