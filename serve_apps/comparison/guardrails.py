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

import numpy as np

from cluster.store.comparisons import Comparison, CountedEpisode, Guardrail
from cluster.store.episodes import SERVER_PREFIX
from serve_apps.comparison.analysis import largest_e_value
from serve_apps.comparison.eprocess import share_log_e_values
from serve_apps.comparison.report_models import GuardrailReport
from serve_apps.comparison.units import Units

__all__ = ["figures_of", "guardrail_reports"]


def figures_of(comparison: Comparison) -> set[str]:
    """Figures that its guardrails look at."""
    return {guardrail.name for guardrail in comparison.guardrails if guardrail.above is not None}


def guardrail_reports(comparison: Comparison, units: Units) -> tuple[GuardrailReport, ...]:
    """Every guardrail of every arm that acts."""
    most = comparison.episodes_per_robot if comparison.unit == "robot" else 1
    found = []
    for arm in comparison.acting_arms if comparison.guardrails else ():
        own = [(unit, done) for unit, done in zip(units.assigned, units.done, strict=True) if unit[0].arm == arm.name]
        sizes = np.array([len(unit) if done else most for unit, done in own], dtype=np.float64)
        ended = sum(not episode.is_open for unit, _ in own for episode in unit)
        for guardrail in comparison.guardrails:
            counts = np.array([sum(_counts(guardrail, episode) for episode in unit) for unit, _ in own], dtype=np.float64)
            e_values = share_log_e_values(counts / sizes, guardrail.at_most)
            found.append(
                GuardrailReport(
                    arm=arm.name,
                    name=guardrail.name,
                    above=guardrail.above,
                    at_most=guardrail.at_most,
                    episodes=ended,
                    counted=int(counts.sum()),
                    e_value=largest_e_value(e_values),
                    e_threshold=1.0 / guardrail.alpha,
                    breached=bool(len(e_values)) and float(e_values.max()) >= -math.log(guardrail.alpha),
                )
            )
    return tuple(found)


def _counts(guardrail: Guardrail, episode: CountedEpisode) -> bool:
    if guardrail.name == "missing":
        return episode.outcome is None and not episode.is_open
    if episode.outcome is None:
        return False
    if guardrail.name == "fell":
        return episode.outcome.fell
    if guardrail.name.startswith(SERVER_PREFIX):
        value = episode.server.get(guardrail.name.removeprefix(SERVER_PREFIX))
    else:
        value = episode.outcome.metrics.get(guardrail.name)
    return value is not None and guardrail.above is not None and value > guardrail.above
