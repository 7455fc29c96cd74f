from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from serve_apps.comparison.assignment import MAX_ARMS, assign, uniforms

WEIGHTS = st.lists(st.floats(0.01, 100.0), min_size=2, max_size=MAX_ARMS)
IDS = [f"episode-{number}" for number in range(20_000)]


@given(salt=st.text(max_size=80), episode_id=st.text(max_size=80), weights=WEIGHTS)
def test_an_episode_always_gets_the_same_arm_and_its_propensity(salt: str, episode_id: str, weights: list[float]) -> None:
    arm, propensity = assign(salt, episode_id, weights)
    assert (arm, propensity) == assign(salt, episode_id, weights)
    assert propensity == pytest.approx(weights[arm] / sum(weights))
    assert 0 < propensity <= 1


def test_another_process_agrees() -> None:
    code = "from serve_apps.comparison.assignment import assign; print([assign('salt', str(n), (0.9, 0.1))[0] for n in range(200)])"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "7"}).stdout
    assert output.strip() == str([assign("salt", str(number), (0.9, 0.1))[0] for number in range(200)])


@pytest.mark.parametrize("weights", [(0.5, 0.5), (0.9, 0.1), (1.0, 2.0, 3.0, 4.0)])
def test_arms_get_their_shares(weights: tuple[float, ...]) -> None:
    counts = np.bincount([assign("salt", name, weights)[0] for name in IDS], minlength=len(weights))
    expected = len(IDS) * np.array(weights) / sum(weights)
    # A fixed salt and fixed ids: this is one draw, looked at once.
    assert stats.chisquare(counts, expected).pvalue > 1e-3


def test_draws_are_uniform_and_independent_between_arms_and_salts() -> None:
    draws = np.array([uniforms("salt", name, 2) + uniforms("other", name, 1) for name in IDS])
    assert draws.min() > 0
    assert draws.max() < 1
    for column in draws.T:
        assert stats.kstest(column, "uniform").pvalue > 1e-3
    correlation = np.corrcoef(draws.T) - np.eye(3)
    assert np.abs(correlation).max() < 4 / np.sqrt(len(IDS))


@pytest.mark.parametrize(
    ("before", "after"), [((0.9, 0.1), (0.75, 0.25)), ((5.0, 3.0, 2.0), (5.0, 3.0, 4.0)), ((1.0, 1.0, 1.0, 1.0), (1.0, 0.0, 1.0, 1.0))]
)
def test_a_changed_weight_moves_as_few_episodes_as_it_can(before: tuple[float, ...], after: tuple[float, ...]) -> None:
    old = np.array([assign("salt", name, before)[0] for name in IDS])
    new = np.array([assign("salt", name, after)[0] for name in IDS])
    shares = [np.array(weights) / sum(weights) for weights in (before, after)]
    least = np.abs(shares[1] - shares[0]).sum() / 2
    assert np.mean(old != new) == pytest.approx(least, abs=4 * np.sqrt(least / len(IDS)))
    changed = int(np.argmax(np.abs(np.array(after) - np.array(before)) / np.array(before))) if len(before) > 2 else None
    if changed is not None:
        moved = old != new
        assert np.all((old[moved] == changed) | (new[moved] == changed))


def test_a_ramp_never_takes_an_episode_back() -> None:
    previous: set[str] = set()
    for share in (0.1, 0.25, 0.5, 1.0):
        now = {name for name in IDS[:2000] if assign("salt", name, (1 - share, share))[0] == 1}
        assert previous <= now
        previous = now
    assert len(previous) == 2000


def test_salt_and_episode_do_not_run_together() -> None:
    assert uniforms("ab", "c", 1) != uniforms("a", "bc", 1)
    assert uniforms("a" * 65, "c", 1) != uniforms("a" * 66, "c", 1)


@pytest.mark.parametrize("weights", [(), (0.0, 0.0), (-1.0, 2.0), (float("nan"), 1.0), (float("inf"), 1.0), (1.0,) * 9])
def test_weights_that_mean_nothing_are_refused(weights: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="weights"):
        assign("salt", "episode", weights)
