"""LPPD, as draws and chains are added, and PSIS-LOO without a pass over the weights."""

from __future__ import annotations

import time
from importlib.metadata import version

import arviz as az
import numpy as np
import pytest
import torch
from scipy.special import logsumexp

from hnbayes.diagnostics import cumulative_lppd, loo, lppd, relative_efficiency
from hnbayes.inference_data import container

C, S, N = 3, 50, 7
only_arviz_0 = pytest.mark.skipif(int(version("arviz").split(".")[0]) >= 1, reason="names of 0.x")


@pytest.fixture
def log_likelihood():
    """Log densities of a normal with unknown mean, as its posterior's draws give them."""
    rng = np.random.default_rng(0)
    y, mean = rng.normal(size=N), 0.4 * rng.normal(size=(C, S, 1))
    return -0.5 * (y - mean) ** 2 - 0.5 * np.log(2 * np.pi)


def test_lppd_is_the_log_of_the_mean_density(log_likelihood):
    np.testing.assert_allclose(lppd(log_likelihood), np.log(np.exp(log_likelihood).mean((0, 1))), rtol=1e-12)
    # Densities that underflow by themselves don't matter.
    np.testing.assert_allclose(lppd(log_likelihood - 2000), lppd(log_likelihood) - 2000, rtol=1e-12)


def check_cumulative(compute, x):
    found = compute(x)
    for s in range(1, S + 1):
        for c in range(C):
            expected = np.mean(logsumexp(x[c, :s], axis=0) - np.log(s))
            np.testing.assert_allclose(found.by_draw[c, s - 1], expected, rtol=1e-10)
        expected = np.mean(logsumexp(x[:, :s], axis=(0, 1)) - np.log(C * s))
        np.testing.assert_allclose(found.pooled[s - 1], expected, rtol=1e-10)
    for c in range(1, C + 1):
        expected = np.mean(logsumexp(x[:c], axis=(0, 1)) - np.log(c * S))
        np.testing.assert_allclose(found.by_chain[c - 1], expected, rtol=1e-10)


def test_cumulative_lppd_is_the_lppd_of_each_part(log_likelihood):
    check_cumulative(cumulative_lppd, log_likelihood)
    found = cumulative_lppd(log_likelihood)
    assert found.still_rising == pytest.approx(found.pooled[S - 1] - found.pooled[S // 2 - 1])


def test_the_check_rejects_means_of_log_densities(log_likelihood):
    def wrong(x):
        from hnbayes.diagnostics import CumulativeLPPD

        means = np.cumsum(x, axis=1) / np.arange(1, S + 1)[:, None]
        return CumulativeLPPD(means.mean(2), means.mean((0, 2)), x.mean((1, 2)))

    with pytest.raises(AssertionError):
        check_cumulative(wrong, log_likelihood)


def test_relative_efficiency_is_the_mean_ess_of_the_likelihoods(log_likelihood):
    sizes = [az.ess(np.exp(log_likelihood[..., n]), method="mean") for n in range(N)]
    assert relative_efficiency(log_likelihood) == pytest.approx(min(1, np.mean(sizes) / (C * S)), rel=1e-10)
    sticky = np.repeat(log_likelihood, 10, axis=1)
    assert relative_efficiency(sticky) < 0.2


@only_arviz_0
def test_loo_is_arvizs_on_the_same_data(log_likelihood):
    posterior = {"w": np.random.default_rng(0).normal(size=(C, S, 4))}
    idata = az.from_dict(posterior=posterior, log_likelihood={"y": log_likelihood})
    expected = az.loo(idata, reff=relative_efficiency(log_likelihood), pointwise=True)
    for given in (idata, log_likelihood, torch.tensor(log_likelihood), idata.log_likelihood["y"]):
        found = loo(given)
        assert found.elpd_loo == expected.elpd_loo
        assert found.se == expected.se
        np.testing.assert_array_equal(np.asarray(found.pareto_k), np.asarray(expected.pareto_k))
    # And near what leaving out each point by hand gives: harmonic means of the densities.
    exact = -np.log(np.mean(np.exp(-log_likelihood), axis=(0, 1))).sum()
    assert found.elpd_loo == pytest.approx(exact, abs=0.05)
    assert loo(idata, reff=0.5).elpd_loo == az.loo(idata, reff=0.5).elpd_loo


@only_arviz_0
def test_the_weights_are_not_looked_at(log_likelihood, monkeypatch):
    looked_at = []
    whole = az.ess

    def spy(data, **options):
        looked_at.append(sum(v.size for v in data.data_vars.values()))
        return whole(data, **options)

    monkeypatch.setattr(az, "ess", spy)
    posterior = {"w": np.zeros((C, S, 5000))}
    loo(az.from_dict(posterior=posterior, log_likelihood={"y": log_likelihood}))
    assert looked_at == [C * S * N]


@pytest.mark.slow
def test_loo_of_a_large_network_takes_at_most_three_seconds():
    rng = np.random.default_rng(0)
    density = -0.5 * (rng.normal(size=1202) - 0.3 * rng.normal(size=(4, 1000, 1))) ** 2
    weights = rng.normal(size=(4, 1000, 5000)).astype(np.float32)
    idata = az.from_dict(posterior={"w": weights}, log_likelihood={"y": density})
    began = time.perf_counter()
    found = loo(idata)
    assert time.perf_counter() - began < 3
    assert found.elpd_loo == az.loo(idata, reff=relative_efficiency(density)).elpd_loo


@pytest.mark.filterwarnings("ignore:Estimated shape parameter:UserWarning")
def test_loo_of_draws_that_depend_on_one_another_overflows_in_silence():
    log_likelihood = -(np.random.default_rng(0).normal(size=(4, 1000, 3)) ** 2)
    idata = az.from_dict(posterior={"w": np.zeros((4, 1000))}, log_likelihood={"y": log_likelihood})
    with pytest.warns(RuntimeWarning, match="overflow"):
        expected = az.loo(idata, reff=0.01)
    assert loo(log_likelihood, reff=0.01).elpd_loo == expected.elpd_loo


def test_what_has_no_log_likelihood_is_refused(log_likelihood):
    with pytest.raises(ValueError, match="group 'log_likelihood'"):
        loo(az.from_dict(posterior={"w": np.zeros((2, 10))}))
    with pytest.raises(TypeError, match="received a int without"):
        loo(3)
    two = az.from_dict(log_likelihood={"a": log_likelihood, "b": log_likelihood[..., :2]})
    with pytest.raises(ValueError, match="must be one of a, b; received None"):
        loo(two)
    assert loo(two, var_name="b").n_data_points == 2


@pytest.mark.parametrize("compute", [lppd, cumulative_lppd, relative_efficiency, loo])
def test_bad_log_likelihoods_are_refused(compute, log_likelihood):
    log_likelihood[1, 2, 3] = np.nan
    with pytest.raises(ValueError, match=r"1 NaN or infinite of 1050 values, the first at index \(1, 2, 3\)"):
        compute(log_likelihood)


def test_shapes_are_checked(log_likelihood):
    with pytest.raises(ValueError, match=r"shape \(chains, draws, points\)"):
        lppd(log_likelihood[0])


def test_container_is_arvizs_own():
    import xarray as xr

    data = xr.Dataset({"y": (("chain", "draw"), np.zeros((2, 3)))})
    assert container({"posterior": data})["posterior"]["y"].shape == (2, 3)
