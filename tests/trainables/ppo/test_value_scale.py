"""PopArt: new statistics change no prediction, and they are those of the returns seen."""

import pytest
import torch
from torch import Tensor, nn

from trainables.ppo.moments import all_moments
from trainables.ppo.value_scale import ValueScale


def update(scale: ValueScale, returns: Tensor, layer: nn.Linear) -> None:
    scale.update(*all_moments(returns, shared=False), layer)


def test_a_new_scale_changes_no_prediction() -> None:
    torch.manual_seed(0)
    scale, layer, rows = ValueScale(), nn.Linear(4, 1), torch.randn(50, 4)
    expected = scale.to_returns(layer(rows))
    for mean, std in ((300.0, 40.0), (-20.0, 5.0), (0.0, 1e-3)):
        update(scale, torch.randn(500) * std + mean, layer)
        torch.testing.assert_close(scale.to_returns(layer(rows)), expected, rtol=1e-4, atol=1e-2)
    values = torch.randn(10)
    torch.testing.assert_close(scale.to_values(scale.to_returns(values)), values, rtol=1e-4, atol=1e-4)


def test_statistics_are_those_of_all_returns() -> None:
    torch.manual_seed(1)
    scale, layer = ValueScale(), nn.Linear(4, 1)
    batches = [torch.randn(200) * 3 + 7, torch.randn(300) * 9 - 2, torch.randn(50)]
    for batch in batches:
        update(scale, batch, layer)
    everything = torch.cat(batches)
    assert scale.mean.item() == pytest.approx(everything.mean().item(), rel=1e-5)
    assert scale.std.item() == pytest.approx(everything.std(correction=0).item(), rel=1e-5)


def test_moments_of_a_column_far_from_zero_keep_their_variance() -> None:
    rows = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([1e-2, 3.0]) + torch.tensor([1000.0, -5.0])
    count, mean, variance = all_moments(rows, shared=False)
    assert count.item() == 1000
    wide = rows.double()
    torch.testing.assert_close(mean, wide.mean(0))
    torch.testing.assert_close(variance, wide.var(0, correction=0))
