"""Eight reference posteriors as torch potential energies on the unconstrained scale.

Models, data and reference summaries are posteriordb's (see ``credit`` in ``data/posteriordb.json``).
Parameters are unconstrained as Stan does it: log for a positive one, logit (scaled to the interval) for a
bounded one, and the first value followed by log differences for an ordered vector; ``potential`` is minus the
log density of the unconstrained vector, log-Jacobian included, up to an additive constant.

The potentials are written for ``vmap``, ``grad`` and ``make_fx``: no ``.item()``, no branch on a value, no
in-place write. Densities are spelled out because ``torch.distributions`` turns Python scalars into float32
tensors.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Fn = Callable[[Tensor], Tensor]

POSTERIORS: tuple[str, ...] = (
    "eight_schools_noncentered",
    "eight_schools_centered",
    "kidscore_momhsiq",
    "sblrc",
    "arK",
    "garch11",
    "gp_regr",
    "low_dim_gauss_mix",
)


@dataclass(frozen=True)
class Posterior:
    """A posterior, its potential energy and the summaries of its reference draws.

    Attributes:
        name: The posterior's name, one of ``POSTERIORS``.
        dim: Number of unconstrained parameters.
        potential: Unconstrained ``(D,)`` to the 0-dim potential energy.
        constrain: Unconstrained ``(..., D)`` to the constrained ``(..., P)``, ordered as ``names``.
        names: Names of the constrained parameters.
        mean: Reference mean of each constrained parameter.
        sd: Reference standard deviation of each constrained parameter.
        mcse: Monte Carlo standard error of ``mean``.
        q_mean: Reference mean of each unconstrained parameter.
        q_sd: Reference standard deviation of each unconstrained parameter.
    """

    name: str
    dim: int
    potential: Fn
    constrain: Fn
    names: tuple[str, ...]
    mean: Tensor
    sd: Tensor
    mcse: Tensor
    q_mean: Tensor
    q_sd: Tensor

    def initial_positions(self, chains: int, seed: int) -> Tensor:
        """Draws ``(chains, dim)`` float64 starting points uniformly on (-2, 2), as Stan does."""
        generator = torch.Generator().manual_seed(seed)
        return 4.0 * torch.rand(chains, self.dim, generator=generator, dtype=torch.float64) - 2.0


def load(name: str) -> Posterior:
    """Builds the posterior called ``name``.

    Raises:
        KeyError: If ``name`` is not one of ``POSTERIORS``.
    """
    potential, constrain = _MODELS[name](read()[name]["data"])
    reference = read()[name]["reference"]
    return Posterior(
        name=name,
        dim=len(reference["q_mean"]),
        potential=potential,
        constrain=constrain,
        names=tuple(reference["names"]),
        mean=_tensor(reference["mean"]),
        sd=_tensor(reference["sd"]),
        mcse=_tensor(reference["mcse_mean"]),
        q_mean=_tensor(reference["q_mean"]),
        q_sd=_tensor(reference["q_sd"]),
    )


@cache
def read() -> dict[str, Any]:
    """Reads the data and the reference summaries, once."""
    content: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "posteriordb.json").read_text())
    return content


def _tensor(values: Any) -> Tensor:
    """Turns nested lists of numbers, integers among them, into a float64 tensor."""
    return torch.tensor(values, dtype=torch.float64)


def _half_normal(log_x: Tensor, scale: float) -> Tensor:
    """Energy of log x where x is half-normal."""
    return 0.5 * (log_x.exp() / scale).square() - log_x


def _half_cauchy(log_x: Tensor, scale: float) -> Tensor:
    """Energy of log x where x is half-Cauchy."""
    return (log_x.exp() / scale).square().log1p() - log_x


def _logit_jacobian(u: Tensor) -> Tensor:
    """Log derivative of the logistic function at ``u``, finite however large ``|u|``."""
    return F.logsigmoid(u) + F.logsigmoid(-u)


def _last_positive(q: Tensor) -> Tensor:
    """Constrains a vector whose last entry alone is the logarithm of a positive parameter."""
    return torch.cat((q[..., :-1], q[..., -1:].exp()), dim=-1)


def _eight_schools(data: dict[str, Any], *, centered: bool) -> tuple[Fn, Fn]:
    """Hierarchical normal means; q = (theta or its standardised deviations, mu, log tau)."""
    y, sigma = _tensor(data["y"]), _tensor(data["sigma"])
    schools = len(y)

    def constrain(q: Tensor) -> Tensor:
        school, mu, tau = q[..., :schools], q[..., schools : schools + 1], q[..., schools + 1 :].exp()
        return torch.cat((school if centered else mu + tau * school, mu, tau), dim=-1)

    def potential(q: Tensor) -> Tensor:
        school, mu, log_tau = q[:schools], q[schools], q[schools + 1]
        if centered:
            theta = school
            prior = 0.5 * ((theta - mu) * (-log_tau).exp()).square().sum() + schools * log_tau
        else:
            theta = mu + log_tau.exp() * school
            prior = 0.5 * school.square().sum()
        likelihood = 0.5 * ((y - theta) / sigma).square().sum()
        return likelihood + prior + 0.5 * (mu / 5.0).square() + _half_cauchy(log_tau, 5.0)

    return potential, constrain


def _regression(X: Tensor, y: Tensor, coefficient_scale: float, noise: Fn) -> tuple[Fn, Fn]:
    """Regression, coefficients ~ N(0, coefficient_scale), flat if inf; q = (coefficients, log sigma)."""
    precision = coefficient_scale**-2

    def potential(q: Tensor) -> Tensor:
        b, log_sigma = q[:-1], q[-1]
        likelihood = 0.5 * ((y - X @ b) * (-log_sigma).exp()).square().sum() + len(y) * log_sigma
        return likelihood + 0.5 * precision * b.square().sum() + noise(log_sigma)

    return potential, _last_positive


def _kidscore(data: dict[str, Any]) -> tuple[Fn, Fn]:
    """Regression of children's test scores on two traits of the mother."""
    y = _tensor(data["kid_score"])
    X = torch.stack((torch.ones_like(y), _tensor(data["mom_hs"]), _tensor(data["mom_iq"])), dim=1)
    return _regression(X, y, math.inf, lambda log_sigma: _half_cauchy(log_sigma, 2.5))


def _sblrc(data: dict[str, Any]) -> tuple[Fn, Fn]:
    """Regression without intercept on a correlated design."""
    X, y = _tensor(data["X"]), _tensor(data["y"])
    return _regression(X, y, 10.0, lambda log_sigma: _half_normal(log_sigma, 10.0))


def _ark(data: dict[str, Any]) -> tuple[Fn, Fn]:
    """Autoregression: a regression of each value on a constant and the K before it, the nearest first."""
    series, lags = _tensor(data["y"]), int(data["K"])
    y = series[lags:]
    X = torch.cat((torch.ones_like(y)[:, None], series.unfold(0, lags, 1)[:-1].flip(1)), dim=1)
    return _regression(X, y, 10.0, lambda log_sigma: _half_cauchy(log_sigma, 2.5))


def _garch11(data: dict[str, Any]) -> tuple[Fn, Fn]:
    """GARCH(1, 1); q = (mu, log alpha0, logit alpha1, logit(beta1 / (1 - alpha1)))."""
    y, first = _tensor(data["y"]), _tensor([data["sigma1"]]).square()

    def constrain(q: Tensor) -> Tensor:
        mu, log_alpha0, u, v = q.unbind(-1)
        return torch.stack((mu, log_alpha0.exp(), u.sigmoid(), (-u).sigmoid() * v.sigmoid()), dim=-1)

    def potential(q: Tensor) -> Tensor:
        mu, alpha0, alpha1, beta1 = constrain(q).unbind()
        u, v = q[2], q[3]
        # The recursion s_t^2 = c_t + beta1 s_{t-1}^2 sums beta1^k c_{t-k} over k. Each pass doubles their
        # number: log2(T) passes do what T dependent steps would. All terms are positive: none cancel.
        variance = torch.cat((first, alpha0 + alpha1 * (y[:-1] - mu).square()))
        shift, power = 1, beta1
        while shift < len(y):
            variance = variance + power * F.pad(variance[:-shift], (shift, 0))
            shift, power = 2 * shift, power.square()
        likelihood = 0.5 * ((y - mu).square() / variance + variance.log()).sum()
        # 1 - alpha1 is sigmoid(-u): the width of beta1's interval.
        return likelihood - q[1] - _logit_jacobian(u) - _logit_jacobian(v) - F.logsigmoid(-u)

    return potential, constrain


def _gp_regr(data: dict[str, Any]) -> tuple[Fn, Fn]:
    """Gaussian process with its function integrated out; q = (log rho, log alpha, log sigma)."""
    x, y = _tensor(data["x"]), _tensor(data["y"])
    squared_distance = (x[:, None] - x[None, :]).square()
    identity = torch.eye(len(x), dtype=torch.float64)

    def potential(q: Tensor) -> Tensor:
        log_rho, log_alpha, log_sigma = q.unbind()
        kernel = (2.0 * log_alpha - 0.5 * squared_distance * (-2.0 * log_rho).exp()).exp()
        # Where one chain strays to a singular covariance, cholesky() would raise for the whole batch: give
        # that chain an infinite energy instead.
        L, info = torch.linalg.cholesky_ex(kernel + log_sigma.exp() * identity)
        z = torch.linalg.solve_triangular(L, y[:, None], upper=False)
        likelihood = 0.5 * z.square().sum() + L.diagonal(dim1=-2, dim2=-1).log().sum()
        length_prior = 4.0 * log_rho.exp() - 25.0 * log_rho  # Gamma(25, 4), the Jacobian's log rho included
        energy = likelihood + length_prior + _half_normal(log_alpha, 2.0) + _half_normal(log_sigma, 1.0)
        return torch.where(info == 0, energy, math.inf)

    return potential, torch.exp


def _low_dim_gauss_mix(data: dict[str, Any]) -> tuple[Fn, Fn]:
    """Two normal components; q = (mu_1, log(mu_2 - mu_1), log s_1, log s_2, logit theta).

    The ordering makes a local minimum, near (-2.35, -4.67, 1.41, -0.24, 0.66), of no weight (450 above the
    main one) but which holds a chain: of 150 NUTS chains started uniformly on (-2, 2), two ended there.
    """
    y = _tensor(data["y"])

    def constrain(q: Tensor) -> Tensor:
        low, log_gap, log_s1, log_s2, u = q.unbind(-1)
        return torch.stack((low, low + log_gap.exp(), log_s1.exp(), log_s2.exp(), u.sigmoid()), dim=-1)

    def potential(q: Tensor) -> Tensor:
        low, log_gap, log_s1, log_s2, u = q.unbind()
        high = low + log_gap.exp()
        first = F.logsigmoid(u) - log_s1 - 0.5 * ((y - low) * (-log_s1).exp()).square()
        second = F.logsigmoid(-u) - log_s2 - 0.5 * ((y - high) * (-log_s2).exp()).square()
        prior = 0.5 * ((low / 2.0).square() + (high / 2.0).square()) - log_gap
        scales = _half_normal(log_s1, 2.0) + _half_normal(log_s2, 2.0)
        # Beta(5, 5) and the logit's Jacobian make theta^5 (1 - theta)^5.
        return prior + scales - 5.0 * _logit_jacobian(u) - torch.logaddexp(first, second).sum()

    return potential, constrain


_MODELS: dict[str, Callable[[dict[str, Any]], tuple[Fn, Fn]]] = {
    "eight_schools_noncentered": lambda data: _eight_schools(data, centered=False),
    "eight_schools_centered": lambda data: _eight_schools(data, centered=True),
    "kidscore_momhsiq": _kidscore,
    "sblrc": _sblrc,
    "arK": _ark,
    "garch11": _garch11,
    "gp_regr": _gp_regr,
    "low_dim_gauss_mix": _low_dim_gauss_mix,
}
