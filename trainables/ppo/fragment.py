"""One env runner's share of a batch: every array is [time, environment], written in place while sampling.

The vector environments reset by themselves in the step after an episode's last one (Gymnasium's NEXT_STEP). That step's action was
ignored and its reward is 0, so it is no experience: ``valid`` is False there. The observation after an episode's last step is the
true final one, from which a cut-off episode bootstraps.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

__all__ = ["Fragment"]


@dataclass(frozen=True)
class Fragment:
    """``T`` control steps of ``N`` environments."""

    observations: np.ndarray
    """Observation before each step and after the last. Shape (T + 1, N, observation_size), float32."""
    actions: np.ndarray
    """Sampled actions, unclipped. Shape (T, N, action_size) float32, or (T, N) int64 for discrete ones."""
    log_probs: np.ndarray
    """Log density (or probability) of each action under the policy that sampled it. Shape (T, N), float32."""
    rewards: np.ndarray
    """Shape (T, N), float32."""
    terminated: np.ndarray
    """The episode ended in this step, for good. Shape (T, N), bool."""
    truncated: np.ndarray
    """The episode was cut off in this step. Shape (T, N), bool."""
    valid: np.ndarray
    """False for the step that only reset the environment. Shape (T, N), bool."""
    discounted_returns: np.ndarray
    """Running ``R <- gamma R + r`` of each environment since its episode began: the scale of the rewards. Shape (T, N), float32."""
    starts: np.ndarray
    """The observation is the first of an episode. Shape (T + 1, N), bool."""
    states: dict[str, np.ndarray]
    """Recurrent state before the steps 0, L, 2L, ...; empty for a stateless policy. Shapes (T / L, N, ...)."""
    sampling_s: float
    """How long sampling took, seconds."""

    @property
    def env_steps(self) -> int:
        """Steps that count."""
        return int(self.valid.sum())

    def split(self, parts: int) -> list[Fragment]:
        """Divide the environments among ``parts`` learners."""
        cuts = np.array_split(np.arange(self.valid.shape[1]), parts)
        return [self._map(lambda array, cut=cut: array[:, cut]) for cut in cuts]

    @classmethod
    def join(cls, fragments: list[Fragment]) -> Fragment:
        """Put the environments of several runners side by side; all have the same number of steps."""
        if len(fragments) == 1:
            return fragments[0]
        values: dict[str, Any] = {
            field.name: np.concatenate([getattr(fragment, field.name) for fragment in fragments], axis=1)
            for field in fields(cls)
            if field.name not in ("states", "sampling_s")
        }
        first = fragments[0]
        states = {name: np.concatenate([fragment.states[name] for fragment in fragments], axis=1) for name in first.states}
        return cls(**values, states=states, sampling_s=max(fragment.sampling_s for fragment in fragments))

    def _map(self, function: Any) -> Fragment:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        mapped = {name: function(value) for name, value in values.items() if isinstance(value, np.ndarray)}
        return Fragment(**{**values, **mapped, "states": {name: function(value) for name, value in self.states.items()}})
