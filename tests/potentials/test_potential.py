"""Potential: U and its gradient over a batch of chains, against plain autograd of one row after another."""

from __future__ import annotations

import contextlib
import math
import warnings

import numpy as np
import pytest
import torch

from hnbayes import ParamSpec, Potential
from hnbayes.potentials import as_potential, evaluators
from hnbayes.potentials.native import compiler

DTYPES = [torch.float32, torch.float64]
ONE_BY_ONE = "chains are evaluated one after another"


# --- potentials of every kind -----------------------------------------------------------------------------------------


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


# --- captured and compiled graphs -------------------------------------------------------------------------------------


@pytest.mark.parametrize("compile", [False, "auto"])
def test_data_changed_in_place_are_seen(compile):
    data, scale = positions_of(6, 5), torch.tensor(1.0, dtype=torch.float64)

    def U(q):
        # A statistic of the data alone must be computed anew too.
        return scale * ((data @ q) - data.mean()).square().sum() + (q - data.std(0)).square().sum()

    potential = Potential(U, compile=compile)
    q = positions_of(3)
    before = potential.value_and_grad(q)
    assert_matches(before, U, q)
    potential.value(q)
    data.mul_(2.0)
    scale.fill_(0.5)
    after = potential.value_and_grad(q)
    assert not torch.allclose(before[0], after[0])
    assert_matches(after, U, q)
    torch.testing.assert_close(potential.value(q), after[0])


def test_changed_python_values_are_seen_at_once_or_after_reset():
    settings = {"scale": 1.0}

    def U(q):
        return settings["scale"] * q.square().sum()

    direct, captured = Potential(U, compile=False), Potential(U)
    q = positions_of(3)
    unscaled = captured.value_and_grad(q)[0]
    direct.value_and_grad(q)
    settings["scale"] = 3.0
    torch.testing.assert_close(direct.value_and_grad(q)[0], 3 * unscaled)
    assert torch.equal(captured.value_and_grad(q)[0], unscaled)
    captured.reset()
    assert_matches(captured.value_and_grad(q), U, q)


def test_reset_tries_vmap_again():
    settings = {"vectorisable": False}

    def U(q):
        return banana(q) if settings["vectorisable"] else with_item(q)

    potential = Potential(U)
    q = positions_of(2)
    with pytest.warns(UserWarning, match=ONE_BY_ONE):
        assert potential.prepare(q) == "sequential"
    settings["vectorisable"] = True
    assert potential.prepare(q) == "sequential"
    potential.reset()
    assert potential.prepare(q) == "captured"
    assert_matches(potential.value_and_grad(q), banana, q)


def test_a_captured_function_is_not_called_again_and_an_uncaptured_one_once_a_batch():
    calls = []

    def U(q):
        calls.append(1)
        return banana(q)

    for compile, calls_each in (("auto", 0), (False, 1)):
        potential = Potential(U, compile=compile)
        potential.value_and_grad(positions_of(4))
        calls.clear()
        for seed in range(5):
            potential.value_and_grad(positions_of(4, seed))
        assert len(calls) == 5 * calls_each


def test_compile_false_calls_the_function_for_values_too():
    settings = {"scale": 1.0}
    potential = Potential(lambda q: settings["scale"] * q.square().sum(), compile=False)
    q = positions_of(3)
    unscaled = potential.value(q)
    settings["scale"] = 3.0
    torch.testing.assert_close(potential.value(q), 3 * unscaled)


@pytest.mark.skipif(not evaluators.has_compiler(), reason="torch.compile needs a C++ compiler; none was found")
def test_compiled():
    data = positions_of(6, 5)

    def U(q):
        return 0.5 * ((data @ q).tanh() - 1).square().sum() + 0.5 * q.square().sum()

    potential = Potential(U, compile=True)
    assert potential.prepare(positions_of(3)) == "compiled"
    # Importing torch's compiler switches these checks off, for the whole program.
    assert torch.distributions.Normal(0.0, 1.0)._validate_args
    for seed in range(3):
        q = positions_of(3, seed)
        assert_matches(potential.value_and_grad(q), U, q)
    data.mul_(2.0)
    assert_matches(potential.value_and_grad(q), U, q)
    assert_matches(potential.value_and_grad(q.clone().requires_grad_()), U, q)


def test_auto_compiles_what_runs_long_enough(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda graph, **options: graph)
    monkeypatch.setattr(evaluators, "has_compiler", lambda: True)
    q = positions_of(3)
    monkeypatch.setenv(compiler.SWITCH, "0")
    assert Potential(banana).prepare(q, evaluations=10**9) == "captured", "NumPy evaluates small graphs"
    monkeypatch.setattr(evaluators, "as_host_function", lambda graph: None)
    assert Potential(banana).prepare(q) == "captured"
    assert Potential(banana).prepare(q, evaluations=100) == "captured"
    assert Potential(banana).prepare(q, evaluations=10**9) == "compiled"
    assert Potential(banana, compile=False).prepare(q, evaluations=10**9) == "vmap"


def test_what_the_recorder_refuses_torch_traces_once(monkeypatch):
    scale, attempts = torch.tensor(2.0), []

    def asks_for_a_value(q):
        return q.square().sum() * scale.item()

    def fails(function, *arguments):
        attempts.append(function)
        raise RuntimeError("can't be traced")

    q = positions_of(3)
    monkeypatch.setenv(compiler.SWITCH, "0")
    assert Potential(asks_for_a_value).prepare(q) == "captured"
    monkeypatch.setattr(evaluators, "traced_by_torch", fails)
    assert Potential(asks_for_a_value).prepare(q) == "vmap"
    assert len(attempts) == 1


@pytest.mark.parametrize("insist", [True, "auto"])
def test_without_a_compiler_the_captured_graph_is_used(insist, monkeypatch):
    monkeypatch.setattr(evaluators, "has_compiler", lambda: False)
    monkeypatch.setenv(compiler.SWITCH, "0")
    check_falls_back(insist, r"needs a C\+\+ compiler")


@pytest.mark.parametrize("insist", [True, "auto"])
def test_where_compiling_fails_the_captured_graph_is_used(insist, monkeypatch):
    def fail(graph, **options):
        raise RuntimeError("no luck")

    monkeypatch.setattr(torch, "compile", fail)
    monkeypatch.setattr(evaluators, "has_compiler", lambda: True)
    monkeypatch.setenv(compiler.SWITCH, "0")
    check_falls_back(insist, "torch.compile failed, .* no luck")


def check_falls_back(insist, message):
    """To the captured graph, with a warning only where compiling was asked for."""
    U = Potential(banana, compile=insist)
    q = positions_of(3)
    if insist is True:
        with pytest.warns(UserWarning, match=message):
            assert U.prepare(q, 10**9) == "captured"
    else:
        assert U.prepare(q, 10**9) == "captured"
    assert_matches(U.value_and_grad(q), banana, q)


def test_a_miscompiled_graph_is_not_used(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda graph, **options: lambda q: [2 * out for out in graph(q)])
    monkeypatch.setattr(evaluators, "has_compiler", lambda: True)
    U = Potential(banana, compile=True)
    q = positions_of(3)
    assert U.prepare(q) == "captured"
    assert_matches(U.value_and_grad(q), banana, q)


# --- potentials that are no functions of the position alone ----------------------------------------------------------


@pytest.mark.parametrize("draw", [torch.rand_like, torch.nn.Dropout(0.5)], ids=["rand", "dropout"])
@pytest.mark.parametrize("compile", [False, "auto"])
def test_random_numbers_are_never_vectorised_in_silence(draw, compile):
    U = Potential(lambda q: (q * draw(q)).square().sum(), compile=compile)
    with pytest.warns(UserWarning, match="random"):
        assert U.prepare(positions_of(3)) == "sequential"


def test_a_function_that_changes_its_own_state_is_not_vectorised_in_silence():
    calls = []

    def U(q):
        calls.append(1)
        return len(calls) * q.square().sum()

    with pytest.warns(UserWarning, match="change its own state"):
        assert Potential(U).prepare(positions_of(3)) == "sequential"


def in_place(q):
    q.mul_(2.0)
    return q.square().sum()


def test_a_function_that_changes_its_argument_is_refused():
    q = positions_of(3)
    before = q.clone()
    with pytest.raises(RuntimeError, match="in-place"):
        Potential(in_place).value_and_grad(q)
    assert torch.equal(q, before)


def test_a_function_that_changes_its_argument_does_not_change_the_callers():
    """Whether value() refuses it, as value_and_grad does, or copes."""
    q = positions_of(3)
    before = q.clone()
    try:
        values = Potential(in_place).value(q)
    except (RuntimeError, ValueError) as error:
        assert "place" in str(error)  # noqa: PT017
    else:
        torch.testing.assert_close(values, (4 * before.square()).sum(1))
    assert torch.equal(q, before)


def test_parameters_that_require_gradients_leave_no_graph():
    weight = positions_of(1, 3)[0].requires_grad_()
    product = 2 * weight  # with a graph of its own

    def U(q):
        return (weight * q).square().sum() + (product * q).sum()

    def plain(q):
        return (weight.detach() * q).square().sum() + (2 * weight.detach() * q).sum()

    for compile in (False, "auto"):
        for function in (U, lambda q: U(q) * (1.0 if q[0].item() < 99 else 2.0)):
            potential = Potential(function, compile=compile)
            warm(potential, positions_of(3))
            q = positions_of(3, 1)
            assert_matches(potential.value_and_grad(q), plain, q)
            with fallback_allowed():
                assert potential.value(q).grad_fn is None
            assert weight.grad is None
    assert weight.requires_grad
    assert product.grad_fn is not None


# --- positions of every kind ------------------------------------------------------------------------------------------

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
