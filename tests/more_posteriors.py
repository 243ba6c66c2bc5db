"""Seven more posteriors of posteriordb, written from its models, with its summaries of reference draws.

Parameters are unconstrained as in `posteriors.py`. posteriordb keeps means and mean squares of these, so the standard
deviation is the root of their difference, and no summary of the unconstrained scale is known: `q_mean` and `q_sd` say
only where the posterior is, for tests that compare densities at points near it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from posteriors import Fn, Posterior, _half_cauchy, _last_positive, _tensor, read
from torch import Tensor

MORE: tuple[str, ...] = (
    "kidscore_momhs",
    "kidscore_momiq",
    "kidscore_interaction",
    "kidscore_interaction_c2",
    "kidscore_interaction_z",
    "arma11",
    "gp_pois_regr",
)
JITTER = 1e-10  # on the diagonal of gp_pois_regr's covariance


@cache
def read_more() -> dict[str, Any]:
    """The data and the reference summaries, read once."""
    content: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "posteriordb_more.json").read_text())
    return content


def load_more(name: str) -> Posterior:
    """Builds the posterior called `name`, one of `MORE`."""
    potential, constrain, q_mean = _MODELS[name]()
    reference = read_more()[name]["reference"]
    mean = _tensor(reference["mean"])
    return Posterior(
        name=name,
        dim=len(q_mean),
        potential=potential,
        constrain=constrain,
        names=tuple(reference["names"]),
        mean=mean,
        sd=(_tensor(reference["square"]) - mean.square()).sqrt(),
        mcse=_tensor(reference["mcse"]),
        q_mean=q_mean,
        q_sd=torch.full_like(q_mean, 0.05),
    )


def kidscore_design(name: str) -> Tensor:
    """The regressors of a kidscore model, (434, 2 or 4)."""
    data = read()["kidscore_momhsiq"]["data"]
    school, iq = _tensor(data["mom_hs"]), _tensor(data["mom_iq"])
    one = torch.ones_like(iq)
    if name == "kidscore_momhs":
        return torch.stack((one, school), 1)
    if name == "kidscore_momiq":
        return torch.stack((one, iq), 1)
    if name == "kidscore_interaction_c2":
        school, iq = school - 0.5, iq - 100
    if name == "kidscore_interaction_z":
        school, iq = ((x - x.mean()) / (2 * x.std()) for x in (school, iq))
    return torch.stack((one, school, iq, school * iq), 1)


def has_flat_scale(name: str) -> bool:
    """Whether sigma has a flat prior instead of a half-Cauchy one."""
    return name in ("kidscore_interaction_c2", "kidscore_interaction_z")


def _kidscore(name: str) -> tuple[Fn, Fn, Tensor]:
    """Regression with flat coefficients; q = (coefficients, log sigma)."""
    X, y = kidscore_design(name), _tensor(read()["kidscore_momhsiq"]["data"]["kid_score"])
    flat = has_flat_scale(name)

    def potential(q: Tensor) -> Tensor:
        b, log_sigma = q[:-1], q[-1]
        likelihood = 0.5 * ((y - X @ b) * (-log_sigma).exp()).square().sum() + len(y) * log_sigma
        return likelihood + (-log_sigma if flat else _half_cauchy(log_sigma, 2.5))

    mean = _tensor(read_more()[name]["reference"]["mean"])
    return potential, _last_positive, torch.cat((mean[:-1], mean[-1:].log()))


def _arma11() -> tuple[Fn, Fn, Tensor]:
    """ARMA(1, 1); q = (mu, phi, theta, log sigma)."""
    y = _tensor(read_more()["arma11"]["data"]["y"])
    power = torch.arange(len(y), dtype=torch.float64)
    lag = (power[:, None] - power[None, :]).clamp_min(0)
    lower = torch.ones(len(y), len(y), dtype=torch.float64).tril()

    def potential(q: Tensor) -> Tensor:
        mu, phi, theta, log_sigma = q.unbind()
        # err_t = c_t - theta err_{t-1} is the sum of (-theta)^k c_{t-k}: one product with a triangular matrix.
        c = torch.cat(((y[0] - mu - phi * mu)[None], y[1:] - mu - phi * y[:-1]))
        error = (lower * (-theta) ** lag) @ c
        likelihood = 0.5 * (error * (-log_sigma).exp()).square().sum() + len(y) * log_sigma
        prior = 0.5 * ((mu / 10.0).square() + (phi / 2.0).square() + (theta / 2.0).square())
        return likelihood + prior + _half_cauchy(log_sigma, 2.5)

    mean = _tensor(read_more()["arma11"]["reference"]["mean"])
    return potential, _last_positive, torch.cat((mean[:-1], mean[-1:].log()))


def _gp_pois_regr() -> tuple[Fn, Fn, Tensor]:
    """Counts whose log rate f = L z is a Gaussian process; q = (log rho, log alpha, z)."""
    x, k = _tensor(read()["gp_regr"]["data"]["x"]), _tensor(read_more()["gp_pois_regr"]["data"]["k"])
    squared_distance = (x[:, None] - x[None, :]).square()
    jitter = JITTER * torch.eye(len(x), dtype=torch.float64)

    def root(q: Tensor) -> tuple[Tensor, Tensor]:
        log_rho, log_alpha = q[..., 0, None, None], q[..., 1, None, None]
        covariance = (2.0 * log_alpha - 0.5 * squared_distance * (-2.0 * log_rho).exp()).exp()
        L, info = torch.linalg.cholesky_ex(covariance + jitter)
        return L, info

    def constrain(q: Tensor) -> Tensor:
        L, _ = root(q)
        return torch.cat((q[..., :2].exp(), (L @ q[..., 2:, None])[..., 0]), -1)

    def potential(q: Tensor) -> Tensor:
        log_rho, log_alpha, z = q[0], q[1], q[2:]
        L, info = root(q)
        f = L @ z
        prior = 4.0 * log_rho.exp() - 25.0 * log_rho + 0.5 * (log_alpha.exp() / 2.0).square() - log_alpha
        energy = f.exp().sum() - k @ f + prior + 0.5 * z.square().sum()
        return torch.where(info == 0, energy, torch.inf)

    mean = _tensor(read_more()["gp_pois_regr"]["reference"]["mean"])
    start = torch.cat((mean[:2].log(), torch.zeros(len(x), dtype=torch.float64)))
    L, _ = root(start)
    z = torch.linalg.solve_triangular(L, mean[2:, None], upper=False)[:, 0]
    # The mean of f is far from typical along L's narrowest axes; its first components say where the posterior is.
    z[6:] = 0.0
    return potential, constrain, torch.cat((start[:2], z))


_MODELS: dict[str, Callable[[], tuple[Fn, Fn, Tensor]]] = {
    **{name: (lambda name=name: _kidscore(name)) for name in MORE if name.startswith("kidscore")},
    "arma11": _arma11,
    "gp_pois_regr": _gp_pois_regr,
}
