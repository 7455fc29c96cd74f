"""The latency histogram: percentiles within its buckets' width of the exact ones, whatever was merged."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.latency import LatencyHistogram

DURATIONS_S = st.lists(st.floats(1e-6, 100.0), min_size=1, max_size=200)


def filled(durations_s) -> LatencyHistogram:
    histogram = LatencyHistogram()
    for duration_s in durations_s:
        histogram.add(duration_s)
    return histogram


@given(DURATIONS_S, st.sampled_from([0.01, 0.5, 0.9, 0.99, 1.0]))
def test_a_percentile_is_off_by_at_most_half_a_bucket(durations_s, share):
    exact_ms = 1e3 * np.quantile(durations_s, share, method="inverted_cdf")
    assert filled(durations_s).quantile_ms(share) == pytest.approx(exact_ms, rel=0.046)
    assert filled(durations_s).largest_ms == 1e3 * max(durations_s)


@given(DURATIONS_S, DURATIONS_S)
def test_merged_is_the_same_as_counted_together_also_after_a_journey_through_json(one, other):
    merged = LatencyHistogram.from_json(json.loads(json.dumps(filled(one).to_json())))
    merged.merge(filled(other))
    together = filled(one + other)
    assert merged.to_json() == together.to_json()
    assert merged.count == together.count == len(one) + len(other)


def test_nothing_counted_and_nothing_measurable_are_zero():
    assert LatencyHistogram().quantile_ms(0.99) == 0.0
    assert filled([0.0, 0.0]).quantile_ms(0.5) == 0.0
