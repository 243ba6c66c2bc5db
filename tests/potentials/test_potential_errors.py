"""Potential: functions that are none, and those that raise at some positions."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from potentials_of_every_kind import (
    assert_matches,
    fallback_allowed,
    log_det,
    oracle,
    picky,
    positions_of,
    warm,
    with_item,
)

from hnbayes import Potential

# --- functions that are no potentials ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["prepare", "value_and_grad", "value"])
@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (lambda q: q.square().sum()[None], ValueError, r"must return a scalar.*shape \(1,\).*Sum the terms"),
        (lambda q: q.square(), ValueError, r"must return a scalar.*shape \(4,\)"),
        (lambda q: 1.5, TypeError, r"0-dimensional tensor; received 1.5 \(float\)"),
        (lambda q: np.float64(1.5), TypeError, "0-dimensional tensor; received"),
        (lambda q: None, TypeError, "0-dimensional tensor; received None"),
        (lambda q: (q.sum(), q), TypeError, "0-dimensional tensor; received .*tuple"),
        (lambda q: q.long().sum(), TypeError, "floating-point value; received .*int64"),
        (lambda q: (q > 0).any(), TypeError, "floating-point value; received .*bool"),
        (lambda q: q.sum() * 1j, TypeError, "floating-point value; received .*complex"),
    ],
    ids=["shape (1,)", "shape (D,)", "float", "NumPy", "None", "tuple", "int", "bool", "complex"],
)
def test_results_refused(function, error, message, method):
    with pytest.raises(error, match=message):
        getattr(Potential(function), method)(positions_of(3))


@pytest.mark.parametrize(
    "function",
    [
        lambda q: torch.tensor(1.0),
        lambda q: q.detach().square().sum(),
        lambda q: torch.tensor(float((q.detach().numpy() ** 2).sum())),
        lambda q: (q > 0).double().sum(),
    ],
    ids=["constant", "detached", "NumPy", "step function"],
)
def test_a_gradient_is_needed_for_gradients(function):
    with pytest.raises(ValueError, match="depend on the position through differentiable torch operations"):
        Potential(function).value_and_grad(positions_of(3))


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda q: torch.tensor(1.0), lambda row: 1.0),
        (lambda q: q.detach().square().sum(), lambda row: sum(x**2 for x in row)),
        (lambda q: torch.tensor(float((q.detach().numpy() ** 2).sum())), lambda row: sum(x**2 for x in row)),
        (lambda q: (q > 0).double().sum(), lambda row: float(sum(x > 0 for x in row))),
        (lambda q: torch.floor(q).sum(), lambda row: float(sum(math.floor(x) for x in row))),
        (with_item, lambda row: sum(x**2 for x in row) * (1 if row[0] > 0 else 3)),
    ],
    ids=["constant", "detached", "NumPy", "step function", "floor", "item"],
)
def test_values_need_no_gradient(function, expected):
    U = Potential(function)
    for chains, seed in [(3, 0), (3, 1), (1, 2)]:
        q = positions_of(chains, seed)
        with fallback_allowed():
            values = U.value(q)
        assert values.shape == (chains,)
        np.testing.assert_allclose(values.numpy(), [expected(row) for row in q.tolist()], rtol=1e-6)
        assert not values.requires_grad


@pytest.mark.parametrize("compile", [False, "auto"])
def test_not_a_number_stays_in_its_row(compile):
    """NaN is a value like others here; kernels reject it, and starts are refused where it occurs."""

    def U(q):
        return q.square().sum() + q[0].log()

    q = torch.tensor([[1.0, 2.0], [-1.0, 2.0], [3.0, 0.5]], dtype=torch.float64)
    values, gradients = Potential(U, compile=compile).value_and_grad(q)
    assert values.isnan().tolist() == [False, True, False]
    keep = [0, 2]
    assert_matches((values[keep], gradients[keep]), U, q[keep])


# --- functions that raise at some positions ---------------------------------------------------------------------------

MIXED = torch.tensor([[0.3, 0.2], [0.1, 1.5], [-1.0, -0.4]], dtype=torch.float64)  # the middle row is bad
BAD = torch.tensor([False, True, False])


@pytest.mark.parametrize("method", ["value_and_grad", "value"])
@pytest.mark.parametrize("compile", [False, "auto"])
@pytest.mark.parametrize("function", [log_det, picky])
def test_an_error_at_one_position_is_its_rows_alone(function, compile, method):
    U = Potential(function, compile=compile)
    good = MIXED[[0, 2, 2]]
    warm(U, good)
    with fallback_allowed():
        U.value(good)
    before = MIXED.clone()
    with pytest.warns(UserWarning, match="raised an error.*First error: [A-Za-z_]*Error") as caught:
        received = getattr(U, method)(MIXED)
    assert len(caught) == 1
    values = received[0] if method == "value_and_grad" else received
    assert values.isnan().equal(BAD)
    if method == "value_and_grad":
        assert received[1].isnan().all(1).equal(BAD)
        assert received[1].isnan().any(1).equal(BAD)
        assert_matches((values[~BAD], received[1][~BAD]), function, MIXED[~BAD])
    else:
        torch.testing.assert_close(values[~BAD], oracle(function, MIXED[~BAD])[0])
    # It warns once, and goes on to work.
    again = getattr(U, method)(MIXED)
    assert (again[0] if method == "value_and_grad" else again).isnan().equal(BAD)
    assert U.failures == 2
    assert_matches(U.value_and_grad(good), function, good)
    assert torch.equal(MIXED, before)


@pytest.mark.parametrize("compile", [False, "auto"])
@pytest.mark.parametrize(("function", "message"), [(log_det, "cholesky"), (picky, "q_1. must be below 1")])
def test_on_error_raise_lets_it_out(function, message, compile):
    U = Potential(function, compile=compile, on_error="raise")
    good = MIXED[[0, 2, 2]]
    warm(U, good)
    before = MIXED.clone()
    for method in (U.value_and_grad, U.value):
        with fallback_allowed():
            method(good)
        with pytest.raises((ValueError, torch.linalg.LinAlgError), match=message):
            method(MIXED)
    assert torch.equal(MIXED, before)
    assert_matches(U.value_and_grad(good), function, good)


@pytest.mark.parametrize(
    "order",
    [
        [0, 1, 2],
        [1, 0, 2],
    ],
    ids=["middle row", "first row"],
)
@pytest.mark.parametrize("function", [log_det, picky])
@pytest.mark.parametrize("known", [False, True], ids=["first call of all", "first call of this number of chains"])
def test_an_error_at_the_first_call(function, order, known):
    """Kernel.step makes such calls: its batch shrinks while trajectories are under way."""
    U = Potential(function)
    if known:
        warm(U, MIXED[[0, 2]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        values, gradients = U.value_and_grad(MIXED[order])
    assert values.isnan().equal(BAD[order])
    good = [row for row in order if not BAD[row]]
    assert_matches((values[~BAD[order]], gradients[~BAD[order]]), function, MIXED[good])


def test_an_error_at_the_first_call_does_not_cost_vectorisation():
    U = Potential(log_det)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        U.value_and_grad(MIXED)
    assert U.prepare(MIXED[[0, 2, 2]]) == "captured"


@pytest.mark.parametrize("error", [KeyError, TypeError, AttributeError, IndexError, AssertionError, KeyboardInterrupt])
@pytest.mark.parametrize("method", ["value_and_grad", "value"])
def test_faults_of_the_program_surface(method, error):
    """Only what a bad position may raise counts as divergent."""

    def U(q):
        if q[0].item() > 5:
            raise error("mine")
        return q.square().sum()

    evaluate = getattr(Potential(U), method)
    with fallback_allowed():
        evaluate(torch.zeros(1, 2))
        evaluate(torch.zeros(3, 2))
    with pytest.raises(error):
        evaluate(torch.full((3, 2), 6.0))


def runs_out_of_memory(kind):
    """A potential without memory for positions above 5, and with a ValueError below -5."""

    def U(q):
        if q[0].item() > 5:
            if kind == "accelerator":
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 7 TiB")
            return torch.empty(2**58).sum() * q.sum()
        if q[0].item() < -5:
            raise ValueError("too low")
        return q.square().sum()

    U = Potential(U)
    warm(U, torch.zeros(2, 2))
    with fallback_allowed():
        U.value(torch.zeros(2, 2))
    return U


@pytest.mark.parametrize(
    ("kind", "start"),
    [
        ("accelerator", 6.0),
        ("accelerator", -6.0),
        ("CPU", 6.0),
        ("CPU", -6.0),
    ],
    ids=["first row", "beside a failing row", "first row, CPU", "beside a failing row, CPU"],
)
@pytest.mark.parametrize("method", ["value_and_grad", "value"])
def test_running_out_of_memory_is_no_divergence(kind, start, method):
    U = runs_out_of_memory(kind)
    positions = torch.tensor([[start, 0.0], [6.0, 0.0]])
    evaluate = getattr(U, method)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(RuntimeError, match="memory"):
            evaluate(positions)
