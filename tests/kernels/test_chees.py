"""ChEES-HMC: invariance, the criterion and its gradient against closed forms, what chains share, refusals."""

from __future__ import annotations

import arviz
import numpy as np
import pytest
import torch
from scipy.stats import kstest, qmc
from targets import banana, independent_gaussian

from hnbayes.kernels import ChEES
from hnbayes.kernels.adaptation import Adaptation
from hnbayes.kernels.chees import halton
from hnbayes.kernels.chees_adaptation import ChEESAdaptation, criterion_gradient, squared_norm, widest
from hnbayes.kernels.metrics import DiagonalMetric
from hnbayes.potentials import Potential
from hnbayes.rng import chain_streams
from hnbayes.sampling import sample_potential

NARROW_AND_WIDE = independent_gaussian([0.8, 1.0, 1.5, 2.0, 1.2])
BENT = banana([1.0, 0.8, 1.2, 1.5, 0.6], [0.3, -0.4, 0.2, 0.1])


class AlwaysAccepts(ChEES):
    """Mutant: the correction is left out."""

    def _finish(self, state, rows, energy):
        state.path.start[rows] = np.inf
        return super()._finish(state, rows, energy)


class ForgetsMomentum(ChEES):
    """Mutant: U alone decides."""

    def _finish(self, state, rows, energy):
        state.path.start[rows] = state.energy[rows]
        state.path.p[rows] = 0.0
        return super()._finish(state, rows, energy)


def stationary_pvalue(kernel, transitions=6, chains=6000):
    """The least p-value of the marginals, from exact draws moved by some transitions of large steps."""
    target = NARROW_AND_WIDE
    state = kernel.init(Potential(target.potential), target.draw(chains, 1), chain_streams(2, range(chains)), 1.2)
    for _ in range(transitions):
        state, _ = kernel.step(state)
    scales = target.covariance.diagonal().sqrt().numpy()
    return min(kstest(state.position[:, i] / scales[i], "norm").pvalue for i in range(len(scales)))


def test_it_leaves_the_target_alone():
    assert stationary_pvalue(ChEES(length=4.0)) > 1e-3


@pytest.mark.parametrize("mutant", [AlwaysAccepts, ForgetsMomentum])
def test_the_test_of_invariance_can_fail(mutant):
    assert stationary_pvalue(mutant(length=4.0)) < 1e-6


@pytest.mark.filterwarnings("ignore:. of 4800 transitions diverged")  # in the banana's bends, now and then
@pytest.mark.parametrize("metric", ["unit", "diag", "dense"])
def test_moments(metric):
    draws = sample_potential(
        BENT.potential,
        BENT.draw(16, seed=3),
        kernel="chees",
        metric=metric,
        warmup=300,
        draws=300,
        seed=5,
        progress=False,
    )
    x = draws.positions.numpy() - BENT.mean.numpy()
    variance = BENT.covariance.diagonal().numpy()
    for values, truth in ((x, 0 * variance), (x**2, variance)):
        for i in range(x.shape[-1]):
            assert abs(values[:, :, i].mean() - truth[i]) < 4 * float(arviz.mcse(values[:, :, i], method="mean"))
    assert 0.6 < float(draws.stats["acceptance_rate"].mean()) < 0.99
    assert int(draws.stats["diverging"].sum()) < 6


def test_the_halton_sequence():
    np.testing.assert_array_equal(halton(np.arange(1, 200)), qmc.Halton(1, scramble=False).random(200)[1:, 0])


def flow(q, p, inverse, time):
    """Where the exact flow of U = q^2 / 2 with a diagonal M^-1 leads: a rotation of (q, M^-1/2 p)."""
    root = np.sqrt(inverse)
    z, w = q, root * p
    return z * np.cos(root * time) + w * np.sin(root * time), (w * np.cos(root * time) - z * np.sin(root * time)) / root


class Gone:
    """Trajectories of exact flows, as `criterion_gradient` looks at them."""

    def __init__(self, q, p, inverse, length, share):
        self.origin, self.share = q, np.full(len(q), share)
        self.q, self.p = flow(q, p, inverse, share * length)


def test_the_gradient_is_that_of_the_criterion():
    """By differences of the criterion over log T, of the same chains, in the mass matrix's norm."""
    rng, chains, share, length = np.random.default_rng(0), 50_000, 0.75, 1.3
    inverse = np.array([0.3, 1.0, 2.5, 1.7])
    q = rng.standard_normal((chains, 4)) + 2.0
    p = rng.standard_normal((chains, 4)) / np.sqrt(inverse)

    def criterion(log_length):
        end = Gone(q, p, inverse, np.exp(log_length), share).q
        norms = [(((x - x.mean(0)) ** 2) / inverse).sum(1) for x in (end, q)]
        return 0.25 * np.mean((norms[0] - norms[1]) ** 2)

    kernel, rows = ChEES(), np.arange(chains)
    state = kernel.init(Potential(lambda x: x.square().sum()), torch.tensor(q), chain_streams(0, range(chains)))
    state.metric = DiagonalMetric(state.vectors, inverse[None])
    state.length[:] = length
    found = criterion_gradient(Gone(q, p, inverse, length, share), state, rows, np.ones(chains))
    h = 1e-4
    expected = (criterion(np.log(length) + h) - criterion(np.log(length) - h)) / (2 * h)
    # They differ by the mean velocity, which the estimate takes to be 0.
    assert abs(found / expected - 1) < 0.02
    assert abs(0.5 * found / expected - 1) > 0.02


def test_norms_of_both_kinds_of_metric():
    x, inverse = np.random.default_rng(1).standard_normal((5, 3)), np.array([0.5, 2.0, 3.0])
    np.testing.assert_allclose(squared_norm(x, np.diag(inverse)), squared_norm(x, inverse))
    np.testing.assert_allclose(squared_norm(x, inverse), [row @ np.diag(1 / inverse) @ row for row in x])
    assert widest(np.array([1.0, 8.0]), np.array([1.0, 2.0])) == 4.0
    assert widest(np.diag([1.0, 8.0]), np.diag([1.0, 2.0])) == pytest.approx(4.0)


def test_the_length_is_the_one_that_maximises_the_criterion():
    """On N(0, I) the criterion at a length h T, h uniform, is D (1/2 - sin(2 T) / (4 T)): best where tan(2 T) = 2 T."""
    best = 4.493409 / 2
    target = independent_gaussian(np.ones(20))
    draws = sample_potential(
        target.potential,
        target.draw(64, seed=1),
        kernel=ChEES(target_accept=0.97),  # small steps, as lengths are rounded up to whole ones
        metric="unit",
        warmup=400,
        draws=2,
        seed=0,
        progress=False,
    )
    assert abs(draws.stats["trajectory_length"][0, 0] / best - 1) < 0.12


def harmonic_acceptance(warmup):
    """Of 64 chains after warm-up on a Gaussian, the mean over transitions and two runs."""
    target = independent_gaussian(np.logspace(-2, 0, 100))
    found = []
    for seed in range(2):
        draws = sample_potential(
            target.potential,
            target.draw(64, seed=1),
            kernel="chees",
            warmup=warmup,
            draws=80,
            seed=seed,
            progress=False,
        )
        found.append(float((1 / (1 / draws.stats["acceptance_rate"].double()).mean(0)).mean()))
    return np.mean(found)


LONG, SHORT = (150, 0.08), (60, 0.15)  # transitions of warm-up, and how far off the target acceptance may be


@pytest.mark.parametrize(("warmup", "off"), [LONG, SHORT])
def test_acceptance_after_warm_up_is_the_one_aimed_at(warmup, off):
    assert abs(harmonic_acceptance(warmup) - 0.651) < off


@pytest.mark.parametrize(("constants", "warmup", "off"), [({}, *LONG), ({"gamma": 0.1}, *SHORT)])
def test_other_constants_of_dual_averaging_miss_it(monkeypatch, constants, warmup, off):
    monkeypatch.setattr(ChEESAdaptation, "averaging_constants", constants)
    assert abs(harmonic_acceptance(warmup) - 0.651) > 1.2 * off


def test_chains_share_everything_and_nothing_changes_after_warm_up():
    target = independent_gaussian(np.logspace(-1, 0.5, 8))
    draws = sample_potential(
        target.potential, target.draw(12, seed=1), kernel="chees", warmup=200, draws=30, seed=0, progress=False
    )
    for name in ("n_steps", "trajectory_length", "step_size"):
        assert (draws.stats[name] == draws.stats[name][0]).all(), name
    assert len(draws.stats["step_size"].unique()) == len(draws.stats["trajectory_length"].unique()) == 1
    assert (draws.inverse_metric == draws.inverse_metric[0]).all()
    assert len(draws.stats["n_steps"].unique()) > 1  # jittered
    np.testing.assert_allclose(draws.inverse_metric[0], target.covariance.diagonal(), rtol=0.3)


def test_a_fixed_length_is_kept():
    target = independent_gaussian(np.ones(3))
    draws = sample_potential(
        target.potential, target.draw(1, seed=1), kernel=ChEES(length=1.5), warmup=50, draws=10, seed=0, progress=False
    )
    assert (draws.stats["trajectory_length"] == 1.5).all()


@pytest.mark.filterwarnings("ignore::hnbayes.sampling.SamplingWarning")  # they do diverge
def test_trajectories_that_leave_the_numbers_are_rejected_and_spoil_no_others():
    def U(q):
        return torch.where(q[0] > 1.0, torch.nan, 0.5 * q.square().sum())

    start = independent_gaussian(np.ones(3)).draw(8, seed=1).clamp(max=0.5)
    draws = sample_potential(U, start, kernel="chees", warmup=150, draws=300, seed=0, progress=False)
    assert (draws.positions[:, :, 0] <= 1.0).all()
    assert draws.positions.isfinite().all()
    assert 0.0 < float(draws.stats["trajectory_length"][0, 0]) < 20.0
    expected = -np.exp(-0.5) / np.sqrt(2 * np.pi) / 0.8413447  # the mean of a standard normal cut at 1
    x = draws.positions[:, :, 0].numpy()
    assert abs(x.mean() - expected) < 4 * float(arviz.mcse(x, method="mean"))


def test_its_own_warm_up():
    state = ChEES().init(Potential(lambda x: x.square().sum()), torch.zeros(3, 2), chain_streams(0, range(3)), 0.3)
    assert issubclass(ChEESAdaptation, Adaptation)
    state.step_size[:] = [0.1, 0.2, 0.4]
    adaptation = ChEESAdaptation(ChEES(), state, 100, 0.651)
    assert (state.step_size == 0.2).all()
    assert adaptation.pooled
    assert (state.length == 0.2).all()  # as in the paper


def test_refusals():
    target = independent_gaussian(np.ones(2))
    with pytest.raises(ValueError, match="at least 2 chains"):
        sample_potential(target.potential, target.draw(1, seed=1), kernel="chees", progress=False)
    with pytest.raises(ValueError, match="don't learn from each other"):
        sample_potential(target.potential, target.draw(4, seed=1), kernel="chees", cores=2, progress=False)
    for options in ({"length": -1.0}, {"max_steps": 0}, {"target_accept": 1.5}, {"learning_rate": 0.0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            ChEES(**options)
