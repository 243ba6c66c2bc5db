"""Potential: U and its gradient over a batch of chains, against plain autograd of one row after another."""

from __future__ import annotations

import pytest
import torch
from potentials_of_every_kind import (
    DTYPES,
    ONE_BY_ONE,
    STOP_VMAP,
    assert_matches,
    banana,
    oracle,
    positions_of,
    with_autograd_function,
    with_branch,
    with_item,
)

from hnbayes import ParamSpec, Potential
from hnbayes.potentials import as_potential

# --- values and gradients ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("chains", [1, 2, 5])
@pytest.mark.parametrize(("compile", "mode"), [(False, "vmap"), ("auto", "captured")])
def test_vectorised(compile, mode, chains, dtype):
    U = Potential(banana, compile=compile)
    assert U.prepare(positions_of(chains, dtype=dtype)) == mode
    for seed in range(3):
        q = positions_of(chains, seed, dtype)
        assert_matches(U.value_and_grad(q), banana, q)
        torch.testing.assert_close(U.value(q), U.value_and_grad(q)[0])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("function", STOP_VMAP)
def test_sequential_with_one_warning_that_names_the_cause(function, dtype):
    U = Potential(function)
    with pytest.warns(UserWarning, match=f"{ONE_BY_ONE}.*Cause: [A-Z].+") as caught:
        assert U.prepare(positions_of(3, dtype=dtype)) == "sequential"
    assert len(caught) == 1
    # Neither another evaluation nor another number of chains warns again.
    for seed, chains in enumerate([3, 2, 5, 1]):
        q = positions_of(chains, seed, dtype)
        assert_matches(U.value_and_grad(q), function, q)


@pytest.mark.parametrize(
    ("function", "cause"),
    [(with_item, r"\.item\(\)"), (with_branch, "data-dependent control flow"), (with_autograd_function, "Cube|setup_")],
)
def test_the_cause_is_functorchs_own(function, cause):
    with pytest.warns(UserWarning, match=cause):
        Potential(function).prepare(positions_of(2))


def test_one_chain_alone_does_not_warn():
    U = Potential(with_item)
    assert U.prepare(positions_of(1)) == "sequential"
    assert_matches(U.value_and_grad(positions_of(1, 1)), with_item, positions_of(1, 1))


def test_several_chains_warn_also_after_one_alone():
    U = Potential(with_item)
    U.prepare(positions_of(1))
    with pytest.warns(UserWarning, match=ONE_BY_ONE):
        U.prepare(positions_of(3))


def test_values_alone_warn_of_the_fallback_too():
    with pytest.warns(UserWarning, match=ONE_BY_ONE):
        Potential(with_item).value(positions_of(3))


def test_values_alone_are_vectorised_where_only_a_gradient_can_be():
    """Without a gradient functorch refuses `.data`; warnings are errors here, so a fallback would be one."""

    def looks_at_data(q):
        assert q.data.shape == (4,)
        return (q**4).sum() + torch.log1p(q[0].square())

    U = Potential(looks_at_data)
    for seed in range(2):
        q = positions_of(3, seed)
        torch.testing.assert_close(U.value(q), (q**4).sum(1) + torch.log1p(q[:, 0].square()))
    with pytest.warns(UserWarning, match=ONE_BY_ONE):  # what no gradient helps against
        Potential(lambda q: looks_at_data(q) + (q[0].item() > 0)).value(positions_of(3))


def test_batches_of_many_shapes_and_dtypes_in_turn():
    U = Potential(banana)
    for _ in range(2):
        for chains, dimension, dtype in [(3, 4, DTYPES[0]), (1, 4, DTYPES[0]), (3, 4, DTYPES[1]), (3, 6, DTYPES[1])]:
            q = positions_of(chains, chains, dtype, dimension)
            received = U.value_and_grad(q)
            assert received[0].dtype == received[1].dtype == dtype
            assert_matches(received, banana, q)


def test_data_of_another_dtype_than_the_positions():
    data = positions_of(1, 9)[0]

    def U(q):
        return (q - data).pow(4).sum()

    q = positions_of(3, dtype=torch.float32)
    values, gradients = Potential(U).value_and_grad(q)
    assert values.dtype == torch.float64
    assert gradients.dtype == torch.float32
    expected = oracle(U, q)
    torch.testing.assert_close(values, expected[0])
    torch.testing.assert_close(gradients, expected[1])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("validate", [False, True])
def test_torch_distributions(validate, dtype):
    """The documented example; argument checks of distributions can't be captured, and need not be."""
    target = torch.distributions.MultivariateNormal(
        torch.zeros(4, dtype=dtype), torch.eye(4, dtype=dtype) + 0.5, validate_args=validate
    )

    def U(q):
        return -target.log_prob(q)

    q = positions_of(3, 1, dtype)
    assert_matches(Potential(U).value_and_grad(q), U, q)


def test_calling_it_is_calling_the_function():
    U = Potential(banana)
    q = positions_of(1)[0].requires_grad_()
    value = U(q)
    assert value.shape == ()
    value.backward()
    assert torch.equal(q.grad, oracle(banana, q.detach()[None])[1][0])


# --- making one -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"function": 3.0}, TypeError, r"function from a position .* received 3.0 \(float\)"),
        ({"function": None}, TypeError, "received None"),
        ({"compile": "yes"}, ValueError, "compile must be one of 'auto', True, False; received 'yes'"),
        ({"compile": 1}, ValueError, "compile must be one of"),
        ({"compile": None}, ValueError, "compile must be one of"),
        ({"on_error": "ignore"}, ValueError, "on_error must be one of 'diverge', 'raise'"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        Potential(**{"function": banana, **arguments})


def test_as_potential():
    U = Potential(banana, on_error="raise")
    assert as_potential(U, on_error="diverge") is U
    wrapped = as_potential(banana, compile=False, on_error="raise")
    assert (wrapped.function, wrapped.compile, wrapped.on_error, wrapped.spec) == (banana, False, "raise", None)
    with pytest.raises(TypeError, match="must be a function"):
        as_potential(1.0)


def test_repr_names_the_function_and_the_parameters():
    assert repr(Potential(banana)) == "Potential(banana)"
    assert repr(Potential(banana, spec=ParamSpec(("w",), ((2, 3),)))) == "Potential(banana, 6 parameters)"
    assert repr(Potential(torch.nn.Identity())) == "Potential(Identity)"
