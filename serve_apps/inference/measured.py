"""What a replica measures of an episode while it drives it: steps, failed steps, and how long each took."""

from __future__ import annotations

from typing import Any

from cluster.latency import LatencyHistogram

__all__ = ["MeasuredEpisode"]


class MeasuredEpisode:
    """One episode's figures here.

    Attributes:
        steps: steps that came to the policy, failed ones included.
        error_steps: of those, the ones that it gave no action for: it failed, or its action was not finite.
        latency: of the others, from the arrival of the observation to the action.
    """

    __slots__ = ("error_steps", "latency", "steps")

    def __init__(self) -> None:
        self.steps = 0
        self.error_steps = 0
        self.latency = LatencyHistogram()

    def step(self, duration_s: float) -> None:
        """A step was answered."""
        self.steps += 1
        self.latency.add(duration_s)

    def failed(self) -> None:
        """A step was not."""
        self.steps += 1
        self.error_steps += 1

    def to_json(self) -> dict[str, Any] | None:
        """What is stored beside the outcome; None when no step came here."""
        if not self.steps:
            return None
        latency = self.latency
        return {
            "steps": self.steps,
            "error_steps": self.error_steps,
            "latency_p50_ms": round(latency.quantile_ms(0.5), 4),
            "latency_p99_ms": round(latency.quantile_ms(0.99), 4),
            "latency_max_ms": round(latency.largest_ms, 4),
        }
