"""Graphs as NumPy code give what the functions they came from give."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.func import grad_and_value, vmap

from hnbayes import Potential

X = torch.linspace(-2, 2, 24).reshape(8, 3)
LABELS = torch.tensor([0.0, 1.0] * 4)


def sites(q):
    scale = q[0].exp()
    return 0.5 * ((q[1:] - 1.0) / scale).square().sum() + 8 * q[0] + torch.log1p(scale.square()) - q[0]


def logits(q):
    return (
        torch.nn.functional.binary_cross_entropy_with_logits(X @ q[:3] + q[3], LABELS, reduction="sum")
        + q.square().sum()
    )


def network(q):
    hidden = torch.tanh(X @ q[:6].view(3, 2) + q[6:8])
    return (torch.relu(hidden) @ q[8:10]).square().sum() + torch.where(q > 0, q, q * q).sum() + q.clamp(-1, 1).sum()


def slices(q):
    middle = q[1:9:3] * q[-3:]
    return (q[2:].square().sum() + q[:-4].exp().sum() + middle.prod() + q[3] * q[-1]) + q.view(5, 2)[1:, 1].sin().sum()


def with_cholesky(q):
    matrix = torch.outer(q, q) + torch.eye(len(q), dtype=q.dtype)
    return (
        torch.linalg.cholesky(matrix).diagonal().log().sum() + torch.lgamma(q.exp()).sum() + q.cumsum(0).square().sum()
    )


@pytest.mark.parametrize("function", [sites, logits, network, slices, with_cholesky])
@pytest.mark.parametrize("chains", [1, 4])
def test_same_numbers(function, chains):
    torch.manual_seed(0)
    U = Potential(function)
    U.prepare(torch.randn(chains, 10))
    for scale in (0.3, 1.0, 2.0):
        q = scale * torch.randn(chains, 10)
        before = q.clone()
        assert U.evaluates_arrays(q)
        values, gradients = U.value_and_grad_arrays(q.numpy())
        expected_gradients, expected = vmap(grad_and_value(function))(q)
        np.testing.assert_allclose(values, expected.numpy(), rtol=2e-5, atol=1e-4)
        np.testing.assert_allclose(gradients, expected_gradients.numpy(), rtol=2e-4, atol=2e-4)
        assert torch.equal(q, before)


def test_results_are_new_memory():
    weights = torch.tensor([1.0, 2.0, 3.0])
    U = Potential(lambda q: (q * weights).sum())
    U.prepare(torch.zeros(2, 3))
    _, first = U.value_and_grad_arrays(np.zeros((2, 3), np.float32))
    first += 100.0
    _, second = U.value_and_grad_arrays(np.zeros((2, 3), np.float32))
    np.testing.assert_array_equal(second, [[1.0, 2.0, 3.0]] * 2)
    weights.fill_(7.0)  # data changed in place are seen
    np.testing.assert_array_equal(U.value_and_grad_arrays(np.zeros((2, 3), np.float32))[1], np.full((2, 3), 7.0))


def test_large_arrays_stay_with_torch():
    """Where dispatch no longer matters, torch is faster."""
    data = torch.linspace(-1, 1, 50_000)

    def U(q):
        return (data * q.sum()).tanh().square().sum()

    potential = Potential(U)
    few, many = torch.ones(1, 3), torch.ones(3, 3)
    assert potential.prepare(few) == potential.prepare(many) == "captured"
    assert potential.evaluates_arrays(few)
    assert not potential.evaluates_arrays(many)
    torch.testing.assert_close(potential.value_and_grad(many)[0], U(many[0]).expand(3))
