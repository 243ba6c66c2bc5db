"""The further reference posteriors against SciPy's densities and finite differences."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from more_posteriors import JITTER, MORE, has_flat_scale, load_more, read_more
from posteriors import read
from scipy import stats
from torch.func import grad, vmap

every_posterior = pytest.mark.parametrize("name", MORE)


def kidscore(name, q):
    """Terms of the regression in the order of the model's text, without a design matrix."""
    data = read()["kidscore_momhsiq"]["data"]
    y, school, iq = (np.array(data[key], float) for key in ("kid_score", "mom_hs", "mom_iq"))
    sigma = np.exp(q[-1])
    if name == "kidscore_momhs":
        location = q[0] + q[1] * school
    elif name == "kidscore_momiq":
        location = q[0] + q[1] * iq
    else:
        if name == "kidscore_interaction_c2":
            school, iq = school - 0.5, iq - 100
        elif name == "kidscore_interaction_z":
            school, iq = ((x - x.mean()) / (2 * x.std(ddof=1)) for x in (school, iq))
        location = q[0] + q[1] * school + q[2] * iq + q[3] * school * iq
    prior = 0.0 if has_flat_scale(name) else stats.halfcauchy.logpdf(sigma, scale=2.5)
    return stats.norm.logpdf(y, location, sigma).sum() + prior + q[-1]


def arma11(name, q):
    y = read_more()["arma11"]["data"]["y"]
    mu, phi, theta, sigma = *q[:3], np.exp(q[3])
    total = stats.norm.logpdf(mu, 0, 10) + stats.norm.logpdf([phi, theta], 0, 2).sum() + q[3]
    total += stats.halfcauchy.logpdf(sigma, scale=2.5)
    error = y[0] - mu - phi * mu
    total += stats.norm.logpdf(error, 0, sigma)
    for before, now in itertools.pairwise(y):
        error = now - (mu + phi * before + theta * error)
        total += stats.norm.logpdf(error, 0, sigma)
    return total


def gp_pois_regr(name, q):
    x, k = np.array(read()["gp_regr"]["data"]["x"], float), np.array(read_more()["gp_pois_regr"]["data"]["k"])
    rho, alpha, z = np.exp(q[0]), np.exp(q[1]), q[2:]
    covariance = alpha**2 * np.exp(-(np.subtract.outer(x, x) ** 2) / (2 * rho**2)) + JITTER * np.eye(len(x))
    f = np.linalg.cholesky(covariance) @ z
    prior = stats.gamma.logpdf(rho, 25, scale=1 / 4) + stats.halfnorm.logpdf(alpha, scale=2) + q[0] + q[1]
    return prior + stats.norm.logpdf(z).sum() + stats.poisson.logpmf(k, np.exp(f)).sum()


def oracle(name, q):
    """The log density of the unconstrained q."""
    return float({"arma11": arma11, "gp_pois_regr": gp_pois_regr}.get(name, kidscore)(name, q.numpy()))


def points(posterior, count=3):
    noise = torch.randn(count, posterior.dim, generator=torch.Generator().manual_seed(21), dtype=torch.float64)
    return posterior.q_mean + posterior.q_sd * noise


def mismatch(name, potential):
    """The largest relative disagreement with the oracle of differences between points."""
    at = points(load_more(name))
    ours = np.diff([-float(potential(q)) for q in at])
    theirs = np.diff([oracle(name, q) for q in at])
    return float(np.max(np.abs(ours - theirs) / np.abs(theirs)))


@every_posterior
def test_potential_is_scipys_log_density(name):
    assert mismatch(name, load_more(name).potential) < 1e-7


@every_posterior
def test_oracle_rejects_a_potential_without_the_jacobian(name):
    posterior = load_more(name)
    logarithm = 0 if name == "gp_pois_regr" else -1
    assert mismatch(name, lambda q: posterior.potential(q) + q[logarithm]) > 1e-7


@every_posterior
def test_gradient_is_the_finite_difference(name):
    posterior = load_more(name)
    at = points(posterior, 2)
    for q, g in zip(at, vmap(grad(posterior.potential))(at), strict=True):
        for i in range(posterior.dim):
            h = torch.zeros_like(q)
            h[i] = 1e-4
            U = posterior.potential
            numeric = (8 * (U(q + h) - U(q - h)) - (U(q + 2 * h) - U(q - 2 * h))) / (12 * h[i])
            np.testing.assert_allclose(float(g[i]), float(numeric), rtol=1e-5, atol=1e-3)


@every_posterior
def test_summaries_fit_the_parameters(name):
    posterior = load_more(name)
    assert len(posterior.names) == len(posterior.mean) == len(posterior.sd) == posterior.dim
    assert (posterior.sd > 5 * posterior.mcse).all()
    constrained = posterior.constrain(posterior.q_mean.expand(2, 3, -1))
    assert constrained.shape == (2, 3, posterior.dim)
    if name != "gp_pois_regr":
        torch.testing.assert_close(constrained[1, 2], posterior.mean)
