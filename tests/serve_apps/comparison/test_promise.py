"""The promise by simulation: equal arms, a look after every episode, at most alpha wrong promotions; and what ramps and bandits cost.

The limit is alpha plus three standard errors of a share of so many repetitions at alpha.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from serve_apps.comparison.eprocess import effect_log_e_values, effect_scores, log_wealth
from serve_apps.comparison.simulation import Design, decided_at, first_reach, play, scores_of

Array = NDArray[np.float64]
ALPHA, REPETITIONS, EPISODES = 0.05, 2000, 400
LIMIT = ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / REPETITIONS)

EVEN = Design(shares=(0.5, 0.5))
DESIGNS = {
    "even": EVEN,
    "one in ten": Design(shares=(0.9, 0.1)),
    "ramp": Design(shares=(0.9, 0.1), ramp=((0.1, 50), (0.25, 100), (0.5, 200))),
    "bandit": Design(shares=(0.5, 0.5), bandit_uniform_share=0.2),
    "eager bandit": Design(shares=(0.5, 0.5), bandit_uniform_share=0.05),
}


def successes(generator: np.random.Generator, means: tuple[float, ...], shape: tuple[int, int]) -> Array:
    """Potential outcomes 0 and 1."""
    return (generator.random((*shape, len(means))) < np.array(means)).astype(np.float64)


@pytest.mark.parametrize("name", DESIGNS)
@pytest.mark.parametrize("mean", [0.1, 0.5, 0.75, 0.95, None], ids=["10 %", "50 %", "75 %", "95 %", "partial credit"])
def test_equal_arms_are_rarely_told_apart_whatever_the_split_does(name: str, mean: float | None) -> None:
    generator = np.random.default_rng(31)
    shape = REPETITIONS, EPISODES
    potential = generator.beta(2.0, 5.0, (*shape, 2)) if mean is None else successes(generator, (mean, mean), shape)
    histories = play(DESIGNS[name], potential, generator)
    assert (decided_at(histories, 1, ALPHA) > 0).mean() <= LIMIT
    assert (decided_at(histories, 1, ALPHA, better=False) > 0).mean() <= LIMIT


def test_a_bandit_among_three_challengers_and_drift_keep_the_promise_together() -> None:
    generator = np.random.default_rng(32)
    drift = np.linspace(0.9, 0.3, EPISODES)[:, None]
    potential = (generator.random((REPETITIONS, EPISODES, 4)) < drift).astype(np.float64)
    histories = play(Design(shares=(0.25,) * 4, bandit_uniform_share=0.2), potential, generator)
    wrong = np.any([decided_at(histories, position, ALPHA / 3) > 0 for position in (1, 2, 3)], axis=0)
    assert wrong.mean() <= LIMIT


# 75 -> 95 %: with an even split four of five comparisons are decided within 121 episodes.
@pytest.mark.parametrize(("name", "episodes"), [("even", 132), ("ramp", 220), ("bandit", 400)])
def test_a_better_challenger_is_found_under_every_split(name: str, episodes: int) -> None:
    generator = np.random.default_rng(33)
    histories = play(DESIGNS[name], successes(generator, (0.75, 0.95), (400, episodes)), generator)
    assert (decided_at(histories, 1, ALPHA) > 0).mean() >= 0.8


def test_a_bandit_sends_fewer_robots_to_the_worse_arm() -> None:
    generator = np.random.default_rng(34)
    histories = play(DESIGNS["bandit"], successes(generator, (0.75, 0.95), (200, 300)), generator)
    assert (histories.index == 0).mean() < 0.25
    assert histories.splits.min() >= 0.1


def test_the_quick_simulation_is_the_test_itself() -> None:
    generator = np.random.default_rng(35)
    three = Design(shares=(0.5, 0.3, 0.2), bandit_uniform_share=0.2)
    histories = play(three, successes(generator, (0.6, 0.9, 0.7), (40, 300)), generator)
    scores, order = scores_of(histories, 1)
    for z, lowest in ((scores.z, scores.lowest), (-scores.z, scores.highest)):
        slow = log_wealth(z, lowest, 0.0, scores.variance) >= math.log(1 / ALPHA)
        np.testing.assert_array_equal(first_reach(z, lowest, scores.variance, ALPHA), np.where(slow.any(axis=1), slow.argmax(axis=1), -1))
    assert all(sorted(row) == list(range(300)) for row in order)
    for row, at in enumerate(decided_at(histories, 1, ALPHA)):
        pair = np.flatnonzero(histories.index[row] != 2)
        split = histories.splits[row, pair]
        arms = histories.index[row, pair] == 1
        better, _ = effect_log_e_values(effect_scores(histories.outcome[row, pair], arms, split[:, 1] / split[:, :2].sum(axis=1)))
        reached = better >= math.log(1 / ALPHA)
        assert at == (pair[reached.argmax()] + 1 if reached.any() else 0)


def test_robots_that_differ_fool_a_count_of_episodes_and_not_a_count_of_robots() -> None:
    """40 robots with 5 episodes each and equal arms: most robots nearly always succeed or nearly always fail."""
    generator = np.random.default_rng(36)
    shape = 1000, 40
    skill = generator.beta(0.3, 0.3, shape)
    challenger = generator.random(shape) < 0.5
    episodes = (generator.random((*shape, 5)) < skill[..., None]).astype(np.float64)
    limit = ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / shape[0])

    def promoted(outcome: Array, is_challenger: NDArray[np.bool_]) -> float:
        scores = effect_scores(outcome, is_challenger, 0.5)
        return float((first_reach(scores.z, scores.lowest, scores.variance, ALPHA) >= 0).mean())

    assert promoted(episodes.mean(axis=-1), challenger) <= limit
    assert promoted(episodes.reshape(1000, 200), np.repeat(challenger, 5, axis=1)) > 2 * limit
