"""The potential of a network by hand, and what else its tests share."""

from __future__ import annotations

import math

import numpy as np
import scipy.special
import scipy.stats
import torch
from torch import nn

from hnbayes import log_prob_standard_normal_prior

ONE_BY_ONE = "chains are evaluated one after another"
SLOW_VMAP = "There is a performance drop"  # torch's own, where it has no batching rule


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def standard_prior(q):
    return log_prob_standard_normal_prior(q)


def seeded(make, dtype=torch.float64):
    """A module with initial weights of its own, whatever ran before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make().to(dtype)


def mlp(inputs=2, hidden=3, outputs=1):
    return nn.Sequential(nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, outputs))


def fingerprint(net):
    """Everything of a module that sampling might change."""
    return (
        {key: value.clone() for key, value in net.state_dict().items()},
        {key: (id(p), p.requires_grad, p.grad) for key, p in net.named_parameters(remove_duplicate=False)},
        {key: (id(b), b.requires_grad) for key, b in net.named_buffers()},
        {key: module.training for key, module in net.named_modules()},
        {key: (len(m._forward_hooks), len(m._forward_pre_hooks)) for key, m in net.named_modules()},
    )


def assert_unchanged(net, before):
    after = fingerprint(net)
    assert after[1:] == before[1:]
    assert after[0].keys() == before[0].keys()
    for key, value in after[0].items():
        assert torch.equal(value, before[0][key]), key


def mlp_by_hand(q, x, hidden, outputs):
    """The outputs of an `mlp` for one input, in Python's arithmetic."""
    width = len(x)
    weights = iter(q)
    first = [[next(weights) for _ in range(width)] for _ in range(hidden)]
    first_bias = [next(weights) for _ in range(hidden)]
    second = [[next(weights) for _ in range(hidden)] for _ in range(outputs)]
    second_bias = [next(weights) for _ in range(outputs)]
    assert next(weights, None) is None

    def layer(rows, bias, v):
        return [sum(w * a for w, a in zip(row, v, strict=True)) + b for row, b in zip(rows, bias, strict=True)]

    return layer(second, second_bias, [math.tanh(a) for a in layer(first, first_bias, x)])


def gaussian_by_hand(q, std):
    return sum(-0.5 * (w / std) ** 2 - math.log(std) - 0.5 * math.log(2 * math.pi) for w in q)


def regression_by_hand(q, X, Y, tau, std):
    nll = 0.0
    for x, y in zip(X, Y, strict=True):
        f = mlp_by_hand(q, x, 3, len(y))
        nll += tau / 2 * sum((a - b) ** 2 for a, b in zip(f, y, strict=True))
    return nll - gaussian_by_hand(q, std)


def classification_by_hand(q, X, labels, classes, std):
    nll = 0.0
    for x, label in zip(X, labels, strict=True):
        f = mlp_by_hand(q, x, 3, classes)
        nll -= f[label] - scipy.special.logsumexp(f)
    return nll - gaussian_by_hand(q, std)


def slope(function, q, step=1e-5):
    """Central differences, to about 1e-9."""
    gradient = []
    for i in range(len(q)):
        up, down = list(q), list(q)
        up[i] += step
        down[i] -= step
        gradient.append((function(up) - function(down)) / (2 * step))
    return gradient


def assert_is(U, by_hand, positions):
    expected = [by_hand(row) for row in positions.tolist()]
    values, gradients = U.value_and_grad(positions)
    np.testing.assert_allclose(values.numpy(), expected, rtol=1e-12)
    np.testing.assert_allclose(U.value(positions).numpy(), expected, rtol=1e-12)
    np.testing.assert_allclose([U(row).item() for row in positions], expected, rtol=1e-12)
    slopes = [slope(by_hand, row) for row in positions.tolist()]
    np.testing.assert_allclose(gradients.numpy(), slopes, rtol=1e-6, atol=1e-6)
