"""The reference posteriors against SciPy's densities, finite differences and the reference summaries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from posteriors import POSTERIORS, Posterior, load, read
from scipy import stats
from torch import Tensor
from torch.func import grad_and_value, jacrev, vmap
from torch.fx.experimental.proxy_tensor import make_fx

Vector = NDArray[np.float64]
Density = Callable[[dict[str, Any], Vector], float]


def _eight_schools(data: dict[str, Any], x: Vector) -> float:
    """Serves both parametrisations: on (theta, mu, tau) they are one density."""
    theta, mu, tau = x[:8], x[8], x[9]
    return float(
        stats.norm.logpdf(data["y"], theta, data["sigma"]).sum()
        + stats.norm.logpdf(theta, mu, tau).sum()
        + stats.norm.logpdf(mu, 0, 5)
        + stats.halfcauchy.logpdf(tau, scale=5)
    )


def _kidscore(data: dict[str, Any], x: Vector) -> float:
    location = x[0] + x[1] * np.array(data["mom_hs"]) + x[2] * np.array(data["mom_iq"])
    return float(stats.norm.logpdf(data["kid_score"], location, x[3]).sum() + stats.halfcauchy.logpdf(x[3], scale=2.5))


def _sblrc(data: dict[str, Any], x: Vector) -> float:
    return float(
        stats.norm.logpdf(data["y"], np.array(data["X"]) @ x[:5], x[5]).sum()
        + stats.norm.logpdf(x[:5], 0, 10).sum()
        + stats.halfnorm.logpdf(x[5], scale=10)
    )


def _ark(data: dict[str, Any], x: Vector) -> float:
    y, alpha, beta, sigma = data["y"], x[0], x[1:6], x[6]
    total = stats.norm.logpdf(x[:6], 0, 10).sum() + stats.halfcauchy.logpdf(sigma, scale=2.5)
    for t in range(data["K"], data["T"]):
        location = alpha + sum(beta[k - 1] * y[t - k] for k in range(1, data["K"] + 1))
        total += stats.norm.logpdf(y[t], location, sigma)
    return float(total)


def _garch11(data: dict[str, Any], x: Vector) -> float:
    y, (mu, alpha0, alpha1, beta1) = data["y"], x
    s = [data["sigma1"]]
    for t in range(1, data["T"]):
        s.append(np.sqrt(alpha0 + alpha1 * (y[t - 1] - mu) ** 2 + beta1 * s[t - 1] ** 2))
    return float(stats.norm.logpdf(y, mu, s).sum())


def _gp_regr(data: dict[str, Any], x: Vector) -> float:
    rho, alpha, sigma = x
    inputs = np.array(data["x"], dtype=float)
    squared_distance = np.subtract.outer(inputs, inputs) ** 2
    covariance = alpha**2 * np.exp(-squared_distance / (2 * rho**2)) + sigma * np.eye(len(inputs))
    return float(
        stats.multivariate_normal.logpdf(data["y"], np.zeros(len(inputs)), covariance)
        + stats.gamma.logpdf(rho, 25, scale=1 / 4)
        + stats.halfnorm.logpdf(alpha, scale=2)
        + stats.halfnorm.logpdf(sigma, scale=1)
    )


def _low_dim_gauss_mix(data: dict[str, Any], x: Vector) -> float:
    mu, s, theta = x[:2], x[2:4], x[4]
    first = np.log(theta) + stats.norm.logpdf(data["y"], mu[0], s[0])
    second = np.log1p(-theta) + stats.norm.logpdf(data["y"], mu[1], s[1])
    return float(
        np.logaddexp(first, second).sum()
        + stats.norm.logpdf(mu, 0, 2).sum()
        + stats.halfnorm.logpdf(s, scale=2).sum()
        + stats.beta.logpdf(theta, 5, 5)
    )


DENSITIES: dict[str, Density] = {
    "eight_schools_noncentered": _eight_schools,
    "eight_schools_centered": _eight_schools,
    "kidscore_momhsiq": _kidscore,
    "sblrc": _sblrc,
    "arK": _ark,
    "garch11": _garch11,
    "gp_regr": _gp_regr,
    "low_dim_gauss_mix": _low_dim_gauss_mix,
}

every_posterior = pytest.mark.parametrize("name", POSTERIORS)


def _points(posterior: Posterior, count: int = 3) -> Tensor:
    """Random points over the bulk of the posterior, ``(count, D)``."""
    generator = torch.Generator().manual_seed(20)
    noise = torch.randn(count, posterior.dim, generator=generator, dtype=torch.float64)
    return posterior.q_mean + 1.5 * posterior.q_sd * noise


def _central_difference(f: Callable[[Tensor], Tensor], q: Tensor, scale: Tensor) -> Vector:
    """Fourth-order derivative of ``f`` at ``q`` along each axis (last), in steps of 1e-3 of ``scale``."""
    columns = []
    for i in range(len(q)):
        h = torch.zeros_like(q)
        h[i] = 1e-3 * scale[i]
        difference = 8 * (f(q + h) - f(q - h)) - (f(q + 2 * h) - f(q - 2 * h))
        columns.append((difference / (12 * h[i])).numpy())
    return np.stack(columns, axis=-1)


def _oracle(posterior: Posterior, q: Tensor) -> float:
    """Log density of the unconstrained ``q`` by SciPy and a numerical change of variables."""
    jacobian = _central_difference(posterior.constrain, q, posterior.q_sd)
    log_density = DENSITIES[posterior.name](read()[posterior.name]["data"], posterior.constrain(q).numpy())
    return log_density + float(np.linalg.slogdet(jacobian)[1])


def _mismatch(posterior: Posterior, potential: Callable[[Tensor], Tensor]) -> float:
    """Largest relative disagreement with the oracle of the differences of ``potential`` between points."""
    points = _points(posterior)
    ours = np.diff([-float(potential(q)) for q in points])
    theirs = np.diff([_oracle(posterior, q) for q in points])
    return float(np.max(np.abs(ours - theirs) / np.abs(theirs)))


@every_posterior
def test_potential_is_scipys_log_density(name: str) -> None:
    posterior = load(name)
    value = posterior.potential(posterior.q_mean)
    assert (value.shape, value.dtype) == ((), torch.float64)
    assert _mismatch(posterior, posterior.potential) < 1e-8


@every_posterior
def test_oracle_rejects_a_potential_without_the_jacobian(name: str) -> None:
    posterior = load(name)

    def mutant(q: Tensor) -> Tensor:
        log_jacobian: Tensor = torch.linalg.slogdet(jacrev(posterior.constrain)(q)).logabsdet
        return posterior.potential(q) + log_jacobian

    assert _mismatch(posterior, mutant) > 1e-5


@every_posterior
def test_gradient_is_the_finite_difference(name: str) -> None:
    posterior = load(name)
    points = _points(posterior)
    gradient, energy = vmap(grad_and_value(posterior.potential))(points)
    for q, g, u in zip(points, gradient, energy, strict=True):
        expected = _central_difference(posterior.potential, q, posterior.q_sd)
        scale = posterior.q_sd.numpy()
        np.testing.assert_allclose(g.numpy() * scale, expected * scale, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(float(u), float(posterior.potential(q)), rtol=1e-12)


@every_posterior
def test_starting_points_are_stans_and_finite(name: str) -> None:
    posterior = load(name)
    start = posterior.initial_positions(64, seed=1)
    assert start.shape == (64, posterior.dim)
    assert start.dtype == torch.float64
    assert start.abs().max() <= 2.0
    assert torch.equal(start, posterior.initial_positions(64, seed=1))
    assert not torch.equal(start, posterior.initial_positions(64, seed=2))
    gradient, energy = vmap(grad_and_value(posterior.potential))(start)
    assert gradient.isfinite().all()
    assert energy.isfinite().all()


@every_posterior
def test_potential_can_be_traced(name: str) -> None:
    posterior = load(name)
    batched = vmap(grad_and_value(posterior.potential))
    points = _points(posterior)
    traced = make_fx(batched)(points)
    for got, expected in zip(traced(points + 0.01), batched(points + 0.01), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


@every_posterior
def test_parametrisation_agrees_with_the_reference(name: str) -> None:
    posterior = load(name)
    assert len(posterior.names) == len(posterior.mean) == posterior.dim
    centre = posterior.constrain(posterior.q_mean)
    assert ((centre - posterior.mean).abs() < posterior.sd).all()
    assert torch.equal(posterior.constrain(posterior.q_mean.expand(2, 3, -1))[1, 2], centre)
    # Centred eight schools is a funnel: its gradient at the mean says nothing of where the mass lies.
    if name != "eight_schools_centered":
        gradient = torch.func.grad(posterior.potential)(posterior.q_mean)
        assert (gradient * posterior.q_sd).abs().max() < 3.0


def test_singular_covariance_costs_one_chain_alone() -> None:
    posterior = load("gp_regr")
    singular = torch.tensor([700.0, 20.0, -40.0], dtype=torch.float64)
    energy = vmap(posterior.potential)(torch.stack((singular, posterior.q_mean)))
    assert energy[0] == torch.inf
    assert energy[1].isfinite()


def test_unknown_name_is_refused() -> None:
    with pytest.raises(KeyError, match="nine_schools"):
        load("nine_schools")
