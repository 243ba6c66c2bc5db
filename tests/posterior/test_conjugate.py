"""A linear network has a posterior in closed form: moments, predictions, LPPD and leave-one-out against it."""

from __future__ import annotations

import arviz as az
import numpy as np
import pytest
import scipy.stats as st
import torch
from torch import nn
from torch.distributions import InverseGamma, TransformedDistribution
from torch.distributions.transforms import PowerTransform

import hnbayes
from hnbayes.likelihoods import Gaussian
from hnbayes.priors import Normal

N, D, SIGMA, PRIOR_SD, LIMIT = 30, 3, 0.5, 1.5, 4.0


def data(seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(N, D))
    return X, X @ np.array([1.0, -0.5, 0.2]) + SIGMA * rng.normal(size=N)


def linear():
    return nn.Linear(D, 1, bias=False).double()


def normal_posterior(X, y, sigma=SIGMA):
    covariance = np.linalg.inv(X.T @ X / sigma**2 + np.eye(D) / PRIOR_SD**2)
    return covariance @ X.T @ y / sigma**2, covariance


def z_of_mean(samples, expected):
    """How many Monte Carlo standard errors the mean of draws (C, S) is away."""
    return abs(samples.mean() - expected) / float(az.mcse(samples))


def z_of_variance(samples, expected):
    squares = np.square(samples - samples.mean())
    return z_of_mean(squares, expected)


@pytest.fixture(scope="module")
def known_noise():
    X, y = data()
    post = hnbayes.sample(
        linear(),
        X,
        y,
        likelihood=Gaussian(SIGMA),
        prior=Normal(0, PRIOR_SD),
        warmup=400,
        draws=2000,
        seed=1,
        progress=False,
    )
    return X, y, post


def test_posterior_mean_and_covariance(known_noise):
    X, y, post = known_noise
    draws = post.params()["weight"][..., 0, :].numpy()
    mean, covariance = normal_posterior(X, y)
    wrong, _ = normal_posterior(X, y, sigma=2 * SIGMA)
    directions = [*np.eye(D), np.ones(D)]
    for a in directions:
        assert z_of_mean(draws @ a, a @ mean) < LIMIT
        assert z_of_variance(draws @ a, a @ covariance @ a) < LIMIT
    assert max(z_of_mean(draws @ a, a @ wrong) for a in directions) > LIMIT
    assert min(z_of_variance(draws @ a, 1.2 * a @ covariance @ a) for a in directions) > LIMIT


def test_predictions(known_noise):
    X, y, post = known_noise
    mean, covariance = normal_posterior(X, y)
    new = np.random.default_rng(5).normal(size=(6, D)) * 2
    table = post.predict(new, quantiles=(0.05, 0.5, 0.9))
    draws = post.params()["weight"][..., 0, :].numpy()
    for i, x in enumerate(new):
        error = float(az.mcse(draws @ x))
        variance = x @ covariance @ x
        assert abs(float(table["mean"][i]) - x @ mean) < LIMIT * error
        relative = LIMIT * np.sqrt(2 / float(az.ess(draws @ x)))
        np.testing.assert_allclose(float(table["sd_weights"][i]) ** 2, variance, rtol=relative)
        np.testing.assert_allclose(float(table["sd_noise"][i]), SIGMA, rtol=1e-12)
        np.testing.assert_allclose(float(table["sd"][i]) ** 2, variance + SIGMA**2, rtol=relative)
        sd = np.sqrt(variance + SIGMA**2)
        for level in (0.05, 0.5, 0.9):
            expected = st.norm.ppf(level, x @ mean, sd)
            assert abs(float(table["quantile"].sel(level=level)[i]) - expected) < LIMIT * 2 * error + 0.02 * sd


def densities(post, X, y):
    """Densities of each point (C, S, N)."""
    return np.exp(post.log_likelihood(X, y))


def test_lppd_of_new_data(known_noise):
    X, y, post = known_noise
    mean, covariance = normal_posterior(X, y)
    X_new, y_new = data(seed=7)
    variance = np.einsum("nd,de,ne->n", X_new, covariance, X_new) + SIGMA**2
    exact = st.norm.logpdf(y_new, X_new @ mean, np.sqrt(variance)).mean()
    p = densities(post, X_new, y_new)
    received = post.score(X_new, y_new)["lppd"]
    np.testing.assert_allclose(received, np.log(p.mean((0, 1))).mean(), rtol=1e-9)
    # The delta method: the error of a mean of logs is that of the mean of p / E[p].
    error = float(az.mcse((p / p.mean((0, 1))).mean(2)))
    assert abs(received - exact) < LIMIT * error
    plug_in = st.norm.logpdf(y_new, X_new @ mean, SIGMA).mean()
    assert abs(plug_in - exact) > LIMIT * error  # the check tells a density that forgets the weights' uncertainty


def test_leave_one_out(known_noise):
    X, y, post = known_noise
    exact = 0.0
    for n in range(N):
        kept = np.arange(N) != n
        mean, covariance = normal_posterior(X[kept], y[kept])
        exact += st.norm.logpdf(y[n], X[n] @ mean, np.sqrt(X[n] @ covariance @ X[n] + SIGMA**2))
    idata = post.to_inference_data(prior_draws=0, predictive=False)
    loo = az.loo(idata)
    r = 1 / densities(post, None, None)
    error = float(az.mcse((r / r.mean((0, 1))).sum(2)))
    assert abs(loo.elpd_loo - exact) < LIMIT * error
    in_sample = post.score(X, y)["lppd"] * N
    assert abs(in_sample - exact) > LIMIT * error


def test_a_learned_scale_has_the_inverse_gamma_posterior():
    r"""Flat prior of the weights: \(\sigma^2 \mid y \sim IG(a + (N - D) / 2, b + RSS / 2)\)."""
    X, y = data()
    a, b = 3.0, 1.0
    scale = TransformedDistribution(InverseGamma(a, b), PowerTransform(torch.tensor(0.5)))
    post = hnbayes.sample(
        linear(),
        X,
        y,
        likelihood=Gaussian(scale),
        prior=lambda q: 0.0 * q.sum(),
        warmup=300,
        draws=1000,
        seed=2,
        progress=False,
    )
    sigma = post.params()["sigma"].numpy()
    weights, *_ = np.linalg.lstsq(X, y, rcond=None)
    rss = np.square(y - X @ weights).sum()
    exact = st.invgamma(a + (N - D) / 2, scale=b + rss / 2)
    assert z_of_mean(sigma**2, exact.mean()) < LIMIT
    assert z_of_variance(sigma**2, exact.var()) < LIMIT
    assert z_of_mean((sigma**2 < exact.median()).astype(float), 0.5) < LIMIT
    without_jacobian = st.invgamma(a + (N - D) / 2 + 0.5, scale=b + rss / 2)
    assert z_of_mean(sigma**2, without_jacobian.mean()) > LIMIT
    draws = post.params()["weight"][..., 0, :].numpy()
    covariance = exact.mean() * np.linalg.inv(X.T @ X)
    for d in range(D):
        assert z_of_mean(draws[..., d], weights[d]) < LIMIT
        assert z_of_variance(draws[..., d], covariance[d, d]) < LIMIT


@pytest.mark.slow
def test_a_noncentred_scale_has_the_same_posterior_as_a_centred_one_by_quadrature():
    """tau of w ~ N(0, tau^2) with y = w + noise: p(tau | y) by quadrature."""
    from hnbayes.priors import HierarchicalNormal

    y = np.array([1.2, -0.3, 0.8, 2.0])
    net = nn.Linear(4, 1, bias=False).double()
    taus = np.linspace(1e-4, 12, 40_001)
    log_p = st.halfnorm.logpdf(taus, scale=2.0) + sum(st.norm.logpdf(v, 0, np.sqrt(taus**2 + 0.25)) for v in y)
    p = np.exp(log_p - log_p.max())
    exact = (taus * p).sum() / p.sum()
    for centred in (True, False):
        post = hnbayes.sample(
            net,
            np.eye(4),
            y,
            likelihood=Gaussian(0.5),
            prior=HierarchicalNormal(2.0, per="all", centred=centred),
            warmup=500,
            draws=2000,
            seed=3,
            target_accept=0.95,
            progress=False,
        )
        assert z_of_mean(post.params()["prior_scale"].numpy(), exact) < LIMIT
        assert z_of_mean(post.params()["prior_scale"].numpy(), 1.25 * exact) > LIMIT
