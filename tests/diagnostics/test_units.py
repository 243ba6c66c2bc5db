"""Dead ReLU units, on networks whose dead units are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from hnbayes.diagnostics import dead_units

X = torch.linspace(-1, 1, 9)[:, None]


def network_and_draws(chains=2, draws=6):
    """Unit h of 4 computes relu(x + bias_h): dead where bias_h <= -1."""
    net = nn.Sequential(nn.Linear(1, 4), nn.ReLU(), nn.Linear(4, 1))
    biases = torch.linspace(-2, 1, chains * draws * 4).reshape(chains, draws, 4)[..., torch.randperm(4)]
    params = {
        "0.weight": torch.ones(chains, draws, 4, 1),
        "0.bias": biases,
        "2.weight": torch.ones(chains, draws, 1, 4),
        "2.bias": torch.zeros(chains, draws, 1),
        "sigma": torch.ones(chains, draws),
    }
    return net, params


def test_units_are_dead_where_every_input_leaves_them_at_zero():
    net, params = network_and_draws()
    before = {name: p.clone() for name, p in net.named_parameters()}
    found = dead_units(net, params, X)
    assert set(found) == {"1"}
    np.testing.assert_array_equal(found["1"], (params["0.bias"] <= -1).numpy())
    assert all(torch.equal(before[name], p) for name, p in net.named_parameters())
    assert not net[1]._forward_hooks


def test_draws_are_thinned_evenly():
    net, params = network_and_draws(draws=6)
    found = dead_units(net, params, X, max_draws=2)
    np.testing.assert_array_equal(found["1"], (params["0.bias"][:, [0, 5]] <= -1).numpy())


def test_channels_of_convolutions_and_modules_used_twice():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.act = nn.Conv2d(1, 3, 1), nn.Conv2d(3, 2, 1), nn.ReLU()

        def forward(self, x):
            return self.act(self.second(self.act(self.first(x))))

    net = Net()
    params = {name: torch.zeros(1, 2, *p.shape) for name, p in net.named_parameters()}
    params["first.bias"][0, 0] = torch.tensor([1.0, -1.0, 1.0])
    params["first.bias"][0, 1] = torch.tensor([-1.0, 1.0, 1.0])
    params["second.bias"][0, :, 1] = 1.0
    found = dead_units(net, params, torch.ones(5, 1, 4, 4))
    assert found["act"].tolist() == [[[False, True, False], [True, False, False]]]
    assert found["act (use 2)"].tolist() == [[[True, False], [True, False]]]


def test_without_relu_modules_there_is_nothing_to_find():
    net, params = network_and_draws()
    assert dead_units(nn.Sequential(net[0], nn.Tanh(), net[2]), params, X) == {}


def test_draws_of_another_network_are_refused_and_hooks_are_gone_after_an_error():
    net, params = network_and_draws()
    with pytest.raises(ValueError, match=r"parameters of the network: 0\.weight, .*received sigma"):
        dead_units(net, {"sigma": params["sigma"]}, X)
    with pytest.raises(RuntimeError):
        dead_units(net, params, torch.zeros(3, 2))
    assert not net[1]._forward_hooks
