"""Isokinetic steps: the map of another library, the differential equation, reversibility, order and invariance."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from targets import banana, gaussian

from hnbayes.kernels import MCLMC, isokinetic
from hnbayes.kernels.isokinetic import SPLITTINGS, Splitting, random_direction, refresh, turn, whole_step
from hnbayes.kernels.metrics import as_metric
from hnbayes.potentials import Potential
from hnbayes.rng import chain_streams

REFERENCE = json.loads((pathlib.Path(__file__).parent.parent / "data" / "isokinetic.json").read_text())
TARGET = banana([1.0, 0.8, 1.2, 1.5, 0.6], [0.3, -0.4, 0.2, 0.1])
integrators = pytest.mark.parametrize("integrator", SPLITTINGS)


def state_at(positions, potential, inverse=None, seed=0):
    """A state of chains at some positions."""
    kernel = MCLMC()
    state = kernel.init(Potential(potential), positions, chain_streams(seed, range(len(positions))))
    if inverse is not None:
        state.metric = as_metric(inverse, positions.shape[1], state.vectors)
    return state


def steps(state, splitting, u, step, count):
    """Several steps; the state is left at their end. Returns the directions and the change of energy, (C,)."""
    total = np.zeros(state.chains)
    for _ in range(count):
        q, u, energy, gradient, change = whole_step(state, splitting, u, np.full(state.chains, step))
        state.position, state.energy, state.gradient = q, energy, gradient
        total += change
    return u, total


@pytest.mark.parametrize("case", REFERENCE["cases"], ids=lambda case: f"{case['integrator']}-{case['metric']}")
def test_one_step_is_that_of_blackjax(case):
    precision = torch.tensor(REFERENCE["precision"], dtype=torch.float64)

    def U(q):
        return 0.5 * q @ precision @ q + REFERENCE["quartic"] * (q**4).sum()

    inverse = torch.tensor(REFERENCE["inverse"], dtype=torch.float64) if case["metric"] == "diagonal" else 1.0
    state = state_at(torch.tensor([REFERENCE["position"]], dtype=torch.float64), U, inverse)
    u, change = steps(state, SPLITTINGS[case["integrator"]], np.array([REFERENCE["direction"]]), 0.6, 1)
    np.testing.assert_allclose(state.position[0], case["position"], rtol=1e-12)
    np.testing.assert_allclose(u[0], case["direction"], rtol=1e-10)
    np.testing.assert_allclose(change[0], case["energy_error"], rtol=1e-10)


def turned_by_the_equation(u, force, time):
    """u' = (I - u u^T) f / (d - 1), K' = f.u by a general solver."""
    others = len(u) - 1

    def slope(_, y):
        direction = y[:-1]
        return [*((force - direction * (direction @ force)) / others), force @ direction]

    end = solve_ivp(slope, (0, time), [*u, 0.0], rtol=1e-11, atol=1e-12).y[:, -1]
    return end[:-1], end[-1]


@pytest.mark.parametrize("share", [0.01, 1.0, 20.0])
def test_turns_are_the_flow_of_the_equation(share):
    state = state_at(TARGET.draw(3, seed=1), TARGET.potential)
    u = random_direction(state, state.rows)
    turned, kinetic = turn(state, u, state.gradient, np.full(3, share))
    for row in range(3):
        direction, change = turned_by_the_equation(u[row], -state.gradient[row], share)
        np.testing.assert_allclose(turned[row], direction, atol=1e-8)
        np.testing.assert_allclose(kinetic[row], change, atol=1e-7)


def test_turns_stay_finite_and_unit_in_extreme_fields():
    state = state_at(TARGET.draw(3, seed=1), TARGET.potential)
    u = random_direction(state, state.rows)
    for gradient in (0.0 * state.gradient, 1e100 * state.gradient, -u, u):
        turned, kinetic = turn(state, u, gradient, np.full(3, 10.0))
        assert np.isfinite(kinetic).all()
        np.testing.assert_allclose((turned**2).sum(1), 1.0, rtol=1e-12)


@integrators
@pytest.mark.parametrize("inverse", [None, "diagonal", "dense"])
def test_steps_are_reversible(integrator, inverse):
    if inverse == "diagonal":
        inverse = torch.tensor([0.5, 2.0, 0.3, 1.0, 0.7], dtype=torch.float64)
    elif inverse == "dense":
        root = torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        inverse = root @ root.mT + torch.eye(5, dtype=torch.float64)
    state = state_at(TARGET.draw(4, seed=2), TARGET.potential, inverse)
    start = state.position.copy()
    first = random_direction(state, state.rows)
    u, out = steps(state, SPLITTINGS[integrator], first, 0.3, 20)
    u, back = steps(state, SPLITTINGS[integrator], -u, 0.3, 20)
    np.testing.assert_allclose(state.position, start, atol=1e-10)
    np.testing.assert_allclose(-u, first, atol=1e-10)
    np.testing.assert_allclose(out, -back, atol=1e-10)


@integrators
def test_the_energy_error_is_of_second_order(integrator):
    errors = {}
    for step, count in ((0.02, 50), (0.01, 100)):
        state = state_at(TARGET.draw(20, seed=3), TARGET.potential)
        u = random_direction(state_at(TARGET.draw(20, seed=3), TARGET.potential), state.rows)
        largest = np.zeros(20)
        total = np.zeros(20)
        for _ in range(count):
            u, change = steps(state, SPLITTINGS[integrator], u, step, 1)
            total += change
            largest = np.maximum(largest, np.abs(total))
        errors[step] = largest
    assert 3.7 < np.median(errors[0.02] / errors[0.01]) < 4.3


@integrators
def test_the_squared_error_of_a_step_grows_with_its_sixth_power(integrator):
    """What adaptation rests on."""
    mean = {}
    for step in (0.1, 0.05):
        state = state_at(TARGET.draw(2000, seed=4), TARGET.potential)
        u = random_direction(state, state.rows)
        mean[step] = (whole_step(state, SPLITTINGS[integrator], u, np.full(2000, step))[-1] ** 2).mean()
    assert 0.8 * 64 < mean[0.1] / mean[0.05] < 1.25 * 64


def identity_score(splitting, step, count=3, chains=20_000):
    """E[exp(-W)] - 1 over its standard error, from exact draws and uniform directions."""
    state = state_at(TARGET.draw(chains, seed=5), TARGET.potential, torch.tensor([0.8, 1.3, 0.9, 1.5, 0.5]).double())
    _, change = steps(state, splitting, random_direction(state, state.rows), step, count)
    weights = np.exp(-change)
    return (weights.mean() - 1) / (weights.std() / np.sqrt(chains))


@integrators
def test_the_energy_error_is_the_density_that_the_map_loses(integrator):
    assert abs(identity_score(SPLITTINGS[integrator], 0.6)) < 4


def test_the_identity_rejects_an_energy_that_is_wrong(monkeypatch):
    right = isokinetic.turn

    def wrong(state, u, gradient, share):
        turned, kinetic = right(state, u, gradient, share)
        return turned, kinetic * u.shape[1] / (u.shape[1] - 1)  # d for d - 1

    monkeypatch.setattr(isokinetic, "turn", wrong)
    assert abs(identity_score(SPLITTINGS["leapfrog"], 0.6)) > 10


def growth_of_squares(splitting, chains=500):
    """How the mean squared error of a step grows when the step is doubled."""
    state = state_at(TARGET.draw(chains, seed=4), TARGET.potential, torch.tensor([0.4, 2.0, 0.9, 1.5, 0.5]).double())
    u = random_direction(state, state.rows)
    big, small = ((whole_step(state, splitting, u, np.full(chains, e))[-1] ** 2).mean() for e in (0.1, 0.05))
    return big / small


def test_order_rejects_a_gradient_that_is_not_pulled_back(monkeypatch):
    assert growth_of_squares(SPLITTINGS["leapfrog"]) > 0.8 * 64
    monkeypatch.setattr("hnbayes.kernels.metrics.DiagonalMetric.pullback", lambda self, gradient, ix=None: gradient)
    assert growth_of_squares(SPLITTINGS["leapfrog"]) < 0.8 * 64


def test_order_rejects_an_unsymmetric_splitting():
    assert growth_of_squares(Splitting((0.3, 0.7), (1.0,))) < 0.8 * 64


def test_directions_are_forgotten_at_the_rate_asked_for():
    r"""\(E[u' \cdot u] \approx (1 + \nu^2 d)^{-1/2} = e^{-\epsilon / L}\) in many dimensions."""
    state = state_at(torch.zeros(200, 400, dtype=torch.float64), gaussian(torch.eye(400)).potential)
    u = random_direction(state, state.rows)
    for time, length in ((0.5, 2.0), (1.0, 0.7)):
        new = refresh(state, u, state.rows, np.full(200, time), np.full(200, length))
        assert abs((new * u).sum(1).mean() - np.exp(-time / length)) < 0.01
        np.testing.assert_allclose((new**2).sum(1), 1.0, rtol=1e-12)
