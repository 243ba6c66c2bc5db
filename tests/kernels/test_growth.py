"""Compiled C adds the leaves to trees that the Python of nuts.py adds, which test_nuts_exactness.py tests."""

from __future__ import annotations

import copy
import ctypes
import pickle

import numpy as np
import pytest
import torch
from mutants_of_c import use_mutant

from hnbayes.kernels import NUTS, growth
from hnbayes.kernels.metrics import as_metric
from hnbayes.potentials import Potential
from hnbayes.potentials.native import Point, PointArrays, compiler
from hnbayes.rng import chain_streams

pytestmark = pytest.mark.skipif(compiler.library(True) is None, reason="no C compiler here")

# U of independent normal numbers with a cubic term that bends trajectories, and a region that is not a number's.
SOURCE = """
#include "points.h"
void bent(const void *context, const real *q, real *gradient, real *value, void *memory) {
    const double *wall = context;
    const int64_t D = (int64_t)wall[1];
    real sum = 0;
    for (int64_t i = 0; i < D; i++) {
        const real scale = (real)(i % 5 + 1);
        gradient[i] = q[i] / (scale * scale) + (real)0.1 * q[i] * q[i] * q[i];
        sum += (real)0.5 * q[i] * q[i] / (scale * scale) + (real)0.025 * q[i] * q[i] * q[i] * q[i];
    }
    *value = q[0] > (real)wall[0] ? (real)wall[2] : sum;
    ((char *)memory)[0] = 1;
}
"""


class Bent(Potential):
    """The C above; `wall` is where U begins to be `beyond`."""

    def __init__(self, dimension, dtype=torch.float64, wall=np.inf, beyond=np.nan):
        super().__init__(lambda q: q.sum())
        double = dtype == torch.float64
        compiled = compiler.compiled(SOURCE, double)
        context = np.array([wall, dimension, beyond])
        address = ctypes.cast(compiled.bent, ctypes.c_void_p).value
        self.dimension = dimension
        self.arrays = PointArrays(Point(address, lambda: context.ctypes.data, 64, 1000, (compiled, context)), double)

    def value_and_grad(self, positions):
        gradients, values = self.arrays(positions.numpy())
        return torch.from_numpy(values), torch.from_numpy(gradients)

    def value_and_grad_arrays(self, positions):
        gradients, values = self.arrays(positions)
        return values, gradients

    def point(self, positions):
        return self.arrays.point


class InPython(NUTS):
    """Has a method of its own, so C doesn't stand in for it."""

    def _add_leaf(self, state, energy):
        return super()._add_leaf(state, energy)


def trajectory(kernel, potential, transitions=12, chains=3, step_size=0.2, metric=None, dtype=torch.float64, seed=3):
    """Draws and all that is reported, chain by chain."""
    dimension = potential.dimension
    generator = torch.Generator().manual_seed(seed)
    positions = torch.randn(chains, dimension, generator=generator, dtype=torch.float64).to(dtype)
    positions[:, 0] = -positions[:, 0].abs()
    state = kernel.init(potential, positions, chain_streams(seed, range(chains)), step_size)
    if metric is not None:
        state.metric = as_metric(torch.as_tensor(metric).to(dtype), dimension, state.vectors)
    draws, stats = [], []
    for _ in range(transitions):
        state, info = kernel.step(state)
        draws.append(state.position.copy())
        stats.append({name: values.copy() for name, values in info.items()})
    return np.array(draws), {name: np.array([one[name] for one in stats]) for name in stats[0]}


def assert_same(received, expected, tolerance):
    np.testing.assert_allclose(received[0], expected[0], rtol=0, atol=tolerance)
    assert received[1].keys() == expected[1].keys()
    for name, values in expected[1].items():
        np.testing.assert_allclose(received[1][name], values, rtol=1e-7, atol=tolerance * 100, err_msg=name)


@pytest.mark.parametrize("dimension", [1, 3, 8, 21])
@pytest.mark.parametrize("step_size", [0.02, 0.2, 0.9])
def test_the_same_trees_as_in_python(dimension, step_size):
    potential = Bent(dimension)
    received, expected = (trajectory(k, potential, step_size=step_size) for k in (NUTS(8), InPython(8)))
    assert expected[1]["tree_depth"].max() > (1 if step_size > 0.5 else 2)
    assert_same(received, expected, 1e-8)


@pytest.mark.parametrize("metric", [2.5, [0.3, 1.0, 4.0, 9.0]])
def test_diagonal_metrics(metric):
    potential = Bent(4)
    assert_same(*(trajectory(k, potential, metric=metric) for k in (NUTS(), InPython())), 1e-8)


def test_a_metric_for_each_chain():
    potential = Bent(4)
    results = []
    for kernel in (NUTS(), InPython()):
        state = kernel.init(potential, -torch.ones(3, 4, dtype=torch.float64), chain_streams(1, range(3)), 0.2)
        state.metric = type(as_metric(1.0, 4, state.vectors))(state.vectors, np.ones((3, 4)))
        state, _ = kernel.step(state)
        state.metric.replace_rows(np.array([0, 2]), np.array([[0.1, 1.0, 2.0, 3.0], [4.0, 3.0, 2.0, 1.0]]))
        state, info = kernel.step(state)
        results.append((state.position.copy(), info))
    assert_same(*results, 1e-8)


@pytest.mark.parametrize("beyond", [np.nan, np.inf, -np.inf, 5000.0])
def test_divergent_leaves(beyond):
    potential = Bent(3, wall=0.1, beyond=beyond)
    received, expected = (trajectory(k, potential, transitions=30) for k in (NUTS(), InPython()))
    assert expected[1]["diverging"].sum() > 5
    assert_same(received, expected, 1e-8)


def test_single_precision():
    received, expected = (trajectory(k, Bent(5, torch.float32), 2, dtype=torch.float32) for k in (NUTS(), InPython()))
    assert received[0].dtype == np.float32
    np.testing.assert_allclose(received[0], expected[0], atol=1e-4)
    np.testing.assert_array_equal(received[1]["n_steps"], expected[1]["n_steps"])


def test_neither_threads_nor_leaves_a_call_change_a_bit(monkeypatch):
    potential = Bent(7)
    before = torch.get_num_threads()
    results = []
    try:
        for threads, operations in [(1, 25_000_000), (2, 25_000_000), (1, 1), (2, 7000)]:
            torch.set_num_threads(threads)
            monkeypatch.setattr(growth, "OPERATIONS", operations)
            monkeypatch.setattr(growth, "WORTH_SHARING", 0)
            results.append(trajectory(NUTS(), potential, step_size=0.05))
    finally:
        torch.set_num_threads(before)
    for draws, stats in results[1:]:
        np.testing.assert_array_equal(draws, results[0][0])
        for name, values in stats.items():
            np.testing.assert_array_equal(values, results[0][1][name])


def test_leaves_a_call():
    potential = Bent(3)
    kernel = NUTS()
    state = kernel.init(potential, -torch.ones(2, 3, dtype=torch.float64), chain_streams(0, range(2)), 0.01)
    leaves = set()
    for _ in range(20):
        before = None if state.path is None else state.path.n_steps.sum() + state.path.leaf.sum()
        state, _ = kernel.advance(state)
        leaves.add(None if before is None else state.path.n_steps.sum() + state.path.leaf.sum() - before)
    assert max(filter(None, leaves)) > 16  # whole subtrees at a time


def test_a_kernel_that_has_run_can_be_copied_and_pickled():
    kernel = NUTS()
    expected = trajectory(kernel, Bent(3))
    for other in (copy.deepcopy(kernel), pickle.loads(pickle.dumps(kernel)), kernel):
        assert_same(trajectory(other, Bent(3)), expected, 0)


@pytest.mark.parametrize("name", ["_choose_leaf", "_add_leaf", "_check_subtrees"])
def test_methods_that_are_replaced_are_called(name, monkeypatch):
    called = []
    real = getattr(NUTS, name)

    def replaced(self, *args):
        called.append(name)
        return real(self, *args)

    monkeypatch.setattr(NUTS, name, replaced)
    trajectory(NUTS(), Bent(3), transitions=1)
    assert called


def test_dense_metrics_take_pythons_way():
    metric = np.array([[2.0, 0.5], [0.5, 1.0]])
    assert_same(*(trajectory(k, Bent(2), metric=metric) for k in (NUTS(), InPython())), 0)


@pytest.mark.parametrize(
    "mutant",
    [
        ("half = (real)0.5 * epsilon", "half = (real)0.51 * epsilon"),
        ("if (turns(first_q, q, first_p, p, forwards, D)) return 1;", ";"),
        ("for (; n & 1; n >>= 1, first_q -= D, first_p -= D)", "if (n & 1)"),
        ("const double sign = forwards ? 1 : -1;", "const double sign = 1;"),
        ("-exponential[leaf] <= weight - weights", "-exponential[leaf] <= weight"),
        ("weights = log_add(weights, weight);", "weights = weight > weights ? weight : weights;"),
        ("H = energy + 0.5 * twice_kinetic", "H = energy + twice_kinetic"),
        ("diverging = weight < -g->delta_max;", "diverging = 0;"),
        ("sum += exp(weight < 0 ? weight : 0);", "sum += exp(weight);"),
        ("memcpy(g->candidate_gradient + chain * D, gradient, D * sizeof(real));", ""),
        ("isfinite(value) ? (double)value : INFINITY", "(double)value"),
    ],
)
def test_mutants_are_told_apart(mutant, tmp_path, monkeypatch):
    expected = [
        trajectory(InPython(), Bent(3, wall=wall, beyond=-np.inf), step_size=step, transitions=20)
        for wall, step in [(np.inf, 0.1), (np.inf, 0.8), (0.1, 0.2)]
    ]
    use_mutant(mutant, tmp_path, monkeypatch)
    received = [
        trajectory(NUTS(), Bent(3, wall=wall, beyond=-np.inf), step_size=step, transitions=20)
        for wall, step in [(np.inf, 0.1), (np.inf, 0.8), (0.1, 0.2)]
    ]
    with pytest.raises(AssertionError):
        list(map(assert_same, received, expected, [1e-8] * 3))
