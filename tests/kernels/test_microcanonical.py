"""The microcanonical kernels: stationary distributions, adaptation, refusals; each statistic with a mutant."""

from __future__ import annotations

import arviz
import numpy as np
import pytest
import torch
from scipy.stats import kstest
from targets import banana, independent_gaussian

from hnbayes.kernels import MAMCLMC, MCLMC
from hnbayes.kernels.microcanonical_adaptation import EnergyVariance, LagOne
from hnbayes.potentials import Potential
from hnbayes.rng import chain_streams
from hnbayes.sampling import sample_potential

BENT = banana([1.0, 0.8, 1.2, 1.5, 0.6], [0.3, -0.4, 0.2, 0.1])
WIDE = independent_gaussian(np.logspace(-1, 1, 20))


class NeverRejects(MAMCLMC):
    """Mutant: the correction is left out."""

    def _log_accept(self, state, rows):
        return np.zeros(len(rows))


def stationary_pvalue(kernel, transitions=6, chains=6000):
    """The least p-value of the marginals, from exact draws moved by some transitions of large steps."""
    start = WIDE_STEP.draw(chains, seed=1)
    state = kernel.init(Potential(WIDE_STEP.potential), start, chain_streams(2, range(chains)), 2.6)
    for _ in range(transitions):
        state, _ = kernel.step(state)
    scales = WIDE_STEP.covariance.diagonal().sqrt().numpy()
    return min(kstest(state.position[:, i] / scales[i], "norm").pvalue for i in range(len(scales)))


WIDE_STEP = independent_gaussian([0.8, 1.0, 1.5, 2.0, 1.2])
ADJUSTED = {"num_steps": 2, "length": 3.0, "integrator": "leapfrog"}


@pytest.mark.parametrize("noise", [None, 1.0])
def test_the_adjusted_kernel_leaves_the_target_alone_at_large_steps(noise):
    assert stationary_pvalue(MAMCLMC(**ADJUSTED, noise_length=noise)) > 1e-3


def test_the_test_of_invariance_can_fail():
    assert stationary_pvalue(NeverRejects(**ADJUSTED)) < 1e-6


def scores(target, draws):
    """z of means and of second moments about the true mean."""
    x = draws.positions.double().numpy() - target.mean.numpy()
    variance = target.covariance.diagonal().numpy()
    found = []
    for values, truth in ((x, 0 * variance), (x**2, variance)):
        for i in range(x.shape[-1]):
            mcse = float(arviz.mcse(values[:, :, i], method="mean"))
            found.append((values[:, :, i].mean() - truth[i]) / mcse)
    return np.abs(found)


@pytest.mark.parametrize(("target", "metric"), [(BENT, "unit"), (BENT, "dense"), (WIDE, "diag")])
def test_moments_of_the_adjusted_kernel(target, metric):
    start = target.draw(4, seed=3)
    draws = sample_potential(
        target.potential,
        start,
        kernel="mamclmc",
        metric=metric,
        warmup=600,
        draws=1500,
        seed=5,
        progress=False,
    )
    assert scores(target, draws).max() < 4
    assert 0.87 < float(draws.stats["acceptance_rate"].mean()) < 0.96
    assert not draws.stats["diverging"].any()


def funnel(q):
    """v ~ N(0, 3^2), nine x ~ N(0, e^v)."""
    return q[0] ** 2 / 18 + 0.5 * (q[1:] ** 2).sum() * torch.exp(-q[0]) + 4.5 * q[0]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::hnbayes.sampling.SamplingWarning")
def test_the_funnel():
    start = 0.1 * torch.randn(4, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for kernel, allowed in (("mamclmc", 0.0), ("mclmc", 0.5)):  # the second has a bias
        draws = sample_potential(funnel, start, kernel=kernel, warmup=300, draws=600, seed=2, progress=False)
        v = draws.positions[:, :, 0].numpy()
        assert abs(v.mean()) < 4 * float(arviz.mcse(v, method="mean")) + allowed
        assert 2.0 < v.std() < 4.0


def bias_of_variances(energy_variance, draws=500):
    """The mean relative error of 100 variances, and its standard error, at a fixed length."""
    target = independent_gaussian(np.ones(100))
    start = target.draw(8, seed=3)
    kernel = MCLMC(energy_variance=energy_variance, integrator="leapfrog", num_steps=4, length=10.0)
    result = sample_potential(
        target.potential,
        start,
        kernel=kernel,
        metric="unit",
        warmup=300,
        draws=draws,
        seed=6,
        progress=False,
    )
    radius = (result.positions**2).mean(-1).numpy()
    return radius.mean() - 1, float(arviz.mcse(radius, method="mean"))


@pytest.mark.filterwarnings("ignore::hnbayes.sampling.SamplingWarning")
def test_bias_of_the_unadjusted_kernel_shrinks_with_the_energy_variance():
    """As the documentation says: 5% of a standard Gaussian's variance at most at the default, more at larger steps."""
    small, error = bias_of_variances(5e-4)
    large, _ = bias_of_variances(0.1)
    print(f"bias of the variance: {small:.4f} +- {error:.4f} at 5e-4, {large:.4f} at 0.1")
    assert abs(small) < 0.05
    assert abs(large) > abs(small) + 4 * error


def test_moments_of_the_unadjusted_kernel_are_right_within_its_bias():
    draws = sample_potential(
        WIDE.potential,
        WIDE.draw(4, seed=3),
        kernel="mclmc",
        metric="diag",
        warmup=500,
        draws=1000,
        seed=5,
        progress=False,
    )
    ratio = draws.positions.var((0, 1)) / WIDE.covariance.diagonal()
    assert ratio.min() > 0.85
    assert ratio.max() < 1.15
    assert scores(WIDE, draws)[:20].max() < 4  # means are not biased, by symmetry


def test_warm_up_finds_the_energy_variance():
    target = independent_gaussian(np.linspace(0.5, 2, 50))
    kernel = MCLMC(energy_variance=1e-3, num_steps=5, integrator="leapfrog")
    draws = sample_potential(
        target.potential,
        target.draw(6, seed=1),
        kernel=kernel,
        metric="unit",
        warmup=400,
        draws=1,
        seed=2,
        progress=False,
    )
    state = kernel.init(Potential(target.potential), target.draw(6, seed=9), chain_streams(1, range(6)))
    state.step_size[:], state.length[:] = draws.step_size.numpy(), 7.0
    squares, steps = np.zeros(6), 0
    for _ in range(400):
        state, _ = kernel.advance(state)
        squares += np.where(state.path.taken == 0, 0, state.path.error**2) * (state.path.taken == 1)
        steps += (state.path.taken == 1).mean()
    measured = squares / steps / 50
    assert (measured > 0.4e-3).all()
    assert (measured < 2.5e-3).all()


def test_lengths_are_those_of_the_posterior():
    scales = np.linspace(0.5, 2, 30)
    target = independent_gaussian(scales)
    options = {"warmup": 500, "draws": 1, "seed": 2, "progress": False}
    adjusted = sample_potential(target.potential, target.draw(4, seed=1), kernel="mamclmc", metric="unit", **options)
    spread = np.sqrt((scales**2).sum())
    np.testing.assert_allclose(adjusted.stats["trajectory_length"], np.pi / 2 * spread, rtol=0.2)
    scaled = sample_potential(target.potential, target.draw(4, seed=1), kernel="mamclmc", **options)
    np.testing.assert_allclose(scaled.stats["trajectory_length"], np.pi / 2 * np.sqrt(30), rtol=1e-12)
    fixed = sample_potential(target.potential, target.draw(4, seed=1), kernel=MCLMC(length=3.5), **options)
    assert (fixed.stats["trajectory_length"] == 3.5).all()


def test_correlation_of_successive_draws():
    """Running sums against an AR(1) series, whose autocorrelation time is known."""
    rng, rho = np.random.default_rng(0), np.array([0.0, 0.5, 0.8])
    lag, x = LagOne(2, 3), rng.standard_normal(3)
    for _ in range(20_000):
        x = rho * x + np.sqrt(1 - rho**2) * rng.standard_normal(3)
        lag.update(1, x)
    assert lag.autocorrelation_time(0) is None
    np.testing.assert_allclose(lag.autocorrelation_time(1), np.mean((1 + rho) / (1 - rho)), rtol=0.1)


def test_step_sizes_follow_the_sixth_power():
    """With errors exactly proportional to the third power of the step, one transition tells the step size."""
    variance, coefficient = EnergyVariance(3), np.array([0.1, 1.0, 7.0])
    step = np.array([1.0, 1.0, 0.4])
    for _ in range(30):
        step = variance.update(np.arange(3), step, coefficient**2 * step**6, np.zeros(3, bool))
    np.testing.assert_allclose(coefficient * step**3, 1.0, rtol=1e-4)
    smaller = variance.update(np.array([1]), step[1:2], np.array([np.inf]), np.array([True]))
    np.testing.assert_allclose(smaller, 0.5 * step[1])


@pytest.mark.filterwarnings("ignore::hnbayes.sampling.SamplingWarning")
@pytest.mark.parametrize("kernel", [MCLMC(num_steps=3), MAMCLMC(num_steps=3)])
def test_what_is_not_a_number_never_enters_a_chain(kernel):
    def walled(q):
        return torch.where(q[0] > 1.0, torch.nan, 0.5 * (q**2).sum())

    draws = sample_potential(
        walled,
        torch.zeros(4, 3).double(),
        kernel=kernel,
        warmup=100,
        draws=300,
        seed=1,
        progress=False,
    )
    assert draws.stats["diverging"].any()
    assert torch.isfinite(draws.stats["lp"]).all()
    assert (draws.positions[:, :, 0] <= 1.0).all()


def test_refusals():
    with pytest.raises(ValueError, match="at least 2 dimensions"):
        sample_potential(lambda q: 0.5 * (q**2).sum(), torch.zeros(2, 1), kernel="mclmc", progress=False)
    for bad in ({"num_steps": 0}, {"length": -1.0}, {"integrator": "euler"}, {"energy_variance": (1.0, 2.0, 3.0)}):
        with pytest.raises(ValueError):
            MCLMC(**bad)
    with pytest.raises(ValueError, match="target_accept"):
        MAMCLMC(target_accept=1.5)
    with pytest.raises(TypeError, match="noise_length"):
        MAMCLMC(noise_length="long")
