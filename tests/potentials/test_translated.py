"""Graphs translated to C give the numbers of torch's autograd."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.func import grad_and_value
from torch.nn import functional as F

from hnbayes.potentials.native import compiler
from hnbayes.potentials.translated import translated_function

pytestmark = pytest.mark.skipif(compiler.library(True) is None, reason="no C compiler here")

D = 24
GENERATOR = torch.Generator().manual_seed(0)
LABELS = torch.randint(0, 4, (6,), generator=GENERATOR)
PLACES = torch.randint(-6, 6, (5, 3), generator=GENERATOR)
ROWS, COLUMNS, HALVES = torch.tensor([0, 2, 2, 5]), torch.tensor([0, 2, 2, 1]), torch.tensor([0, 0, 0, 1])
DATA = torch.randn(30, 4, generator=GENERATOR, dtype=torch.float64)
MASK = torch.rand(6, 4, generator=GENERATOR) < 0.5


def matrix(q):
    return q.view(6, 4)


def data(q):
    return DATA.to(q.dtype)


ELEMENTWISE = {
    "arithmetic": lambda x: (1 - x) * (x + 2) / 3 - 2 / (x * x + 1) + (-x) ** 3 - x**2,
    "alpha": lambda x: torch.add(x, x * x, alpha=3) - torch.sub(x, 1.0, alpha=2),
    "exp": lambda x: x.exp() + torch.exp2(x) + torch.expm1(x / 3),
    "log": lambda x: x.abs().log() + torch.log1p(x * x) + torch.log2(x * x + 1) + torch.log10(x * x + 2),
    "roots": lambda x: (x * x + 1).sqrt() + torch.rsqrt(x * x + 1) + (x * x + 1).reciprocal(),
    "powers": lambda x: (x * x + 1) ** -1.7 + (x * x + 1) ** 0.5 + (x * x + 1) ** -2 + x**4 + (x * x + 1) ** x,
    "power of a number": lambda x: 1.7**x,
    "trigonometry": lambda x: x.sin() * x.cos() + torch.tan(x / 5) + x.atan() + torch.sinh(x) * torch.cosh(x / 2),
    "arcs": lambda x: torch.asin(x / 10) - torch.acos(x / 10) + torch.atan2(x, x * x + 1),
    "tanh": lambda x: x.tanh() * torch.sigmoid(x),
    "error function": lambda x: torch.erf(x) + torch.erfc(x / 2),
    "gamma": lambda x: torch.lgamma(x * x + 0.3) + torch.lgamma(x + 0.123),
    "digamma": lambda x: (torch.digamma(x.detach() * x.detach() + 0.2) + torch.digamma(x.detach() - 0.57)) * x,
    "clamp": lambda x: x.clamp(-0.4, 0.6) * x + x.clamp(min=0.1) * x + x.clamp(max=0.2) * x**2,
    "relu": lambda x: F.relu(x) ** 2 + F.leaky_relu(x) * x + F.elu(x) * x + F.relu6(x) * x,
    "activations": lambda x: F.silu(x) + F.gelu(x) + F.softplus(x) + F.softplus(x * 9, 2.0, 3.0) + F.mish(x),
    "sigmoids": lambda x: F.logsigmoid(x) + F.hardtanh(x) * x + F.softsign(x) + F.tanhshrink(x),
    "extremes": lambda x: torch.maximum(x, x * x) + torch.minimum(x, torch.sin(x)) + x.abs() + x.sign() * x,
    "where": lambda x: torch.where(x > 0.1, x * x, x.exp()) + torch.where((x < 1) & ~(x < -1), x, 2.0),
    "comparisons": lambda x: (x >= 0.2).to(x.dtype) * x + (x != 0).to(x.dtype) * x * x + (x <= -0.2) * x,
    "masks": lambda x: x.masked_fill(x > 0.7, 0.5) * x + x * (x < 0.3),
    "infinite": lambda x: torch.where(x > -99, x, math.inf),
    "log of sums": lambda x: torch.logaddexp(x, 2 * x) + torch.xlogy(x * x + 1, x * x + 1),
    "lerp": lambda x: torch.lerp(x, x * x, 0.3) + torch.addcmul(x, x, x.sin()) + torch.addcdiv(x, x, x * x + 1),
}
OTHERS = {
    "sums": lambda q: (
        matrix(q).sum(0).pow(2).sum()
        + matrix(q).sum(1).exp().sum()
        + (q.view(2, 3, 4).sum((0, 2)) ** 3).sum()
        + (q.view(2, 3, 4).sum(1, keepdim=True) ** 2 * q.view(2, 3, 4)).sum()
    ),
    "means": lambda q: matrix(q).mean(0).exp().sum() + matrix(q).var(1).sum() + q.std() + q.mean() ** 2,
    "extremes": lambda q: torch.amax(matrix(q), 0).exp().sum() + torch.amin(matrix(q), 1).exp().sum() + q.amax() ** 2,
    "product": lambda q: q.prod() + (matrix(q) + 2).prod(0).sum() + (matrix(q) + 2).prod(1, keepdim=True).sum(),
    "softmax": lambda q: (
        (torch.softmax(matrix(q), 1) * matrix(q)).sum()
        + torch.log_softmax(matrix(q), 0)[2].sum()
        + torch.logsumexp(q, 0)
    ),
    "losses": lambda q: (
        F.cross_entropy(matrix(q), LABELS)
        + F.mse_loss(matrix(q), torch.ones(6, 4, dtype=q.dtype))
        + F.binary_cross_entropy_with_logits(matrix(q), MASK.to(q.dtype), reduction="sum")
        + F.huber_loss(q, torch.zeros(D, dtype=q.dtype), reduction="sum")
    ),
    "norms": lambda q: (
        F.layer_norm(matrix(q), (4,)).pow(3).sum() + q.norm() + torch.linalg.vector_norm(matrix(q), dim=1).sum()
    ),
    "transposed": lambda q: (matrix(q).T.exp() * q.view(4, 6)).sum() + (matrix(q).T.reshape(D) * q.cos()).sum(),
    "permuted": lambda q: (q.view(2, 3, 4).permute(2, 0, 1).sin() * q.view(4, 2, 3)).sum(),
    "expanded": lambda q: (q[:4].expand(6, 4) * matrix(q)).exp().sum() + (q[:6, None] * q[None, 6:9]).sin().sum(),
    "sliced": lambda q: (q[1::3] * q[:16:2]).sum() + matrix(q)[1:, ::2].exp().sum() + matrix(q)[-1].prod(),
    "parts": lambda q: sum(part.sum() ** 2 for part in q.split([3, 7, 14])) + q.chunk(4)[1].exp().sum(),
    "unbound": lambda q: sum((k + 1) * row.exp().sum() for k, row in enumerate(matrix(q).unbind(1))),
    "diagonal": lambda q: q[:16].view(4, 4).diagonal().exp().sum() + q[8:].view(4, 4).diagonal().sum() ** 2,
    "triangle": lambda q: (torch.tril(q[:16].view(4, 4)) @ torch.triu(q[8:].view(4, 4), 1)).exp().sum(),
    "cat": lambda q: (torch.cat((q[3:9], q[:4].exp(), q)) * torch.arange(34).to(q.dtype)).sin().sum(),
    "cat along rows": lambda q: (torch.cat((matrix(q), matrix(q)[:, :1] ** 2), 1) ** 3).sum(),
    "stack": lambda q: torch.stack((q, q * q, q.sin()), 1).tanh().cumsum(1).sum(),
    "cumsum": lambda q: (matrix(q).cumsum(0) * matrix(q).exp().cumsum(1)).sum() + q.cumsum(0).sin().sum(),
    "flip": lambda q: (q.flip(0) * q.exp()).sum() + (matrix(q).flip(1) ** 2 * matrix(q)).sum(),
    "pad": lambda q: (F.pad(matrix(q), (1, 2, 0, 1), value=2.0) ** 2 * torch.arange(49).view(7, 7).to(q.dtype)).sum(),
    "picked": lambda q: (matrix(q)[ROWS].exp() * torch.arange(4).to(q.dtype)).sum() + matrix(q)[ROWS, COLUMNS].prod(),
    "picked columns": lambda q: (matrix(q)[:, COLUMNS] ** 3).sum() + q.view(2, 3, 4)[HALVES, :, COLUMNS].sin().sum(),
    "picked by a table": lambda q: (q[PLACES].sin() * torch.arange(15).view(5, 3).to(q.dtype)).sum(),
    "gathered": lambda q: torch.gather(matrix(q), 1, LABELS[:, None]).exp().sum() + q.index_select(0, ROWS).prod(),
    "embedding": lambda q: (F.embedding(LABELS, matrix(q)).exp() * matrix(q)).sum(),
    "scattered": lambda q: (
        (torch.zeros(7, dtype=q.dtype).index_add(0, LABELS, q[:6]) ** 2).sum()
        + (torch.zeros(6, 4, dtype=q.dtype).scatter_add(0, LABELS.view(1, -1)[:, :4], q[None, :4]) ** 3).sum()
    ),
    "products": lambda q: (
        (matrix(q) @ q[:12].view(4, 3)).exp().sum()
        + (matrix(q).T @ matrix(q)).sin().sum()
        + (matrix(q) @ q[:4]).exp().sum()
        + torch.dot(q, q.sin())
        + (q[:4] @ q[4:20].view(4, 4) @ q[20:])
        + torch.outer(q[:3], q[3:9]).exp().sum()
    ),
    "products of batches": lambda q: (
        torch.bmm(q.view(2, 3, 4), q.view(2, 4, 3)).exp().sum()
        + torch.einsum("bij,bkj->bik", q.view(2, 4, 3), q.view(2, 4, 3)).sin().sum()
    ),
    "narrow products": lambda q: (data(q) @ q[:8].view(4, 2)).sin().sum() + (q[:8].view(2, 4) @ data(q).T).cos().sum(),
    "data": lambda q: F.softplus(data(q) @ q[:4] + q[5]).sum() + (data(q)[::2, 1:] * q[4:7]).sin().sum(),
    "layers": lambda q: (
        F.linear(torch.tanh(F.linear(data(q), q[:12].view(3, 4), q[12:15])), q[15:18].view(1, 3), q[18:19]).pow(2).sum()
    ),
    "no numbers": lambda q: q[:0].exp().sum() + torch.cat((q[:0], q)).sum() + (data(q)[:0] @ q[:4]).sum(),
    "one number": lambda q: q[:1].sum() * q[1].exp() + q.sum() * q[2] + (q[3] > q[4]) * q[5],
}
FUNCTIONS = {
    **{name: (lambda q, f=f: (f(q) * torch.arange(1, D + 1).to(q.dtype)).sum()) for name, f in ELEMENTWISE.items()},
    **{f"{name} (axes)": f for name, f in OTHERS.items()},
}


def batch(dtype=torch.float64, chains=3):
    return torch.randn(chains, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


def by_autograd(function, positions):
    """Gradients and values in double precision, chain by chain."""
    gradients, values = [], []
    for position in positions.double():
        q = position.clone().requires_grad_()
        value = function(q)
        (gradient,) = torch.autograd.grad(value, q)
        gradients.append(gradient)
        values.append(value.detach())
    return torch.stack(gradients), torch.stack(values)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_numbers_of_autograd(name):
    function, positions = FUNCTIONS[name], batch()
    for received, expected in zip(
        translated_function(function, False, positions)(positions), by_autograd(function, positions), strict=True
    ):
        torch.testing.assert_close(received, expected, rtol=1e-10, atol=1e-10)


# Together, as each costs a compiler's time.
@pytest.mark.parametrize("names", [list(FUNCTIONS)[at::6] for at in range(6)])
def test_single_precision(names):
    def function(q):
        return sum(FUNCTIONS[name](q) for name in names)

    positions = batch(torch.float32)
    received = translated_function(function, True, positions)(positions)
    expected = by_autograd(function, positions)
    for one, other in zip(received, expected, strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-5 * other.abs().max().item())


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite(bad):
    parts = [f for name, f in ELEMENTWISE.items() if name not in ("digamma", "gamma", "sigmoids")]

    def function(q):
        return torch.cat([f(q[k : k + 1]) for k, f in enumerate(parts)]).sum()

    positions = batch(chains=len(parts) + 1)
    for k in range(len(parts)):
        positions[k, k] = bad
    received = translated_function(function, False, positions)(positions)
    gradients, values = grad_and_value(lambda q: torch.stack([function(one) for one in q]).sum())(positions)
    del values
    expected = gradients, torch.stack([function(q) for q in positions])
    for one, other in zip(received, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10, equal_nan=True)


def test_an_index_out_of_bounds_gives_nan():
    index = torch.tensor([1, 3])
    positions = batch()
    function = translated_function(lambda q: q[index].exp().sum(), False, positions)
    index[1] = 99
    _, values = function(positions)
    assert values.isnan().all()
    index[1] = -D - 1
    _, values = function(positions)
    assert values.isnan().all()
    index[1] = -1
    _, values = function(positions)
    np.testing.assert_allclose(values, positions[:, 1].exp() + positions[:, -1].exp(), rtol=1e-14)


def test_large_sums_in_single_precision_are_as_exact_as_the_numbers():
    weights = torch.rand(200_000, generator=torch.Generator().manual_seed(3))
    positions = batch(torch.float32)
    gradients, values = translated_function(lambda q: (weights * q[0]).sum(), False, positions)(positions)
    np.testing.assert_allclose(gradients[:, 0], weights.double().sum().expand(3), rtol=2e-7)
    np.testing.assert_allclose(values, (weights.double().sum() * positions[:, 0].double()), rtol=2e-7)


@pytest.mark.parametrize(
    "shape", [(64, 64, 64), (7, 33, 5), (40, 3, 17), (3, 40, 17), (1, 9, 30), (9, 1, 30), (2, 2, 1)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products_of_all_shapes(shape, dtype):
    rows, columns, depth = shape
    generator = torch.Generator().manual_seed(4)
    right = torch.randn(columns, depth, generator=generator, dtype=torch.float64).to(dtype)
    other = torch.randn(rows, columns, generator=generator, dtype=torch.float64).to(dtype)
    positions = torch.randn(2, rows * depth, generator=generator, dtype=torch.float64).to(dtype)

    def function(q):
        return ((q.view(rows, depth) @ right.T) * other).sum() + (other.T @ q.view(depth, rows).T).pow(2).sum() / 2

    received = translated_function(function, dtype == torch.float32, positions)(positions)
    right, other = right.double(), other.double()
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    for one, exact in zip(received, by_autograd(function, positions), strict=True):
        torch.testing.assert_close(one.double(), exact, rtol=tolerance, atol=tolerance * exact.abs().max().item())
