import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from trainables.networks.normalizer import RunningNormalizer


@settings(max_examples=50, deadline=None)
@given(
    rows=arrays(np.float32, st.tuples(st.integers(2, 60), st.just(3)), elements=st.floats(-100, 100, width=32)),
    cuts=st.lists(st.integers(1, 59), max_size=4),
)
def test_batches_of_any_size_give_the_statistics_of_all_rows(rows: np.ndarray, cuts: list[int]) -> None:
    normalizer = RunningNormalizer(3)
    for batch in np.split(rows, sorted(cut for cut in set(cuts) if cut < len(rows))):
        normalizer.update(torch.from_numpy(batch))
    assert normalizer.count.item() == len(rows)
    np.testing.assert_allclose(normalizer.mean.numpy(), rows.mean(0, dtype=np.float64), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(normalizer.var.numpy(), rows.var(0, dtype=np.float64), rtol=1e-3, atol=1e-2)


def test_an_empty_batch_changes_nothing() -> None:
    normalizer = RunningNormalizer(2)
    normalizer.update(torch.zeros(0, 2))
    assert normalizer.count.item() == 0
    assert torch.equal(normalizer.mean, torch.zeros(2))


def test_a_constant_feature_is_not_magnified_above_its_floor() -> None:
    normalizer = RunningNormalizer(2)
    normalizer.set_statistics(torch.tensor([1.0, 1.0]), torch.tensor([0.0, 4.0]), count=100, std_floor=0.1)
    out = normalizer(torch.tensor([1.05, 3.0]))
    torch.testing.assert_close(out, torch.tensor([0.5, 1.0]), atol=1e-4, rtol=1e-4)
    assert normalizer.count.item() == 100


def test_the_output_is_clipped_and_keeps_leading_axes() -> None:
    normalizer = RunningNormalizer(2, clip=5.0)
    out = normalizer(torch.full((4, 3, 2), 1e6))
    assert out.shape == (4, 3, 2)
    assert torch.equal(out, torch.full((4, 3, 2), 5.0))
