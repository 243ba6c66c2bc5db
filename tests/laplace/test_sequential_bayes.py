"""Tasks in sequence against the posterior of all of them: conjugate Gaussians, the prior counted once."""

from __future__ import annotations

import pytest
import torch
from laplace_fakes import seeded

import hnbayes
from hnbayes.laplace import DiagGaussian, compute_fisher, ewc_regularizer, from_draws, from_ewc, from_fisher

D, TASKS, VARIANCE = 4, 5, 0.25


def designs():
    """Tasks whose designs have orthogonal columns: their precision matrices are diagonal."""
    for t in range(TASKS):
        q, _ = torch.linalg.qr(seeded(10, D, seed=t))
        X = q * (1 + seeded(D, seed=100 + t).abs())
        yield X, X @ seeded(D, seed=50) + 0.5 * seeded(10, seed=200 + t)


@pytest.fixture
def prior():
    return DiagGaussian(seeded(D, seed=9), torch.tensor([0.5, 1.0, 2.0, 3.0], dtype=torch.float64))


@pytest.fixture
def joint(prior):
    """Mean and precision of the posterior of all tasks at once."""
    X, y = (torch.cat(parts) for parts in zip(*designs(), strict=True))
    precision = X.T @ X / VARIANCE + torch.diag(prior.precision)
    mean = torch.linalg.solve(precision, X.T @ y / VARIANCE + prior.precision * prior.mean)
    return mean, precision.diagonal()


def minimum(loss, net):
    """Put a network at the minimum of a quadratic loss: one Newton step."""
    w = net.weight
    gradient = torch.autograd.grad(loss(), w, create_graph=True)[0]
    hessian = torch.stack([torch.autograd.grad(g, w, retain_graph=True)[0][0] for g in gradient[0]])
    with torch.no_grad():
        w -= torch.linalg.solve(hessian, gradient[0])[None]


def close(found, joint):
    return max(float((a - b).abs().max()) for a, b in zip((found.mean, found.precision), joint, strict=True))


def test_posteriors_as_priors(prior, joint):
    """Each task's Laplace approximation is the prior of the next."""
    net, belief = torch.nn.Linear(D, 1, bias=False).double(), prior
    for X, y in designs():
        U = hnbayes.nn_pot_energy(net, X, y[:, None], belief, tau_pred=1 / VARIANCE)
        minimum(lambda U=U: U(net.weight.flatten()), net)
        belief = from_fisher(net, (X, y), prior=belief, likelihood="gaussian", noise_variance=VARIANCE)
    assert close(belief, joint) < 1e-6
    # Mutant: the prior added again for each task.
    assert close(DiagGaussian(belief.mean, belief.precision + (TASKS - 1) * prior.precision), joint) > 1e-2


def test_products_of_likelihoods(prior, joint):
    belief = prior
    for X, y in designs():
        precision = (X.T @ X / VARIANCE).diagonal()
        belief = belief * DiagGaussian(X.T @ y / VARIANCE / precision, precision)
    assert close(belief, joint) < 1e-6


@pytest.mark.parametrize("given", ["each task", "first task"])
def test_online_ewc(prior, joint, given):
    """The documented functions: the prior's precision is given to the first task, or to each, and counted once."""
    net = torch.nn.Linear(D, 1, bias=False).double()
    for t, (X, y) in enumerate(designs()):

        def loss(X=X, y=y, t=t):
            nll = (net(X)[:, 0] - y).square().sum() / (2 * VARIANCE)
            if t == 0:
                return nll - prior.log_prob(net.weight.flatten())
            return nll + ewc_regularizer(t, [net.weight], net, online=True)

        minimum(loss, net)
        strength = [prior.precision[None]] if t == 0 or given == "each task" else None
        options = {"regression": True, "regression_lvar": VARIANCE, "empirical_fisher": False}
        compute_fisher(
            t, [(X, y)], [net.weight], None, net, online=True, proper_scaling=True, prior_strength=strength, **options
        )
    assert close(from_ewc(net, task_id=TASKS, online=True), joint) < 1e-6


def test_sampled(prior, joint):
    """Each task's posterior by NUTS, its Gaussian the prior of the next: the joint one within Monte Carlo error."""
    net, belief = torch.nn.Linear(D, 1, bias=False).double(), prior
    for t, (X, y) in enumerate(designs()):
        U = hnbayes.nn_pot_energy(net, X, y[:, None], belief, tau_pred=1 / VARIANCE)
        draws = hnbayes.sample_potential(
            U, belief.sample((4,), seed=t), kernel="nuts", warmup=150, draws=400, seed=t, progress=False
        )
        belief = from_draws(draws)
    mean, precision = joint
    # Of 1,600 draws a mean has the error sd / sqrt(1,600 or so), and later tasks see those of all before.
    assert float(((belief.mean - mean) * precision.sqrt()).abs().max()) < 4 * (TASKS / 1000) ** 0.5
    assert torch.allclose(belief.precision, precision, rtol=0.25)
