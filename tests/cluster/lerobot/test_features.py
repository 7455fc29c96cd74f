"""Columns between NumPy and Arrow: whole, sliced, in chunks, and as other writers leave them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.lerobot.errors import DatasetError
from cluster.lerobot.features import Feature, to_arrow, to_numpy


@settings(deadline=None)  # the first example imports
@given(
    st.sampled_from([(1,), (3,), (2, 3)]),
    st.sampled_from(["float32", "int64", "bool"]),
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=3),
)
def test_any_slices_of_a_column_are_its_frames(shape, dtype, slices):
    feature = Feature("values", dtype, shape)
    values = (10 * np.random.default_rng(0).normal(size=(9, *(() if shape == (1,) else shape)))).astype(dtype)
    column = to_arrow(values, feature)
    assert (to_numpy(column, feature) == values).all()
    parts = [column.slice(start, length) for start, length in slices]
    expected = [values[start : start + length] for start, length in slices]
    for part, frames in zip(parts, expected, strict=True):
        assert np.array_equal(to_numpy(part, feature), frames)
    chunked = pa.chunked_array(parts, column.type)
    assert np.array_equal(to_numpy(chunked, feature), np.concatenate([*expected, values[:0]]))


def test_lists_of_any_length_that_fit_are_read_and_others_are_refused():
    feature = Feature("values", "float32", (2,))
    assert to_numpy(pa.array([[1.0, 2.0], [3.0, 4.0]], pa.list_(pa.float64())), feature).tolist() == [[1.0, 2.0], [3.0, 4.0]]
    for column in (
        pa.array([[1.0, 2.0], [3.0]], pa.list_(pa.float32())),
        pa.array([[1.0, 2.0], None], pa.list_(pa.float32(), 2)),
        pa.array([[1.0, 2.0, 3.0]], pa.list_(pa.float32(), 3)),
    ):
        with pytest.raises(DatasetError, match=r"values.*2 a frame are wanted"):
            to_numpy(column, feature)
