"""Gaussians of earlier tasks as sites of Pyro models: from a fitted network, and in the ways that Pyro takes them."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro.infer.mcmc.util import initialize_model
from pyro.nn import PyroModule, PyroSample

import hnbayes
from hnbayes.laplace import DiagGaussian, compute_fisher, from_ewc, from_fisher
from hnbayes.pyro import NUTS, BayesianNetwork, PrecisionNormal, VectorizedMCMC, site_distributions

D, VARIANCE = 3, 0.25


def task(seed):
    """A design with orthogonal columns, so that the posterior is a diagonal Gaussian, and its data."""
    generator = torch.Generator().manual_seed(seed)
    q, _ = torch.linalg.qr(torch.randn(12, D, generator=generator, dtype=torch.float64))
    X = 3 * q
    return X, X @ torch.tensor([1.0, -0.5, 2.0], dtype=torch.float64) + 0.5 * torch.randn(
        12, generator=generator, dtype=torch.float64
    )


def posterior(tasks):
    """Mean and precision in closed form, under a standard normal prior."""
    X, y = (torch.cat(parts) for parts in zip(*tasks, strict=True))
    precision = X.T @ X / VARIANCE + torch.eye(D, dtype=torch.float64)
    return torch.linalg.solve(precision, X.T @ y / VARIANCE), precision.diagonal()


def scores(found, mean, precision):
    """How many standard errors the mean of `found` (C * S, D) is off, its draws taken for independent."""
    return ((found.double().mean(0) - mean) * precision.sqrt() * len(found) ** 0.5).abs().max()


def fitted(X, y):
    """A linear network at its mode under the standard normal prior."""
    net = torch.nn.Linear(D, 1, bias=False).double()
    with torch.no_grad():
        net.weight.copy_(posterior([(X, y)])[0][None])
    return net


def second_task(prior, X, y):
    """The second task's posterior in a Pyro model, (C * S, D)."""
    net = torch.nn.Linear(D, 1, bias=False).double()
    model = BayesianNetwork(net, prior, hnbayes.likelihoods.Gaussian(VARIANCE**0.5))
    mcmc = VectorizedMCMC(NUTS(model), 600, 300, num_chains=4, seed=3, disable_progbar=True)
    mcmc.run(X, y[:, None])
    return mcmc.get_samples()["weight"].reshape(-1, D)


def test_a_fitted_networks_gaussian_is_the_prior_of_the_second_task():
    tasks = [task(1), task(2)]
    net = fitted(*tasks[0])
    prior = DiagGaussian(torch.zeros(D, dtype=torch.float64), torch.ones(D, dtype=torch.float64))
    first = from_fisher(net, tasks[0], prior=prior, likelihood="gaussian", noise_variance=VARIANCE)
    mean, precision = posterior(tasks)
    draws = second_task(first, *tasks[1])
    assert scores(draws, mean, precision) < 4
    torch.testing.assert_close(draws.var(0), 1 / precision, rtol=0.2, atol=0)
    # Mutant: the first task forgotten.
    assert scores(second_task(prior, *tasks[1]), mean, precision) > 8


def test_what_the_documented_fisher_leaves_goes_into_a_pyro_model():
    tasks = [task(1), task(2)]
    net = fitted(*tasks[0])
    X, y = tasks[0]
    compute_fisher(
        0, [(X, y[:, None])], [net.weight], None, net, regression=True, regression_lvar=VARIANCE,
        empirical_fisher=False, proper_scaling=True,
    )  # fmt: skip
    # The prior is not in this estimate, so it is added, once.
    first = from_ewc(net, task_id=1, base_precision=1.0)
    mean, precision = posterior([tasks[0]])
    torch.testing.assert_close(first.precision, precision)
    draws = second_task(first, *tasks[1])
    # EWC keeps the mode of the first task, at which the prior's gradient counts too: that is the product of Gaussians.
    expected = (precision * mean + (tasks[1][0].T @ tasks[1][1]) / VARIANCE) / (
        precision + (tasks[1][0] ** 2).sum(0) / VARIANCE
    )
    joint_mean, joint_precision = posterior(tasks)
    torch.testing.assert_close(expected, joint_mean)
    assert scores(draws, joint_mean, joint_precision) < 4


def test_pyro_sample():
    """A module of Pyro whose weight is a site with a prior given by precision."""
    X, y = task(3)
    net = PyroModule[torch.nn.Linear](D, 1, bias=False).double()
    net.weight = PyroSample(PrecisionNormal(torch.zeros(1, D).double(), torch.ones(1, D).double()).to_event(2))

    def model(X, y):
        output = net(X)
        with pyro.plate("data", len(X)):
            pyro.sample("obs", dist.Normal(output[..., 0], VARIANCE**0.5), obs=y)

    mcmc = VectorizedMCMC(NUTS(model), 600, 300, num_chains=4, seed=3, disable_progbar=True)
    mcmc.run(X, y)
    assert scores(mcmc.get_samples()["weight"].reshape(-1, D), *posterior([(X, y)])) < 4


def test_initialize_model():
    """Pyro's own potential energy of such a site, with an improper element, against the density by hand."""
    spec = hnbayes.ParamSpec(("a", "b"), ((2,), ()))
    gaussian = DiagGaussian(torch.tensor([1.0, 2.0, -1.0]), torch.tensor([4.0, 0.0, 9.0]), spec)
    sites = site_distributions(gaussian)

    def model():
        for name, distribution in sites.items():
            pyro.sample(name, distribution)

    start, potential_fn, transforms, _ = initialize_model(model)
    assert set(start) == {"a", "b"}
    at = {"a": torch.tensor([1.5, 7.0]), "b": torch.tensor(-1.5)}
    # Sites on the real line are left as they are.
    assert all(torch.equal(transforms[name](value), value) for name, value in at.items())
    normal = torch.distributions.Normal
    expected = -(normal(1.0, 0.5).log_prob(at["a"][0]) + normal(-1.0, 1 / 3).log_prob(at["b"]))
    torch.testing.assert_close(potential_fn(at), expected)
    torch.testing.assert_close(potential_fn(at), -gaussian.log_prob(spec.flatten(at)))
