"""How the step size and the entropy bonus change over a run: linear to a final value, or steered by the KL divergence."""

from __future__ import annotations

__all__ = ["adapted_learning_rate", "linear"]

_FACTOR = 1.5
_LOWEST, _HIGHEST = 1e-6, 1e-2


def linear(start: float, end: float | None, done: float) -> float:
    """From ``start`` to ``end`` while ``done`` goes from 0 to 1, ``end`` afterwards; always ``start`` without an end."""
    return start if end is None else start + (end - start) * min(max(done, 0.0), 1.0)


def adapted_learning_rate(learning_rate: float, kl: float, kl_target: float) -> float:
    """The next iteration's step size, within 1e-6 .. 1e-2.

    Divided by 1.5 when the policy moved more than twice as far as wished, multiplied by 1.5 when less than half as far: the rule
    and the factors of Rudin et al. 2022 (legged_gym, rsl_rl).
    """
    if kl > 2 * kl_target:
        return max(_LOWEST, learning_rate / _FACTOR)
    if 0 <= kl < 0.5 * kl_target:
        return min(_HIGHEST, learning_rate * _FACTOR)
    return learning_rate
