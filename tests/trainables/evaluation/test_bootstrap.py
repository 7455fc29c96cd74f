import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from trainables.evaluation.bootstrap import (
    bootstrap_interval,
    interquartile_mean,
    mean,
    probability_of_improvement,
    probability_of_improvement_interval,
)

samples = arrays(np.float64, st.integers(1, 40), elements=st.floats(-1e3, 1e3))


@pytest.mark.parametrize("method", ["percentile", "bca"])
@pytest.mark.parametrize("statistic", [mean, interquartile_mean], ids=["mean", "iqm"])
@pytest.mark.parametrize("size", [8, 64])
def test_interval_equals_scipys(method: str, statistic, size: int) -> None:
    values = np.random.default_rng(1).lognormal(size=size)
    ours = bootstrap_interval(values, statistic, seed=7, resamples=2000, method=method)
    theirs = scipy.stats.bootstrap(
        (values,), lambda x, axis: statistic(x), n_resamples=2000, method=method, rng=np.random.default_rng(7), vectorized=True
    ).confidence_interval
    np.testing.assert_allclose(ours, theirs, rtol=1e-9)


@settings(max_examples=60, deadline=None)
@given(values=samples)
def test_interquartile_mean_equals_scipys_trimmed_mean(values: np.ndarray) -> None:
    np.testing.assert_allclose(interquartile_mean(values), scipy.stats.trim_mean(values, 0.25), rtol=1e-9, atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(values=samples, seed=st.integers(0, 2**32 - 1))
def test_interval_lies_within_the_sample_and_repeats(values: np.ndarray, seed: int) -> None:
    low, high = bootstrap_interval(values, seed=seed, resamples=200)
    assert values.min() - 1e-9 <= low <= high <= values.max() + 1e-9
    assert (low, high) == bootstrap_interval(values, seed=seed, resamples=200)


def test_equal_values_give_a_point() -> None:
    assert bootstrap_interval(np.full(10, 3.5), seed=0) == (3.5, 3.5)
    assert bootstrap_interval(np.array([2.0]), seed=0) == (2.0, 2.0)


def test_interval_covers_the_true_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(400):
        low, high = bootstrap_interval(rng.exponential(size=32), seed=seed, resamples=600)
        hits += low <= 1.0 <= high
    # Skewed data and n = 32: BCa covers about 93 %; 400 repetitions have a standard error of 1.3 %.
    assert 0.89 <= hits / 400 <= 0.98


def test_no_sample_is_refused() -> None:
    with pytest.raises(ValueError, match="non-empty"):
        bootstrap_interval(np.zeros(0), seed=0)


@settings(max_examples=60, deadline=None)
@given(pair=st.integers(1, 30).flatmap(lambda n: st.tuples(*[arrays(np.float64, n, elements=st.integers(-5, 5).map(float))] * 2)))
def test_probability_of_improvement_is_mann_whitneys_u(pair: tuple[np.ndarray, np.ndarray]) -> None:
    challenger, champion = pair
    statistic = scipy.stats.mannwhitneyu(challenger, champion, method="asymptotic").statistic
    probability = probability_of_improvement(challenger, champion)
    assert probability == pytest.approx(statistic / (len(challenger) * len(champion)))
    assert probability == pytest.approx(1 - probability_of_improvement(champion, challenger))


def test_probability_of_improvement_interval_is_the_bootstrap_of_pairs() -> None:
    rng = np.random.default_rng(3)
    champion = rng.normal(size=25)
    challenger = champion + 0.3 + 0.5 * rng.normal(size=25)
    low, high = probability_of_improvement_interval(challenger, champion, seed=5, resamples=3000)
    resampled = [
        probability_of_improvement(challenger[picked], champion[picked]) for picked in np.random.default_rng(6).integers(0, 25, (1500, 25))
    ]
    np.testing.assert_allclose((low, high), np.quantile(resampled, [0.025, 0.975]), atol=0.02)
    assert low < probability_of_improvement(challenger, champion) < high


def test_unpaired_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="paired by seed"):
        probability_of_improvement_interval(np.zeros(3), np.zeros(4), seed=0)


def test_a_tiny_sample_does_not_underflow():
    low, high = bootstrap_interval(np.array([8e-142, 0.0, 3e-142]), seed=0)
    assert 0.0 <= low <= high <= 8e-142
