"""Potentials of every kind, and what plain autograd of one row after another says of them."""

from __future__ import annotations

import contextlib
import warnings

import torch

DTYPES = [torch.float32, torch.float64]
ONE_BY_ONE = "chains are evaluated one after another"


def banana(q):
    """Vectorises and can be captured."""
    return 0.5 * q[0].square() + 0.5 * (q[1:] - 0.3 * q[0].square()).square().sum() + torch.logsumexp(q, 0)


def with_item(q):
    """`.item()` stops vmap."""
    return q.square().sum() * (1.0 if q[0].item() > 0 else 3.0)


def with_branch(q):
    """Control flow on a tensor stops vmap."""
    if (q > 0).all():
        return q.pow(4).sum()
    return q.square().sum()


def with_truth_value_of_nonzero(q):
    """A data-dependent shape stops vmap."""
    return q[torch.nonzero(q > 0)[:, 0]].square().sum() + q.square().sum()


class Cube(torch.autograd.Function):
    """An autograd function of the old kind, which functorch refuses."""

    @staticmethod
    def forward(ctx, q):
        ctx.save_for_backward(q)
        return q**3

    @staticmethod
    def backward(ctx, gradient):
        (q,) = ctx.saved_tensors
        return 3 * q**2 * gradient


def with_autograd_function(q):
    return Cube.apply(q).sum() + q.pow(4).sum()


def through_view(q):
    """`view` is a promise about strides."""
    return (q.view(2, 2) @ torch.ones(2, dtype=q.dtype)).pow(4).sum()


def log_det(q):
    """The Cholesky factorisation fails where |q_1| >= 1; vmap and capture work."""
    one = torch.ones_like(q[0])
    matrix = torch.stack([torch.stack([one, q[1]]), torch.stack([q[1], one])])
    return 0.5 * q.square().sum() + torch.linalg.cholesky(matrix).diagonal().log().sum()


def picky(q):
    """Raises by itself where |q_1| >= 1; not vectorisable."""
    if q[1].abs() >= 1:
        raise ValueError("|q_1| must be below 1")
    return 0.5 * q.square().sum()


STOP_VMAP = [with_item, with_branch, with_truth_value_of_nonzero, with_autograd_function]


def oracle(function, positions):
    """Values (C,) and gradients (C, D) by autograd, one row after another."""
    values, gradients = [], []
    for row in positions:
        q = torch.tensor(row.tolist(), dtype=positions.dtype, requires_grad=True)
        value = function(q)
        value.backward()
        values.append(value.item())
        gradients.append(q.grad)
    return torch.tensor(values, dtype=torch.float64), torch.stack(gradients)


def assert_matches(received, function, positions):
    values, gradients = received
    expected_values, expected_gradients = oracle(function, positions)
    tolerance = 1e-5 if positions.dtype == torch.float32 else 1e-12
    assert values.shape == positions.shape[:1]
    assert gradients.shape == positions.shape
    torch.testing.assert_close(values.double(), expected_values, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(gradients, expected_gradients, rtol=tolerance, atol=tolerance)
    assert not values.requires_grad
    assert not gradients.requires_grad


def positions_of(chains, seed=0, dtype=torch.float64, dimension=4):
    return torch.randn(chains, dimension, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@contextlib.contextmanager
def fallback_allowed():
    """For calls at which the fallback may or may not be announced."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=f".*{ONE_BY_ONE}")
        yield


def warm(U, positions):
    """Make the choice of how to evaluate, whatever it warns of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return U.prepare(positions)
