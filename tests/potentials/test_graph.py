"""Simplified graphs give the same numbers with fewer operations, and leave alone what they can't prove."""

from __future__ import annotations

import pytest
import torch
from torch.func import grad_and_value, vmap
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from hnbayes.potentials.graph import host_tanh, simplify

X = torch.linspace(-2, 2, 30, dtype=torch.float64).reshape(10, 3)
Y = torch.sin(X.sum(1))


def network(q: torch.Tensor) -> torch.Tensor:
    hidden = torch.tanh(X @ q[:12].view(4, 3).T)
    return (hidden @ q[12:] - Y).square().sum() + 0.5 * ((q - 0.0) / 1.0).square().sum()


def softmax(q: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(X @ q[:6].view(3, 2), (Y > 0).long(), reduction="sum") + q.exp().sum()


def cholesky(q: torch.Tensor) -> torch.Tensor:
    return torch.linalg.cholesky(torch.outer(q, q) + torch.eye(len(q), dtype=q.dtype)).diagonal().log().sum()


def captured(function, positions) -> GraphModule:
    return make_fx(vmap(grad_and_value(function)))(positions)


@pytest.mark.parametrize("function", [network, softmax, cholesky])
@pytest.mark.parametrize("chains", [1, 3])
def test_same_numbers_with_fewer_operations(function, chains):
    torch.manual_seed(0)
    graph = captured(function, torch.randn(chains, 16, dtype=torch.float64))
    before = len(graph.graph.nodes)
    simpler = simplify(graph)
    assert len(simpler.graph.nodes) < before
    for _ in range(3):
        batch = torch.randn(chains, 16, dtype=torch.float64)
        gradients, values = simpler(batch)
        for row, q in enumerate(batch):
            q = q.clone().requires_grad_()
            value = function(q)
            torch.testing.assert_close(values[row], value.detach(), rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(gradients[row], torch.autograd.grad(value, q)[0], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_host_tanh_is_tanh(dtype):
    x = torch.linspace(-20, 20, 10_001, dtype=dtype)
    torch.testing.assert_close(host_tanh(x), torch.tanh(x.double()).to(dtype), rtol=4 * torch.finfo(dtype).eps, atol=0)


def test_products_with_other_constants_stay():
    graph = simplify(make_fx(lambda q: q * torch.full_like(q, 2.0) + q * torch.ones_like(q))(torch.randn(4)))
    q = torch.randn(4)
    torch.testing.assert_close(graph(q), 3 * q)


def test_a_constant_that_would_change_the_shape_stays():
    graph = simplify(make_fx(lambda q: q[:, None] * torch.ones(3))(torch.randn(4)))
    assert graph(torch.randn(4)).shape == (4, 3)


def test_operations_in_place_become_ordinary_ones():
    def function(q):
        total = q * 2.0
        before = total + 1.0
        total.add_(q)
        total.mul_(before)
        return total.tanh() * 1.0 + total

    q = torch.randn(4)
    graph = simplify(make_fx(function)(q))
    assert not any(getattr(getattr(node.target, "_schema", None), "is_mutable", False) for node in graph.graph.nodes)
    for x in (q, torch.randn(4)):
        torch.testing.assert_close(graph(x), torch.tanh(3 * x * (2 * x + 1)) + 3 * x * (2 * x + 1))


@pytest.mark.parametrize(
    "function", [lambda q: writes_through_a_view(q), lambda q: q.clone().view(2, 2).add_(1.0) * 1.0]
)
def test_operations_in_place_on_shared_memory_are_left_alone(function):
    graph = make_fx(function)(torch.randn(4))
    before = str(graph.code)
    assert str(simplify(graph).code) == before


def writes_through_a_view(q: torch.Tensor) -> torch.Tensor:
    total = q * 2.0
    part = total[:2]
    total.add_(1.0)
    return part * 1.0


def test_random_numbers_are_not_frozen():
    graph = simplify(make_fx(lambda q: q + torch.rand(4) * 1.0)(torch.randn(4)))
    q = torch.zeros(4)
    assert not torch.equal(graph(q), graph(q))


def test_data_stay_shared():
    data = torch.ones(4)
    graph = simplify(make_fx(lambda q: q * data)(torch.randn(4)))
    data.fill_(5.0)
    torch.testing.assert_close(graph(torch.ones(4)), torch.full((4,), 5.0))
