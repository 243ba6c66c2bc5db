"""Pyro models with posteriors in closed form, and the check of draws against them."""

from __future__ import annotations

import arviz as az
import numpy as np
import pyro
import pyro.distributions as dist
import torch

ONES = torch.ones(1, 3)
COUNTS = torch.tensor([3.0, 5.0, 4.0, 6.0, 2.0])
LABELS = torch.tensor([0] * 5 + [1] * 20 + [2] * 15)
FLIPS = torch.tensor([1.0] * 14 + [0.0] * 6)


def gaussian_chain(data, length=3):
    """x_1 ~ N(0, 1), x_i ~ N(x_{i-1}, 1), data ~ N(x_length, 1)."""
    loc = torch.zeros(data.shape[-1])
    for i in range(1, length + 1):
        loc = pyro.sample(f"x{i}", dist.Normal(loc, 1.0).to_event(1))
    with pyro.plate("rows", len(data)):
        pyro.sample("obs", dist.Normal(loc, 1.0).to_event(1), obs=data)


def gaussian_chain_moments(data, length=3):
    """Mean (length,) and sd (length,) of each x_i, the same in every column of equal data, by linear algebra."""
    precision = np.zeros((length, length))
    for i in range(length):
        precision[i, i] = 2.0 if i < length - 1 else 1.0 + len(data)
        if i:
            precision[i, i - 1] = precision[i - 1, i] = -1.0
    right = np.zeros(length)
    right[-1] = float(data[:, 0].sum())
    covariance = np.linalg.inv(precision)
    return covariance @ right, np.sqrt(covariance.diagonal())


def beta_bernoulli(data):
    p = pyro.sample("p", dist.Beta(1.5, 2.0))
    with pyro.plate("flips", len(data)):
        pyro.sample("obs", dist.Bernoulli(p), obs=data)


def gamma_poisson(data):
    rate = pyro.sample("rate", dist.Gamma(2.0, 0.5))
    with pyro.plate("counts", len(data)):
        pyro.sample("obs", dist.Poisson(rate), obs=data)


def dirichlet_categorical(data):
    p = pyro.sample("p", dist.Dirichlet(torch.ones(3)))
    with pyro.plate("labels", len(data)):
        pyro.sample("obs", dist.Categorical(p), obs=data)


def normal_gamma(data):
    """Precision of normal data of known mean 0."""
    precision = pyro.sample("precision", dist.Gamma(2.0, 1.0))
    with pyro.plate("data", len(data)):
        pyro.sample("obs", dist.Normal(0.0, precision.rsqrt()), obs=data)


def mixture(data):
    """Two components at -1 and 2, whose labels are summed out."""
    share = pyro.sample("share", dist.Beta(1.0, 1.0))
    with pyro.plate("data", len(data)):
        z = pyro.sample("z", dist.Bernoulli(share), infer={"enumerate": "parallel"})
        pyro.sample("obs", dist.Normal(3.0 * z - 1.0, 1.0), obs=data)


def hidden_markov(data):
    """Two states that stay with an unknown probability."""
    stay = pyro.sample("stay", dist.Beta(2.0, 1.0))
    state = None
    for t in pyro.markov(range(len(data))):
        probability = 0.5 * torch.ones(()) if state is None else torch.where(state == 1, stay, 1 - stay)
        state = pyro.sample(f"z{t}", dist.Bernoulli(probability), infer={"enumerate": "parallel"})
        pyro.sample(f"y{t}", dist.Normal(2.0 * state, 1.0), obs=data[t])


BLOCKS = (("w", 2), ("x", 1), ("y", 1))


def structured(covariance):
    parts = [
        pyro.sample(n, dist.Normal(0.0, 1000.0).expand([s]).to_event(1)) for n, s in (("w", 2), ("x", 1), ("y", 1))
    ]
    pyro.sample("obs", dist.MultivariateNormal(torch.zeros(4), covariance), obs=torch.cat(parts))


def moments_on_grid(log_density, low, high, points=20_001):
    """Mean and sd of a density of one number, by the trapezoidal rule."""
    x = np.linspace(low, high, points)
    logs = np.array([log_density(v) for v in x])
    weights = np.exp(logs - logs.max())
    weights /= weights.sum()
    mean = float(weights @ x)
    return mean, float(np.sqrt(weights @ (x - mean) ** 2))


def check_moments(draws, mean, sd, sigmas=4.5):
    """Draws (C, S) or (C, S, K) have this mean and sd, to within Monte Carlo error by their effective size."""
    draws = np.asarray(draws, dtype=np.float64)
    draws = draws.reshape(*draws.shape[:2], -1)
    mean, sd = np.broadcast_to(mean, draws.shape[-1:]), np.broadcast_to(sd, draws.shape[-1:])
    for k in range(draws.shape[-1]):
        one = np.ascontiguousarray(draws[..., k])
        error = abs(one.mean() - mean[k]) / (sd[k] / np.sqrt(float(az.ess(one, method="mean"))))
        assert error < sigmas, f"mean {one.mean()} is {error:.1f} standard errors from {mean[k]}"
        square = (one - mean[k]) ** 2
        error = abs(square.mean() - sd[k] ** 2) / float(az.mcse(square, method="mean"))
        assert error < sigmas, f"variance {square.mean()} is {error:.1f} standard errors from {sd[k] ** 2}"
