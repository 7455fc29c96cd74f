"""From episode tables to figures: every metric with its interval, every later policy against the first."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import binomtest

from trainables.evaluation.bootstrap import (
    bootstrap_interval,
    interquartile_mean,
    mean,
    probability_of_improvement,
    probability_of_improvement_interval,
)

__all__ = ["COMPARED", "SHARES", "Episodes", "compare", "summarise", "with_full_length"]

Episodes = dict[str, np.ndarray]
"""Metric name -> one value an episode, shape (episodes,)."""

SHARES = ("fell", "full_length")
"""Metrics that are 0 or 1 in every episode."""

COMPARED = {"forward_velocity_m_s": 1, "return": 1, "length": 1, "energy_j": -1}
"""Metrics by which policies are compared -> 1 if more is better, -1 if less is."""


def with_full_length(episodes: Episodes, max_episode_steps: int) -> Episodes:
    """Add ``full_length``: 1 for an episode that lasted to the end."""
    return {**episodes, "full_length": (episodes["length"] >= max_episode_steps).astype(np.float64)}


def summarise(episodes: Episodes, *, seed: int, resamples: int) -> dict[str, dict[str, Any]]:
    """Mean, interquartile mean and their 95 % intervals for every metric.

    Shares get Wilson's score interval for the mean: no fall in 64 episodes is no proof that none will come, and a bootstrap of
    64 zeros would say so.
    """
    options: dict[str, Any] = {"seed": seed, "resamples": resamples}
    summary: dict[str, dict[str, Any]] = {}
    for name, values in episodes.items():
        if name in SHARES:
            wilson = binomtest(round(values.sum()), len(values)).proportion_ci(0.95, method="wilson")
            interval = (float(wilson.low), float(wilson.high))
        else:
            interval = bootstrap_interval(values, mean, **options)
        summary[name] = {
            "mean": float(mean(values)),
            "ci95": list(interval),
            "iqm": float(interquartile_mean(values)),
            "iqm_ci95": list(bootstrap_interval(values, interquartile_mean, **options)),
            "std": float(values.std(ddof=1)),
            "min": float(values.min()),
            "max": float(values.max()),
        }
    return summary


def compare(challenger: Episodes, champion: Episodes, *, seed: int, resamples: int) -> dict[str, dict[str, Any]]:
    """How much better the challenger is, metric by metric, over episodes paired by seed.

    Returns:
        For each metric of ``COMPARED``: ``difference`` of the means with ``ci95`` (bootstrap of the paired differences), and
        ``probability_of_improvement`` with ``probability_ci95``, where improvement is more of a metric or, for energy, less.
    """
    options: dict[str, Any] = {"seed": seed, "resamples": resamples}
    compared: dict[str, dict[str, Any]] = {}
    for name, direction in COMPARED.items():
        if name not in challenger or name not in champion:
            continue
        difference = challenger[name] - champion[name]
        ours, theirs = direction * challenger[name], direction * champion[name]
        compared[name] = {
            "difference": float(difference.mean()),
            "ci95": list(bootstrap_interval(difference, mean, **options)),
            "probability_of_improvement": probability_of_improvement(ours, theirs),
            "probability_ci95": list(probability_of_improvement_interval(ours, theirs, **options)),
        }
    return compared
