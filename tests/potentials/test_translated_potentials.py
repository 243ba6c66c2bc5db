"""Where graphs translated to C are used, where they aren't, and that what they hold can change."""

from __future__ import annotations

import dataclasses
import math
import pathlib

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

import hnbayes
import hnbayes.pyro
from hnbayes.kernels import NUTS
from hnbayes.potentials import Potential
from hnbayes.potentials.native import compiler
from hnbayes.potentials.translated import WORTH_COMPILING, function, translated_function
from hnbayes.rng import chain_streams

pytestmark = pytest.mark.skipif(compiler.library(True) is None, reason="no C compiler here")

Y = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
SIGMA = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


def schools(y, sigma):
    """Eight schools (Rubin 1981), not centred."""
    mu = pyro.sample("mu", dist.Normal(torch.zeros((), dtype=y.dtype), 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(torch.full((), 5.0, dtype=y.dtype)))
    with pyro.plate("school", len(y)):
        eta = pyro.sample("eta", dist.Normal(torch.zeros((), dtype=y.dtype), 1.0))
        pyro.sample("obs", dist.Normal(mu + tau * eta, sigma), obs=y)


def schools_by_scipy(q):
    """U of eight schools at (eta, mu, log tau)."""
    eta, mu, tau = q[:8], q[8], np.exp(q[9])
    likelihood = stats.norm.logpdf(Y.numpy(), mu + tau * eta, SIGMA.numpy()).sum()
    prior = stats.norm.logpdf(eta).sum() + stats.norm.logpdf(mu, 0, 5) + stats.halfcauchy.logpdf(tau, 0, 5)
    return -(likelihood + prior + q[9])


def positions(dimension, chains=3, dtype=torch.float64):
    return torch.randn(chains, dimension, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(dtype)


def data_potential(data, **options):
    return Potential(lambda q: ((data - q[0]) ** 2).sum() / 2 + (q**2).sum() / 8, **options)


def test_eight_schools_by_scipy():
    U = hnbayes.pyro.potential(schools, Y.double(), SIGMA.double())
    q = positions(10)
    assert U.prepare(q, WORTH_COMPILING) == "native"
    assert U.point(q.numpy()) is not None
    values, gradients = U.value_and_grad(q)
    expected = np.array([schools_by_scipy(one) for one in q.numpy()])
    np.testing.assert_allclose(values, expected, rtol=1e-7)  # Pyro's constants are of single precision
    np.testing.assert_allclose(values[1:] - values[0], expected[1:] - expected[0], rtol=1e-11)
    step = 1e-6 * np.eye(10)
    slopes = [[(schools_by_scipy(one + d) - schools_by_scipy(one - d)) / 2e-6 for d in step] for one in q.numpy()]
    np.testing.assert_allclose(gradients, slopes, rtol=1e-6, atol=1e-6)


def test_only_where_a_run_is_long():
    U, q = data_potential(torch.ones(5).double()), positions(3)
    assert U.prepare(q) == "captured"
    assert U.prepare(q, WORTH_COMPILING - 1) == "captured"
    assert U.point(q.numpy()) is None
    assert U.prepare(q, WORTH_COMPILING) == "native"
    assert U.point(q.numpy()) is not None
    assert U.prepare(q[:1]) == "native"  # a part of the same run
    assert U.prepare(q, 1) == "captured"
    assert U.point(q.numpy()) is None


@pytest.mark.parametrize("compile", [True, False])
def test_only_with_auto(compile, monkeypatch):
    if compile:
        monkeypatch.setattr("hnbayes.potentials.evaluators._compile", lambda graph, *_, **__: graph)
    assert data_potential(torch.ones(5).double(), compile=compile).prepare(positions(3), 10**6) != "native"


def test_not_without_a_compiler(monkeypatch):
    monkeypatch.setenv(compiler.SWITCH, "0")
    assert data_potential(torch.ones(5).double()).prepare(positions(3), 10**6) == "captured"


@pytest.mark.parametrize(
    "function",
    [
        lambda q: torch.linalg.eigvalsh(torch.diag(q)).sum() + (q**2).sum(),
        lambda q: torch.sort(q).values[0] ** 2 + (q**2).sum(),
        lambda q: (q**2).sum() + (q.float() ** 4).sum().double(),
    ],
)
def test_what_has_no_counterpart_is_evaluated_as_before(function):
    U, q = Potential(function), positions(4)
    assert U.prepare(q, 10**6) == "captured"
    assert U.point(q.numpy()) is None


def test_large_graphs_are_left_to_torch(monkeypatch):
    U = data_potential(torch.ones(50).double())
    monkeypatch.setattr(function, "MOST_OPERATIONS", 50)
    assert U.prepare(positions(3), 10**6) == "captured"


def test_data_changed_in_place_are_seen():
    data = torch.ones(5).double()
    U, q = data_potential(data), positions(3)
    assert U.prepare(q, 10**6) == "native"
    for other in (data.fill_(3.0), data.set_(torch.arange(5.0).double())):
        values, gradients = U.value_and_grad(q)
        expected = ((other - q[:, :1]) ** 2).sum(1) / 2 + (q**2).sum(1) / 8
        torch.testing.assert_close(values, expected, rtol=1e-14, atol=0)
        torch.testing.assert_close(gradients[:, 0], (q[:, :1] - other).sum(1) + q[:, 0] / 4, rtol=1e-13, atol=0)


def test_data_of_another_shape_are_refused():
    data = torch.ones(5).double()
    U, q = data_potential(data, on_error="raise"), positions(3)
    assert U.prepare(q, 10**6) == "native"
    data.resize_(7)
    with pytest.raises(ValueError, match=r"must keep their layout, shape \(5,\)"):
        U.value_and_grad(q)


@pytest.mark.parametrize(
    "data", [torch.arange(24.0).view(4, 6).T[1::2], torch.ones(()).expand(3, 4), torch.arange(12).view(3, 4)]
)
def test_data_of_any_layout(data):
    q = positions(4)
    written = translated_function(lambda q: (data * q).sin().sum(), False, q)
    gradients, values = written(q)
    torch.testing.assert_close(values, (data * q[:, None]).sin().sum((1, 2)), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(gradients, (data * (data * q[:, None]).cos()).sum(1), rtol=1e-13, atol=1e-13)


def test_other_data_need_no_compiler(tmp_path, monkeypatch):
    monkeypatch.setenv(compiler.CACHE, str(tmp_path / "cache"))
    q = positions(10)
    assert hnbayes.pyro.potential(schools, Y.double(), SIGMA.double()).prepare(q, 10**6) == "native"
    before = set(pathlib.Path(tmp_path / "cache").iterdir())
    U = hnbayes.pyro.potential(schools, Y.double() + 1, SIGMA.double() * 2)
    assert U.prepare(q, 10**6) == "native"
    assert set(pathlib.Path(tmp_path / "cache").iterdir()) == before
    value, gradient = hnbayes.pyro.potential(schools, Y.double() + 1, SIGMA.double() * 2, compile=False).value_and_grad(
        q
    )
    torch.testing.assert_close(U.value_and_grad(q), (value, gradient), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "mutant",
    [
        (" - ", " + "),
        ("exponential(", "logistic("),
        ("double s23 = 0;", "double s23 = 1e-3;"),
        ("i0 < 8", "i0 < 7"),
        ("0x1.0000000000000p+1", "0x1.0010000000000p+1"),
        ("gradient[i0] = ", "gradient[9 - i0] = "),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_mutant_is_rejected(mutant, dtype, monkeypatch):
    real, found = function.translate, []

    def translate(*arguments):
        program = real(*arguments)
        found.append(program.source.count(mutant[0]))
        return dataclasses.replace(program, source=program.source.replace(*mutant))

    monkeypatch.setattr(function, "translate", translate)
    U = hnbayes.pyro.potential(schools, Y.to(dtype), SIGMA.to(dtype))
    assert U.prepare(positions(10, dtype=dtype), 10**6) == "captured"
    assert found[0] > 0


class InPython(NUTS):
    """Has a method of its own, so C doesn't stand in for it."""

    def _add_leaf(self, state, energy):
        return super()._add_leaf(state, energy)


def test_the_same_trees_as_in_python():
    results = []
    for kernel, evaluations in ((NUTS(8), 10**6), (InPython(8), 10**6), (InPython(8), 1)):
        U = hnbayes.pyro.potential(schools, Y.double(), SIGMA.double())
        start = positions(10) / 2
        U.prepare(start, evaluations)
        state = kernel.init(U, start, chain_streams(5, range(3)), 0.1)
        draws, steps = [], []
        for _ in range(10):
            state, info = kernel.step(state)
            draws.append(state.position.copy())
            steps.append(info["n_steps"].copy())
        results.append((np.array(draws), np.array(steps)))
    assert results[0][1].max() > 7
    for draws, steps in results[1:]:
        np.testing.assert_array_equal(steps, results[0][1])
        np.testing.assert_allclose(draws, results[0][0], atol=1e-8)


@pytest.mark.filterwarnings("ignore:.*transitions diverged")
def test_a_chain_alone_is_the_chain_among_others():
    U = hnbayes.pyro.potential(schools, Y, SIGMA)
    start = U.initial_positions(3, seed=1)
    options = {"warmup": 40, "draws": 20, "seed": 7, "kernel": NUTS(6), "progress": False}
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        together = hnbayes.sample_potential(U, start, **options)
        torch.set_num_threads(1)
        alone = hnbayes.sample_potential(U, start[1:2], chain_ids=[1], **options)
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(together.positions[1], alone.positions[0])


def test_functions_of_python_are_sampled_in_c():
    scale = torch.tensor([0.5, 1.0, 3.0]).double()
    U = Potential(lambda q: ((q / scale) ** 2).sum() / 2)
    draws = hnbayes.sample_potential(U, positions(3, 4), warmup=300, draws=500, seed=0, progress=False)
    assert U.prepare(positions(3, 4)) == "native"
    spread = np.asarray(draws.positions).std((0, 1)) / scale.numpy()
    # 2,000 draws about as good as independent: a standard error of 1.6 %.
    np.testing.assert_allclose(spread, 1, atol=0.08)
    assert math.isfinite(spread.sum())
