"""R-hat, ESS and MCSE of arrays: ArviZ's numbers for each quantity, hand computations for what ArviZ 0.x lacks."""

from __future__ import annotations

import math
from functools import partial

import arviz as az
import numpy as np
import pytest
import torch
import xarray as xr
from scipy import stats

from hnbayes.diagnostics import convergence, ess, mcse, nested_rhat, rhat, within_chain_rhat

C, S = 4, 120


@pytest.fixture
def x():
    """AR(1) chains (C, S, 3, 2), some with an offset, one quantity with heavy tails."""
    rng = np.random.default_rng(1)
    noise = rng.normal(size=(C, S, 3, 2))
    x = noise.copy()
    for s in range(1, S):
        x[:, s] = 0.5 * x[:, s - 1] + noise[:, s]
    x[1, :, 0, 0] += 2
    x[..., 2, 1] = np.tan(x[..., 2, 1])
    return x


def each(x, compute):
    """What a function of one quantity's (C, S) says of every quantity."""
    return np.array([[compute(x[:, :, i, j]) for j in range(x.shape[3])] for i in range(x.shape[2])])


def test_rhat_ess_and_mcse_are_arvizs_of_each_quantity(x):
    np.testing.assert_allclose(rhat(x), each(x, az.rhat), rtol=1e-12)
    for method in ("bulk", "tail", "mean"):
        expected = each(x, partial(az.ess, method=method))
        np.testing.assert_allclose(ess(x, method), expected, rtol=1e-12)
    for method in ("mean", "sd"):
        np.testing.assert_allclose(mcse(x, method), each(x, partial(az.mcse, method=method)), rtol=1e-12)


def test_single_quantities_and_other_containers(x):
    flat = x[..., 0, 0]
    assert rhat(flat).shape == ()
    assert rhat(torch.tensor(flat, requires_grad=True)) == rhat(flat)
    swapped = xr.DataArray(flat.T, dims=("draw", "chain"))
    assert rhat(swapped) == rhat(flat)


def unsplit_rhat(x):
    """R-hat of normal scores, term by term (Vehtari et al. 2021, eqs. 1-4 and 14)."""
    scores = stats.norm.ppf((stats.rankdata(x) - 3 / 8) / (x.size + 1 / 4)).reshape(x.shape)
    within = np.mean([np.var(chain, ddof=1) for chain in scores])
    between = x.shape[1] * np.var([chain.mean() for chain in scores], ddof=1)
    return math.sqrt(((x.shape[1] - 1) / x.shape[1] * within + between / x.shape[1]) / within)


def check_within(compute, x):
    """A chain's R-hat is that of its two halves, the larger of the plain and the folded one."""
    found = compute(x)
    for chain in range(C):
        for i in range(3):
            halves = x[chain, :, i, 0].reshape(2, S // 2)
            folded = np.abs(halves - np.median(halves))
            expected = max(unsplit_rhat(halves), unsplit_rhat(folded))
            np.testing.assert_allclose(found[chain, i, 0], expected, rtol=1e-10)


def test_within_chain_rhat_is_that_of_the_halves(x):
    check_within(within_chain_rhat, x)
    with pytest.raises(AssertionError):
        check_within(lambda x: np.broadcast_to(rhat(x), (C, *x.shape[2:])), x)


def test_within_and_between_tell_modes_from_drift(x):
    settled = np.random.default_rng(0).normal(size=(C, 400)) + 10 * np.arange(C)[:, None]
    assert rhat(settled) > 2
    assert within_chain_rhat(settled).max() < 1.03
    drifting = np.random.default_rng(0).normal(size=(C, 400)) + np.linspace(0, 5, 400)
    assert within_chain_rhat(drifting).min() > 1.3


def test_nested_rhat_by_hand():
    # Two superchains of two chains of one draw: means 1 and 5, so B = 8; within each the variance is 2.
    single = np.array([[0.0], [2.0], [4.0], [6.0]])
    assert nested_rhat(single, [0, 0, 1, 1], rank_normalise=False) == pytest.approx(math.sqrt(1 + 8 / 2))
    # Another order of the chains changes nothing, other superchains do: {0, 4} and {2, 6} have B = 2, W = 8.
    assert nested_rhat(single[[0, 2, 1, 3]], [7, 3, 7, 3], rank_normalise=False) == pytest.approx(math.sqrt(5))
    assert nested_rhat(single, [0, 1, 0, 1], rank_normalise=False) == pytest.approx(math.sqrt(1 + 2 / 8))
    # Two draws: chain means 1, 3 | 5, 9, so B = 12.5; between 2 and 8, within 2 each: W = (4 + 10) / 2.
    double = np.array([[0.0, 2.0], [2.0, 4.0], [4.0, 6.0], [8.0, 10.0]])
    assert nested_rhat(double, [0, 0, 1, 1], rank_normalise=False) == pytest.approx(math.sqrt(1 + 12.5 / 7))
    # One chain a superchain: only the variance within chains is left, R-hat without its (S - 1) / S.
    alone = np.array([[0.0, 2.0], [4.0, 6.0]])
    assert nested_rhat(alone, [0, 1], rank_normalise=False) == pytest.approx(math.sqrt(1 + 8 / 2))


def test_nested_rhat_of_ranks_is_that_of_normal_scores():
    x = np.random.default_rng(3).standard_cauchy((6, 5))
    scores = stats.norm.ppf((stats.rankdata(x) - 3 / 8) / (x.size + 1 / 4)).reshape(x.shape)
    ids = [0, 0, 0, 1, 1, 1]
    np.testing.assert_allclose(nested_rhat(x, ids), nested_rhat(scores, ids, rank_normalise=False), rtol=1e-12)


def test_nested_rhat_is_near_its_bound_where_starts_are_forgotten():
    rng = np.random.default_rng(0)
    ids = np.repeat(np.arange(8), 16)
    fresh = rng.normal(size=(128, 1, 200))
    # The ratio of mean squares B / (W / M) is F with 7 and 120 degrees of freedom: mean 120 / 118.
    ratio = 16 * (nested_rhat(fresh, ids, rank_normalise=False) ** 2 - 1)
    standard_error = math.sqrt(2 * 120**2 * 125 / (7 * 118**2 * 116) / 200)
    assert abs(ratio.mean() - 120 / 118) < 4 * standard_error
    remembered = fresh + rng.normal(size=(8, 1, 200))[ids]
    assert np.median(nested_rhat(remembered, ids)) > 1.2


@pytest.mark.parametrize(
    ("shape", "ids", "message"),
    [
        ((4, 3), [0, 0, 1], "each of the 4 chains"),
        ((4, 3), [0, 0, 0, 0], "at least 2"),
        ((4, 3), [0, 0, 0, 1], "equally many"),
        ((2, 1), [0, 1], "at least 2 draws"),
    ],
)
def test_superchains_that_do_not_fit_are_refused(shape, ids, message):
    with pytest.raises(ValueError, match=message):
        nested_rhat(np.zeros(shape), ids)


def test_convergence_gathers_and_finds_stuck_chains(x):
    x[2, :, 1, 1] = 0.3
    found = convergence(x)
    np.testing.assert_allclose(found.rhat, rhat(x))
    np.testing.assert_allclose(found.sd, x.reshape(-1, 3, 2).std(0, ddof=1))
    assert found.within.shape == (C, 3, 2)
    assert np.argwhere(found.stuck).tolist() == [[2, 1, 1]]


def test_too_little_is_nan_not_an_error():
    assert np.isnan(rhat(np.random.default_rng(0).normal(size=(1, 50))))
    assert np.isnan(rhat(np.zeros((2, 3))))
    assert np.isnan(ess(np.zeros((2, 3))))
    assert np.isnan(within_chain_rhat(np.zeros((2, 3)))).all()
    assert np.isnan(convergence(np.full((2, 50), 1.5)).rhat)


@pytest.mark.parametrize("compute", [rhat, ess, mcse, within_chain_rhat, convergence])
def test_bad_draws_are_refused(compute):
    with pytest.raises(ValueError, match=r"received 1 NaN or infinite of 24 values, the first at index \(1, 2, 0\)"):
        compute(np.where(np.arange(24).reshape(2, 6, 2) == 16, np.nan, 1.0))
    with pytest.raises(ValueError, match=r"shape \(chains, draws, ...\).*received \(5,\)"):
        compute(np.zeros(5))
    with pytest.raises(ValueError, match="at least one of each"):
        compute(np.zeros((2, 0)))
    with pytest.raises(TypeError, match="real numbers"):
        compute(np.array([["a", "b"]]))
