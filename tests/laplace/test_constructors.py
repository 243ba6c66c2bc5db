"""Gaussians of EWC, SI, Fisher matrices, Hessians and draws: identities with penalties and closed forms."""

from __future__ import annotations

import pytest
import torch
from laplace_fakes import MainNet, assert_close, seeded
from test_ewc import task
from test_si import train

import hnbayes
from hnbayes.laplace import (
    DiagGaussian,
    compute_fisher,
    diagonal_fisher,
    ewc_regularizer,
    from_draws,
    from_ewc,
    from_fisher,
    from_hessian,
    from_si,
    si_compute_importance,
    si_regularizer,
)
from hnbayes.params import ParamSpec


@pytest.fixture
def net():
    """After two tasks of EWC, online EWC and SI, and some steps away from their weights."""
    net = MainNet().eval()
    for t in range(2):
        train(net, t)
        si_compute_importance(net, list(net.parameters()))
        compute_fisher(t, task(t), list(net.parameters()), None, net)
        options = {"online": True, "gamma": 0.5, "proper_scaling": True, "prior_strength": 0.3}
        compute_fisher(t, task(t), list(net.parameters()), None, net, **options)
    return net


def gap(gaussian, loss, params):
    """loss + log density at some places: constant if one is minus the other."""
    found = []
    for seed in range(3):
        moved = [(p + 0.5 * seeded(*p.shape, seed=seed)).detach().requires_grad_() for p in params]
        found.append((loss(moved) + gaussian.log_prob(moved)).item())
    return max(found) - min(found)


@pytest.mark.parametrize(("online", "gamma"), [(False, 1.0), (True, 1.0), (True, 0.5)])
def test_ewc_is_a_gaussian_prior(net, online, gamma):
    strength, params = 3.0, list(net.parameters())
    prior = from_ewc(net, task_id=2, strength=strength, online=online, gamma=gamma)
    assert prior.spec == ParamSpec.from_module(net)

    def loss(p):
        return strength * ewc_regularizer(2, p, net, online=online, gamma=gamma)

    assert gap(prior, loss, params) == pytest.approx(0, abs=1e-9)
    wrong = prior.tempered(2.0)  # a mutant: F instead of F / 2 in the penalty
    assert gap(wrong, loss, params) > 1e-3
    if online:
        estimate = torch.cat([net._buffers[f"ewc_fisher_estimate_weights_{i}"].flatten() for i in range(4)])
        expected = estimate if gamma == 1 else gamma * (estimate - 0.3) + 0.3
        assert torch.allclose(prior.precision, strength * expected)
    one = from_ewc(net, task_id=1, strength=strength)
    assert torch.equal(one.mean, torch.cat([net._buffers[f"ewc_prev_task_0_weights_{i}"].flatten() for i in range(4)]))
    assert torch.equal(from_ewc(net, task_id=1, base_precision=2.0).precision, from_ewc(net, task_id=1).precision + 2)


def test_si_is_a_gaussian_prior(net):
    strength, params = 3.0, list(net.parameters())
    prior = from_si(net, strength=strength)

    def loss(p):
        return strength * si_regularizer(net, p)

    assert gap(prior, loss, params) == pytest.approx(0, abs=1e-9)
    omega = torch.cat([net._buffers[f"si_omega_weights_{i}"].flatten() for i in range(4)])
    assert torch.equal(prior.precision, 2 * strength * omega)
    assert gap(prior.tempered(0.5), loss, params) > 1e-3


def test_names_of_other_parameters(net):
    params = list(net.parameters())
    assert from_ewc(net, task_id=2, params=params).spec.names == tuple(name for name, _ in net.named_parameters())
    copies = [p.detach().clone() for p in params]
    assert from_ewc(net, task_id=2, params=copies).spec.names == tuple(f"weights.{i}" for i in range(4))


def test_fisher_of_linear_regression_is_the_posterior():
    """With an orthogonal design, which makes the posterior's precision diagonal."""
    Q, _ = torch.linalg.qr(seeded(20, 3))
    X = Q * torch.tensor([3.0, 2.0, 0.5], dtype=torch.float64)
    y = X @ torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64) + 0.1 * seeded(20, seed=2)
    prior = DiagGaussian(seeded(3, seed=4), torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64))
    precision = X.T @ X / 0.01 + torch.diag(prior.precision)
    mean = torch.linalg.solve(precision, X.T @ y / 0.01 + prior.precision * prior.mean)
    net = torch.nn.Linear(3, 1, bias=False).double()
    with torch.no_grad():
        net.weight.copy_(mean[None])
    for strength in (1.0, 0.1):
        found = from_fisher(net, (X, y), prior=prior, likelihood="gaussian", noise_variance=0.01, strength=strength)
        assert torch.allclose(found.mean, mean)
        expected = precision.diagonal() if strength == 1 else prior.precision + 0.1 * (X.T @ X / 0.01).diagonal()
        assert torch.allclose(found.precision, expected)
    U = hnbayes.nn_pot_energy(net, X, y[:, None], prior, tau_pred=100.0)
    by_hessian = from_hessian(U, mean)
    assert by_hessian.spec == ParamSpec.from_module(net)
    assert torch.allclose(by_hessian.precision, precision.diagonal())
    number = from_fisher(net, (X, y), prior=2.0, likelihood="gaussian", noise_variance=0.01)
    assert torch.allclose(number.precision, (X.T @ X / 0.01).diagonal() + 2)


def test_fisher_uses_all_samples(net):
    data = [(x[:7], y[:7]) for x, y in task(0)] + [(x[7:], y[7:]) for x, y in task(0)]
    scaled = diagonal_fisher(net, data, n_max=7).scaled
    found = from_fisher(net, data, n_max=7)
    assert_close([found.precision], [torch.cat([part.flatten() for part in scaled])])


def test_hessian_against_autograd():
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1)).double()
    X, y = seeded(8, 2), seeded(8, 1)
    U = hnbayes.nn_pot_energy(net, X, y, hnbayes.log_prob_standard_normal_prior, tau_pred=0.1)
    q = 0.3 * seeded(U.spec.size, seed=3)
    expected = torch.autograd.functional.hessian(U, q).diagonal()
    assert (expected > 0).all()
    found = from_hessian(U, q, chunk=4)
    assert torch.allclose(found.precision, expected)
    assert torch.equal(found.mean, q)

    def saddle(q):
        return q[0] ** 2 - q[1] ** 2

    with pytest.raises(ValueError, match=r"received 1 negative of 2, the least -2"):
        from_hessian(saddle, torch.ones(2))
    assert from_hessian(saddle, torch.ones(2), negative="zero").precision.tolist() == [2, 0]


def test_draws():
    target = DiagGaussian(seeded(3), torch.tensor([4.0, 1.0, 0.1], dtype=torch.float64), ParamSpec(("a",), ((3,),)))
    draws = hnbayes.sample_potential(
        hnbayes.Potential(lambda q: -target.log_prob(q), spec=target.spec),
        target.sample((2,), seed=0),
        kernel="nuts",
        warmup=200,
        draws=500,
        seed=0,
        progress=False,
    )
    found = from_draws(draws)
    assert found.spec == target.spec
    positions = draws.positions.reshape(-1, 3)
    assert torch.allclose(found.mean, positions.mean(0))
    assert torch.allclose(found.precision, 1 / positions.var(0))
    assert torch.allclose(found.precision, target.precision, rtol=0.35)
    still = from_draws(torch.ones(5, 2), min_variance=0.5)
    assert still.precision.tolist() == [2, 2]


def test_bad_input(net):
    with pytest.raises(ValueError, match="there is nothing before the first task"):
        from_ewc(net, task_id=0)
    with pytest.raises(ValueError, match="no buffers of task 2"):
        from_ewc(net, task_id=3)
    for bad, error in [(0.0, ValueError), (-1.0, ValueError), (float("nan"), ValueError), ("1", TypeError)]:
        with pytest.raises(error, match="strength"):
            from_ewc(net, task_id=1, strength=bad)
        with pytest.raises(error, match="strength"):
            from_si(net, strength=bad)
        with pytest.raises(error, match="strength"):
            from_fisher(net, task(0), strength=bad)
    with pytest.raises(ValueError, match="a precision must be"):
        from_ewc(net, task_id=1, base_precision=-1.0)
    with pytest.raises(ValueError, match="SI must know all parameters"):
        from_si(MainNet())
    with pytest.raises(ValueError, match="prior must be over the network's"):
        from_fisher(net, task(0), prior=DiagGaussian(torch.zeros(2), torch.ones(2)))
    with pytest.raises(ValueError, match="at least one training sample"):
        from_fisher(net, [])
    with pytest.raises(TypeError, match="position must be"):
        from_hessian(lambda q: q.sum(), torch.ones(2, dtype=torch.long))
    with pytest.raises(ValueError, match="position must have shape"):
        from_hessian(lambda q: q.sum(), torch.ones(2, 2))
    with pytest.raises(ValueError, match="curvature must be finite"):
        from_hessian(lambda q: (q**1.5).sum(), torch.zeros(2))
    for bad, error in [(torch.ones(3), ValueError), (torch.ones(1, 3), ValueError), ([1.0], TypeError)]:
        with pytest.raises(error, match=r"draws must|positions must"):
            from_draws(bad)
    with pytest.raises(ValueError, match="draws must be finite"):
        from_draws(torch.full((3, 2), torch.nan))
