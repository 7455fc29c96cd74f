"""One tensor behind all parameters: whatever changes one changes the other."""

import copy

import torch
from torch import nn

from trainables.ppo.flat import flatten_parameters


def make() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))


def test_autograd_and_optimizer_work_through_the_views() -> None:
    network, plain = make(), make()
    flat = flatten_parameters(list(network.parameters()))
    assert flat.shape == (3 * 5 + 5 + 5 * 2 + 2,)
    optimizers = torch.optim.SGD([flat], lr=0.1), torch.optim.SGD(plain.parameters(), lr=0.1)
    for _ in range(3):
        rows = torch.randn(7, 3)
        for net, optimizer in zip((network, plain), optimizers, strict=True):
            optimizer.zero_grad(set_to_none=net is plain)
            net(rows).square().sum().backward()
            optimizer.step()
        for parameter, other in zip(network.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(parameter.grad, other.grad)
            torch.testing.assert_close(parameter, other)
    torch.testing.assert_close(flat.detach(), torch.cat([parameter.detach().reshape(-1) for parameter in plain.parameters()]))


def test_loading_a_state_writes_into_the_tensor() -> None:
    network, other = make(), make()
    flat = flatten_parameters(list(network.parameters()))
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1.0)
    state = copy.deepcopy(other.state_dict())
    network.load_state_dict(state)
    torch.testing.assert_close(flat.detach(), torch.cat([value.reshape(-1) for value in state.values()]))
    with torch.no_grad():
        flat.zero_()
    assert all(not parameter.any() for parameter in network.parameters())
    assert all(parameter.data.untyped_storage().data_ptr() == flat.data.untyped_storage().data_ptr() for parameter in network.parameters())
