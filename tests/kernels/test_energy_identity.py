"""Energies are right: E[exp(-dH)] = 1 from stationarity, and what is reported of a draw is its own U and H."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from targets import banana, gaussian, hamiltonian, independent_gaussian, leapfrog_orbit, moment_scores

import hnbayes
from hnbayes.kernels import HMC, NUTS, hmc, nuts
from hnbayes.kernels.arrays import HostVectors
from hnbayes.kernels.kernel import kinetic
from hnbayes.kernels.metrics import DenseMetric, as_metric
from hnbayes.potentials import Potential
from hnbayes.rng import chain_streams

pytestmark = pytest.mark.statistical
DRAWS = 100_000
TARGET = banana([1.0, 1.5, 0.7], [0.3, -0.2])
DENSE = torch.tensor([[1.0, 0.3, 0.1], [0.3, 2.0, -0.2], [0.1, -0.2, 0.6]], dtype=torch.float64)
# Target, inverse mass, and a step size at which exp(-dH) has no heavy tail even for the mutants.
SETTINGS = {
    "scalar": (independent_gaussian([1.0, 0.8, 1.3]), 1.4, 0.4),
    "diagonal": (gaussian([[1.0, 0.4, 0.0], [0.4, 2.0, 0.5], [0.0, 0.5, 0.9]]), torch.tensor([1.5, 2.0, 0.6]), 0.3),
    "dense": (TARGET, DENSE, 0.3),
}
every_setting = pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS.keys())


class StaleGradient(Potential):
    """Mutant: the gradient is that of the evaluation before."""

    def value_and_grad(self, positions):
        values, gradient = super().value_and_grad(positions)
        stale, self.last = getattr(self, "last", gradient), gradient
        return values, stale


class WrongMomentum(DenseMetric):
    """Mutant: momenta ~ N(0, M^-1)."""

    def momentum(self, z, ix=None):
        return self.displacement(z, ix)


class AcceptsAlways(HMC):
    """Mutant: every proposal is taken."""

    def advance(self, state):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(hmc, "log_acceptance", lambda start, end: np.zeros_like(end))
            return super().advance(state)


def without_metric(state, p, rows=None, velocity=None):
    """Mutant: a kinetic energy p^T p / 2 whatever the metric."""
    return 0.5 * state.vectors.rowdot(p, p)


def halved(state, p, rows=None, velocity=None):
    """Mutant: a kinetic energy of half its size."""
    return 0.5 * kinetic(state, p, rows, velocity)


def transition(setting, potential=Potential, kernel=None, metric=None, stretch=1.0):
    """One transition of three leapfrog steps from DRAWS exact draws. Returns new positions and the report."""
    target, inverse_mass, step = setting
    start = target.draw(DRAWS, 11)
    kernel = kernel or HMC(3)
    metric = metric or as_metric(inverse_mass, target.dimension, HostVectors(start.dtype))
    # The chains can share a stream, as they draw from it in turn.
    streams = chain_streams(12, [0]) * DRAWS
    U = potential(target.potential, compile=False)
    state, info = kernel.step(kernel.init(U, start, streams, stretch * step, metric))
    return state.positions_tensor(), info


def identity_score(info):
    """(mean of exp(-dH) - 1) / its standard error."""
    ratio = np.exp(-info["energy_error"])
    return (ratio.mean() - 1) / (ratio.std() / np.sqrt(len(ratio)))


@every_setting
def test_energy_identity(setting):
    _, info = transition(setting)
    assert info["energy_error"].std() > 0.04, "the errors must be large enough to tell"
    assert abs(identity_score(info)) < 4


@every_setting
def test_energy_identity_rejects_stale_gradient(setting):
    assert abs(identity_score(transition(setting, potential=StaleGradient)[1])) > 8


@every_setting
@pytest.mark.parametrize("wrong", [without_metric, halved])
def test_energy_identity_rejects_wrong_kinetic_energy(setting, wrong, monkeypatch):
    monkeypatch.setattr(hmc, "kinetic", wrong)
    assert abs(identity_score(transition(setting)[1])) > 8


def test_energy_identity_rejects_wrong_momentum():
    wrong = WrongMomentum(HostVectors(torch.float64), DENSE.numpy()[None])
    assert abs(identity_score(transition(SETTINGS["dense"], metric=wrong)[1])) > 8


@every_setting
def test_transition_keeps_the_moments(setting):
    positions, info = transition(setting, stretch=2)
    assert 0.05 < 1 - info["accepted"].mean() < 0.5, "there must be rejections"
    assert moment_scores(setting[0], positions).abs().max() < 4


@every_setting
def test_moments_reject_accepting_always(setting):
    positions, _ = transition(setting, kernel=AcceptsAlways(3), stretch=2)
    assert moment_scores(setting[0], positions).abs().max() > 8


class ReportsPreviousEnergy(HMC):
    """Mutant: reports U of the draw before."""

    def advance(self, state):
        before = -state.energy
        state, finished = super().advance(state)
        if finished is not None:
            finished.info["lp"] = before[finished.rows]
        return state, finished


def log_density_error(kernel, **options):
    """max |lp + U(draw)| over a run, and the run."""
    draws = hnbayes.sample_potential(
        TARGET.potential, TARGET.draw(4, 1), kernel=kernel, seed=2, progress=False, **options
    )
    energy = torch.func.vmap(torch.func.vmap(TARGET.potential))(draws.positions)
    return float((draws.stats["lp"] + energy).abs().max()), draws


@pytest.mark.filterwarnings("ignore::hnbayes.sampling.SamplingWarning")  # a divergence is reported like any draw
@pytest.mark.parametrize("kernel", ["hmc", "nuts", "metropolis"])
@pytest.mark.parametrize("metric", ["diag", "dense"])
def test_reported_log_density_is_that_of_the_draw(kernel, metric):
    error, draws = log_density_error(kernel, metric=metric, warmup=150, draws=200)
    assert error < 1e-10
    assert ((draws.stats["acceptance_rate"] >= 0) & (draws.stats["acceptance_rate"] <= 1)).all()
    if kernel != "metropolis":
        assert (draws.stats["energy"] + draws.stats["lp"] >= 0).all()


def test_log_density_rejects_previous_one():
    assert log_density_error(ReportsPreviousEnergy(3), warmup=0, draws=50, step_size=0.3)[0] > 0.1


def energy_errors(kernel, transitions=15):
    """How far reported energies are from those at the points of the plain orbit from the same momenta.

    Returns:
        The largest errors of `energy`, `energy_error` and the kinetic energy, `energy` + `lp`.
    """
    chains, step = 5, 0.45
    metric = as_metric(DENSE, 3, HostVectors(torch.float64))
    U = Potential(TARGET.potential, compile=False)
    state = kernel.init(U, TARGET.draw(chains, 5), chain_streams(6, range(chains)), step, metric)
    worst = np.zeros(3)
    for _ in range(transitions):
        start = state.positions_tensor().clone()
        normal = np.stack([copy.deepcopy(stream).standard_normal(3) for stream in state.streams])
        momentum = torch.from_numpy(metric.momentum(normal))
        state, info = kernel.step(state)
        for row in range(chains):
            steps = int(info["n_steps"][row])
            q, p = leapfrog_orbit(TARGET, start[row], momentum[row], step, DENSE, steps, steps)
            apart, at = (q - state.positions_tensor()[row]).abs().amax(1).min(0)
            assert apart < 1e-9, "the draw must be a point of the orbit"
            H = hamiltonian(TARGET, DENSE, q, p)
            # HMC reports the energy error of its proposal, NUTS that of its draw.
            compared = H[at] if isinstance(kernel, NUTS) else H[-1]
            K = 0.5 * p[at] @ DENSE @ p[at]
            expected = np.array([float(H[at]), float(compared - H[steps]), float(K)])
            energy, lp = info["energy"][row], info["lp"][row]
            received = np.array([energy, info["energy_error"][row], energy + lp])
            worst = np.maximum(worst, np.abs(received - expected))
    return worst


@pytest.mark.parametrize("kernel", [HMC(4), NUTS(5)])
def test_reported_energies_are_those_of_the_orbit(kernel):
    assert energy_errors(kernel).max() < 1e-10


@pytest.mark.parametrize("kernel", [HMC(4), NUTS(5)])
@pytest.mark.parametrize("wrong", [without_metric, halved])
def test_reported_energies_reject_wrong_kinetic_energy(kernel, wrong, monkeypatch):
    for module in (hmc, nuts):
        monkeypatch.setattr(module, "kinetic", wrong)
    assert energy_errors(kernel).min() > 1e-2
