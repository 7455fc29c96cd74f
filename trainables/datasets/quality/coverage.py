"""How much of the state space a dataset visits, and which episodes go where no other goes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trainables.datasets.quality.config import QualityConfig
from trainables.datasets.quality.measure import EpisodeRow
from trainables.datasets.quality.model import Finding

__all__ = ["Coverage", "cover"]

AXES = 3
MOST_BINS = 6
"""Quantile bins of each axis, at most, beside one at each end for what lies outside Tukey's fences: 512 cells. Each bin holds as many
states as any other, so a cell is empty for what it combines."""
FENCE = 1.5
STATES_A_CELL = 16
"""Cells are so many that each could hold this many states: with fewer a cell would be one episode's alone by chance."""


class Coverage:
    """Of a dataset.

    Attributes:
        measures: ``coverage_regions`` (cells), ``coverage_cells`` (share of them that were visited), ``coverage_states`` (effective
            number of cells, exp of the entropy of the visits; Hill 1973), ``coverage_axes_variance`` (share of the variance that the axes
            carry).
        points: states on the first two axes, thinned. Shape (points, 2).
        episodes: row of the episode that each is of. Shape (points,).
    """

    def __init__(self) -> None:
        self.measures: dict[str, float] = {}
        self.points = np.zeros((0, 2), np.float32)
        self.episodes = np.zeros(0, int)


def cover(rows: Sequence[EpisodeRow], config: QualityConfig) -> Coverage:
    """Lay a grid over the states on their principal axes; each row gets ``novel_share`` and a risk where that is far above the others'."""
    result = Coverage()
    owners = [index for index, row in enumerate(rows) if len(row.states)]
    if len(owners) < 2:
        return result
    states = np.concatenate([rows[index].states for index in owners]).astype(np.float64)
    episode = np.repeat(owners, [len(rows[index].states) for index in owners])
    centred = states - states.mean(axis=0)
    variance, axes = np.linalg.eigh(centred.T @ centred / len(centred))
    axes, variance = axes[:, ::-1], np.maximum(variance[::-1], 0.0)
    used = max(1, min(AXES, int((variance > 1e-12).sum())))
    projected = centred @ axes[:, :used]
    bins = int(np.clip((len(projected) / STATES_A_CELL) ** (1 / used), 2, MOST_BINS))
    cell = np.zeros(len(projected), int)
    for axis in range(used):
        along = projected[:, axis]
        low, high = np.quantile(along, [0.25, 0.75])
        inner = np.quantile(along, np.arange(1, bins) / bins)
        edges = np.concatenate([[low - FENCE * (high - low)], inner, [high + FENCE * (high - low)]])
        cell = cell * (bins + 2) + np.searchsorted(edges, along)
    cells = (bins + 2) ** used
    visits = np.bincount(cell, minlength=cells)
    share = visits[visits > 0] / len(cell)
    result.measures = {
        "coverage_regions": float(cells),
        "coverage_cells": float((visits > 0).mean()),
        "coverage_states": float(np.exp(-(share * np.log(share)).sum())),
        "coverage_axes_variance": float(variance[:used].sum() / max(variance.sum(), 1e-12)),
    }
    visitors = np.bincount(np.unique(cell * len(rows) + episode) // len(rows), minlength=cells)
    novel = np.bincount(episode, weights=visitors[cell] == 1, minlength=len(rows)) / np.maximum(
        np.bincount(episode, minlength=len(rows)), 1
    )
    median = float(np.median(novel[owners]))
    for index in owners:
        rows[index].measures["novel_share"] = float(novel[index])
        if len(owners) >= 2 * config.peers_least and novel[index] >= config.novel_share and median < 0.2 * config.novel_share:
            text = f"{novel[index]:.0%} of its states are where no other episode goes (median {median:.0%})"
            rows[index].findings.append(Finding(check="coverage", severity="risk", text=text))
    thin = np.unique(np.linspace(0, len(projected) - 1, min(len(projected), 4000)).astype(int))
    points = projected[thin][:, :2]
    result.points = (points if used > 1 else np.pad(points, ((0, 0), (0, 1)))).astype(np.float32)
    result.episodes = episode[thin]
    return result
