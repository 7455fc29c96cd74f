"""What no arm may do too often: is the share of its episodes that count above what is allowed?

Each guardrail of each arm has a test of its own, over all episodes in the order of assignment, those of the server's own figures
(``server_latency_p99_ms``) like the robots'. It does not wait for open episodes but takes them for harmless: the evidence can only grow
when these bring their outcomes, so an alarm stands.

**By robot** the observation is the robot here too: the share of its episodes that count, of those that the verdict looks at. Episode by
episode the test would promise what it cannot keep: one robot with a loose leg falls in each of its episodes, and after the first
its next ones are no new evidence that the *arm* makes robots fall. A robot that is not done counts with what it has already, out of all
that it may come to: its share can only grow, so an alarm stands here as well. Two robots that fall in every episode of theirs break a
guardrail of 10 % at alpha 0.05.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cluster.store.comparisons import Comparison, CountedEpisode, Guardrail
from cluster.store.episodes import SERVER_PREFIX
from serve_apps.comparison.analysis import largest_e_value
from serve_apps.comparison.eprocess import share_log_e_values
from serve_apps.comparison.report_models import GuardrailReport
from serve_apps.comparison.units import Units

__all__ = ["GuardrailShares", "figures_of", "guardrail_reports", "guardrail_shares"]


def figures_of(comparison: Comparison) -> set[str]:
    """Figures that its guardrails look at."""
    return {guardrail.name for guardrail in comparison.guardrails if guardrail.above is not None}


@dataclass(frozen=True)
class GuardrailShares:
    """What one guardrail sees of one arm: one share an observation of that arm, in the order of assignment."""

    arm: str
    guardrail: Guardrail
    is_own: NDArray[np.bool_]
    """Which of all assigned observations are the arm's. Shape (units,)."""
    shares: NDArray[np.float64]
    """Share of its episodes that count. Shape (own units,)."""
    counted: int
    """Episodes that count."""
    ended: int
    """Episodes that have ended."""

    @property
    def log_e_values(self) -> NDArray[np.float64]:
        """Evidence after each observation that the share is above what is allowed. Shape (own units,)."""
        return share_log_e_values(self.shares, self.guardrail.at_most)


def guardrail_shares(comparison: Comparison, units: Units) -> Iterator[GuardrailShares]:
    """Every guardrail of every arm that acts."""
    if not comparison.guardrails:
        return
    most = comparison.episodes_per_robot if comparison.unit == "robot" else 1
    episodes = [episode for unit in units.assigned for episode in unit]
    lengths = np.array([len(unit) for unit in units.assigned], dtype=np.int64)
    owner = np.repeat(np.arange(len(lengths)), lengths)
    sizes = np.where(np.array(units.done, dtype=bool), lengths, most)
    position = {arm.name: k for k, arm in enumerate(comparison.arms)}
    arm_of = np.array([position[unit[0].arm] for unit in units.assigned], dtype=np.int64)
    ended = np.bincount(owner, [not episode.is_open for episode in episodes], len(lengths))
    counts = [np.bincount(owner, _counts(guardrail, episodes), len(lengths)) for guardrail in comparison.guardrails]
    for arm in comparison.acting_arms:
        own = arm_of == position[arm.name]
        for guardrail, count in zip(comparison.guardrails, counts, strict=True):
            yield GuardrailShares(arm.name, guardrail, own, count[own] / sizes[own], int(count[own].sum()), int(ended[own].sum()))


def guardrail_reports(comparison: Comparison, units: Units) -> tuple[GuardrailReport, ...]:
    """The reports on them."""
    found = []
    for seen in guardrail_shares(comparison, units):
        guardrail, e_values = seen.guardrail, seen.log_e_values
        found.append(
            GuardrailReport(
                arm=seen.arm,
                name=guardrail.name,
                above=guardrail.above,
                at_most=guardrail.at_most,
                episodes=seen.ended,
                counted=seen.counted,
                e_value=largest_e_value(e_values),
                e_threshold=1.0 / guardrail.alpha,
                breached=bool(len(e_values)) and float(e_values.max()) >= -math.log(guardrail.alpha),
            )
        )
    return tuple(found)


def _counts(guardrail: Guardrail, episodes: Sequence[CountedEpisode]) -> list[bool]:
    """Of each episode, whether it counts. An outcome without the figure does not."""
    name, limit = guardrail.name, math.inf if guardrail.above is None else guardrail.above
    if name == "missing":
        return [episode.outcome is None and not episode.is_open for episode in episodes]
    if name == "fell":
        return [episode.outcome is not None and episode.outcome.fell for episode in episodes]
    if name.startswith(SERVER_PREFIX):
        key = name.removeprefix(SERVER_PREFIX)
        return [episode.outcome is not None and episode.server.get(key, -math.inf) > limit for episode in episodes]
    return [episode.outcome is not None and episode.outcome.metrics.get(name, -math.inf) > limit for episode in episodes]
