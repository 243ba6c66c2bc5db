"""Potential: positions of any layout and kind."""

from __future__ import annotations

import math

import pytest
import torch
from potentials_of_every_kind import (
    assert_matches,
    banana,
    fallback_allowed,
    oracle,
    positions_of,
    through_view,
    warm,
    with_item,
)

from hnbayes import ParamSpec, Potential

LAYOUTS = {
    "contiguous": lambda q: q,
    "transposed": lambda q: q.T.contiguous().T,
    "strided": lambda q: q.repeat_interleave(2, 1)[:, ::2],
    "offset": lambda q: torch.cat([q, q], 1)[:, 4:],
    "expanded": lambda q: q[:1].expand(3, 4),
    "requires grad": lambda q: q.clone().requires_grad_(),
    "with a graph": lambda q: 1.0 * q.clone().requires_grad_(),
    "parameter": torch.nn.Parameter,
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("first", ["contiguous", "transposed"])
@pytest.mark.parametrize("compile", [False, "auto"])
@pytest.mark.parametrize("function", [banana, with_item])
def test_positions_of_any_layout(function, compile, first, layout):
    U = Potential(function, compile=compile, on_error="raise")
    warm(U, LAYOUTS[first](positions_of(3)))
    q = LAYOUTS[layout](positions_of(3, 1))
    before, strides = q.detach().clone(), q.stride()
    assert_matches(U.value_and_grad(q), function, q)
    with fallback_allowed():
        torch.testing.assert_close(U.value(q), oracle(function, q)[0])
    assert torch.equal(q.detach(), before)
    assert q.stride() == strides
    assert not q.is_leaf or q.grad is None


@pytest.mark.parametrize(
    ("compile", "layout"),
    [
        (False, "transposed"),
        (False, "strided"),
        (False, "offset"),
        ("auto", "transposed"),
        ("auto", "strided"),
        ("auto", "offset"),
    ],
)
def test_views_inside_the_function(layout, compile):
    U = Potential(through_view, compile=compile, on_error="raise")
    U.prepare(positions_of(3))
    q = LAYOUTS[layout](positions_of(3, 1))
    assert_matches(U.value_and_grad(q), through_view, q)


@pytest.mark.parametrize("compile", [False, "auto"])
@pytest.mark.parametrize("function", [banana, with_item])
def test_inference_tensors(function, compile):
    with torch.inference_mode():
        first, second = positions_of(3), positions_of(3, 1)
    U = Potential(function, compile=compile)
    warm(U, first)
    assert_matches(U.value_and_grad(second), function, second)


@pytest.mark.parametrize("function", [banana, with_item])
def test_inside_no_grad(function):
    with torch.no_grad():
        U = Potential(function)
        warm(U, positions_of(3))
        received = U.value_and_grad(positions_of(3, 1))
    assert_matches(received, function, positions_of(3, 1))


@pytest.mark.parametrize("function", [banana, with_item])
def test_inside_inference_mode(function):
    with torch.inference_mode():
        U = Potential(function)
        warm(U, positions_of(3))
        received = U.value_and_grad(positions_of(3, 1))
    assert_matches(received, function, positions_of(3, 1))


@pytest.mark.parametrize(
    ("positions", "error", "message"),
    [
        ([[0.0]], TypeError, "must be a tensor of shape"),
        (torch.zeros(4), ValueError, r"must have shape \(C, D\).*received \(4,\).*q\[None\]"),
        (torch.zeros(2, 3, 4), ValueError, r"must have shape \(C, D\)"),
        (torch.zeros(0, 4), ValueError, "at least one chain"),
        (torch.zeros(2, 0), ValueError, "at least one chain and one dimension"),
        (torch.zeros(2, 4, dtype=torch.int64), TypeError, "must be float32 or float64; .*int64"),
        (torch.zeros(2, 4, dtype=torch.float16), TypeError, "must be float32 or float64; .*float16"),
        (torch.zeros(2, 4, dtype=torch.complex64), TypeError, "must be float32 or float64; .*complex64"),
        (torch.tensor([[0.0, 1.0, math.nan, 0.0]]), ValueError, r"positions must be finite; .*index \(0, 2\)"),
        (torch.tensor([[0.0, math.inf, 0.0, 0.0]]), ValueError, "positions must be finite"),
        (torch.zeros(2, 5), ValueError, r"must have D = 4, .* received shape \(2, 5\)"),
    ],
)
def test_positions_refused(positions, error, message):
    U = Potential(banana, spec=ParamSpec(("a", "b"), ((2,), (2,))))
    with pytest.raises(error, match=message):
        U.prepare(positions)
