"""PPO's loss and its gradients against the formula, row by row in float64, and finite differences."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainables.ppo.loss import ppo_gradients, ppo_loss

NAMES = ("log_prob", "old_log_prob", "advantages", "value", "old_value", "target")


def row_losses(log_prob, old_log_prob, advantage, value, old_value, target, clip, value_clip) -> tuple[float, float]:
    """Of one row: Schulman et al. 2017, equation 7, and half the squared error, the larger of two where it is clipped."""
    ratio = math.exp(log_prob - old_log_prob)
    policy = -min(ratio * advantage, max(min(ratio, 1 + clip), 1 - clip) * advantage)
    error = (value - target) ** 2
    if value_clip is not None:
        error = max(error, (old_value + max(min(value - old_value, value_clip), -value_clip) - target) ** 2)
    return policy, 0.5 * error


def draw(seed: int, rows: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    data = {name: rng.normal(size=rows) for name in NAMES}
    data["log_prob"] = data["old_log_prob"] + rng.normal(0, 0.3, rows)
    return data


def tensors(data: dict[str, np.ndarray]) -> dict[str, Any]:
    return {name: torch.from_numpy(array) for name, array in data.items()}


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 30), clip=st.floats(0.05, 0.4), value_clip=st.none() | st.floats(0.1, 2.0))
def test_loss_and_gradients_equal_the_formula(seed: int, rows: int, clip: float, value_clip: float | None) -> None:
    data = draw(seed, rows)
    terms = ppo_loss(**tensors(data), clip=clip, value_clip=value_clip)
    expected = np.array([row_losses(*(data[name][row] for name in NAMES), clip, value_clip) for row in range(rows)])
    assert terms.policy.item() == pytest.approx(expected[:, 0].sum())
    assert terms.value.item() == pytest.approx(expected[:, 1].sum())
    ratio = np.exp(data["log_prob"] - data["old_log_prob"])
    assert terms.clipped.item() == np.sum(np.abs(ratio - 1) > clip)
    assert terms.kl.item() == pytest.approx(np.sum(ratio - 1 - np.log(ratio)))

    by_log_prob, by_value = ppo_gradients(**tensors(data), clip=clip, value_clip=value_clip)
    step = 1e-6
    for row in range(rows):
        for name, gradient, term in (("log_prob", by_log_prob, 0), ("value", by_value, 1)):
            plus, minus = ({**data, name: data[name] + sign * step} for sign in (1, -1))
            sides = [row_losses(*(side[key][row] for key in NAMES), clip, value_clip)[term] for side in (plus, minus)]
            slope = (sides[0] - sides[1]) / (2 * step)
            # Within a step of a kink the two sides have different slopes and the difference is between them.
            one_sided = [(side - expected[row, term]) / (sign * step) for side, sign in zip(sides, (1, -1), strict=True)]
            if abs(one_sided[0] - one_sided[1]) < 1e-3:
                assert gradient[row].item() == pytest.approx(slope, abs=1e-5)


def test_autograd_of_the_loss_is_the_written_out_gradient() -> None:
    for value_clip in (None, 0.3):
        data = tensors(draw(7, 500))
        for name in ("log_prob", "value"):
            data[name].requires_grad_()
        terms = ppo_loss(**data, clip=0.2, value_clip=value_clip)
        expected = torch.autograd.grad(terms.policy + terms.value, [data["log_prob"], data["value"]])
        computed = ppo_gradients(**{name: tensor.detach() for name, tensor in data.items()}, clip=0.2, value_clip=value_clip)
        for gradient, other in zip(computed, expected, strict=True):
            torch.testing.assert_close(gradient, other)


def test_a_row_counts_the_same_however_the_rows_are_cut() -> None:
    data = tensors(draw(3, 40))
    whole = ppo_loss(**data, clip=0.2, value_clip=0.5)
    halves = [
        ppo_loss(**{name: tensor[part] for name, tensor in data.items()}, clip=0.2, value_clip=0.5)
        for part in (slice(0, 13), slice(13, 40))
    ]
    for name in ("policy", "value", "kl", "clipped"):
        torch.testing.assert_close(getattr(whole, name), sum(getattr(half, name) for half in halves))
