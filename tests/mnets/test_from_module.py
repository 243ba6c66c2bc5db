"""Any module as a main network."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.func import vmap

from hnbayes.hnets import HMLP
from hnbayes.mnets import from_module


def module():
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Tanh(), nn.Flatten(), nn.Linear(8, 5), nn.LayerNorm(5)]
    return nn.Sequential(*layers, nn.Linear(5, 3)).double().eval()


def test_it_is_the_module():
    plain = module()
    net = from_module(plain)
    x = torch.randn(4, 1, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(net(x), plain(x))
    assert net.param_shapes == [list(p.shape) for p in plain.parameters()]
    kinds = [m["name"] for m in net.param_shapes_meta]
    layers = [["weight", "bias"], ["bn_scale", "bn_shift"]] * 2 + [["weight", "bias"]]
    assert kinds == [kind for layer in layers for kind in layer]
    weights = [torch.randn_like(p) for p in plain.parameters()]
    given = net(x, weights=weights)
    before = plain(x)
    changed = copy.deepcopy(plain)
    with torch.no_grad():
        for p, w in zip(changed.parameters(), weights, strict=True):
            p.copy_(w)
    torch.testing.assert_close(given, changed(x))
    torch.testing.assert_close(plain(x), before, rtol=0, atol=0)
    net.overwrite_internal_params(weights)
    torch.testing.assert_close(plain(x), given)
    assert [m is not None for m in net.get_output_weight_mask([0])] == [False] * 8 + [True] * 2
    assert (net.has_fc_out, net.has_linear_out, net.has_bias) == (True, True, True)


def test_weights_from_a_hypernetwork():
    net = from_module(module(), no_weights=True)
    assert net.internal_params is None
    assert list(net.parameters()) == []
    assert net.hyper_shapes_learned == net.param_shapes
    x = torch.randn(4, 1, 4, 4, dtype=torch.float64)
    hnet = HMLP(net.param_shapes, cond_in_size=2, layers=(4,), num_cond_embs=2, verbose=False).double()
    weights = hnet.forward(cond_id=1)
    output = net(x, weights=weights)
    torch.testing.assert_close(output, from_module(module())(x, weights=weights))
    output.sum().backward()
    assert hnet.get_cond_in_emb(1).grad.abs().sum() > 0
    with pytest.raises(ValueError, match="weights must hold"):
        net(x)
    stacked = [torch.stack([w, 2 * w]) for w in weights]
    together = vmap(lambda w: net.forward(x, weights=w))(stacked)
    torch.testing.assert_close(together[1], net(x, weights=[2 * w for w in weights]))


def test_bad_input():
    with pytest.raises(TypeError, match="must be a torch"):
        from_module("net")
    with pytest.raises(ValueError, match="requires_grad"):
        from_module(nn.ReLU())
    with pytest.raises(ValueError, match="condition"):
        from_module(module())(torch.zeros(1, 1, 4, 4), condition=1)
