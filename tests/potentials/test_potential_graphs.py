"""Potential: captured and compiled graphs, and functions that must not become one."""

from __future__ import annotations

import pytest
import torch
from potentials_of_every_kind import (
    ONE_BY_ONE,
    assert_matches,
    banana,
    fallback_allowed,
    positions_of,
    warm,
    with_item,
)

from hnbayes import Potential
from hnbayes.potentials import evaluators
from hnbayes.potentials.native import compiler

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


# --- potentials that are no functions of the position alone -----------------------------------------------------------


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
