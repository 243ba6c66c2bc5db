"""Stacking: chains weighted by how well their mixture predicts each datum from the others.

Yao, Vehtari and Gelman (2022), "Stacking for Non-mixing Bayesian Computations", section 2.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from hnbayes.diagnostics.lppd import loo
from hnbayes.diagnostics.samples import as_samples

if TYPE_CHECKING:
    from hnbayes.diagnostics.samples import Array

HIGH_PARETO_K = 0.7  # Vehtari et al. (2024)
# Of the Dirichlet prior: so near 1 that it decides between chains that predict alike only.
CONCENTRATION = 1.001
SMALLEST = 1e-12
# What the mean log density of a datum may be below the best, and how long that is tried for.
GAP = 1e-6
MOST_STEPS = 20_000


def stacking_weights(log_likelihood: Any) -> Array:
    r"""The weights of chains whose mixture has the best leave-one-out density.

    It is \(\hat w = \mathrm{arg\,max}_w \sum_n \log \sum_c w_c \, p_{c,-n} + (\lambda - 1) \sum_c \log w_c\) over the
    simplex, where \(p_{c,-n}\) is the density of datum n under chain c without it, by PSIS-LOO of each chain, and
    \(\lambda = 1.001\), so that chains which predict alike share their weight. Weights aren't masses of modes: they are
    chosen for the predictions of the mixture. Chains of few draws have noisy ones.

    Args:
        log_likelihood: log densities (C, S, N) of the data that were sampled with, as `Posterior.log_likelihood()`.

    Returns:
        (C,), of sum 1.

    Raises:
        TypeError, ValueError: if it is no such array.

    Warns:
        UserWarning: if PSIS can't be relied on for some data (Pareto k above 0.7).

    Example:
        >>> rng = np.random.default_rng(0)
        >>> good, bad = rng.normal(-1, 0.05, (1, 100, 30)), rng.normal(-3, 0.05, (1, 100, 30))
        >>> hnbayes.diagnostics.stacking_weights(np.concatenate((good, bad))).round(2)
        array([1., 0.])
    """
    x = as_samples("log_likelihood", log_likelihood, dims=3)
    densities, unreliable = [], 0
    for chain in x:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=UserWarning)  # of high Pareto k, counted here
            found = loo(chain[None])
        densities.append(np.asarray(found["loo_i"] if "loo_i" in found else found["elpd_i"]).ravel())
        unreliable += int((np.asarray(found["pareto_k"]) > HIGH_PARETO_K).sum())
    if unreliable:
        warnings.warn(
            f"for {unreliable} of {x.shape[0] * x.shape[2]} pairs of a chain and a datum the leave-one-out density "
            "isn't reliable (Pareto k above 0.7), so neither are the weights. Take weights on held-out data instead: "
            "best_mixture(densities).",
            UserWarning,
            stacklevel=2,
        )
    return best_mixture(np.stack(densities))


def best_mixture(log_density: Any) -> Array:
    """The weights with which a mixture's log density of data is largest.

    Args:
        log_density: of each datum under each component, (C, N): of held-out data, or leave-one-out.

    Returns:
        (C,), of sum 1.

    Raises:
        TypeError, ValueError: if it is no such array.

    Example:
        >>> hnbayes.diagnostics.best_mixture([[-1.0, -5.0], [-5.0, -1.0]]).round(2)  # each is good at one
        array([0.5, 0.5])
    """
    x = as_samples("log_density", log_density, dims=2)
    count, points = x.shape
    density = np.exp(x - x.max(0))

    w = np.full(count, 1 / count)
    total = points + count * (CONCENTRATION - 1)
    for _ in range(MOST_STEPS):
        # Of expectation maximisation. The objective is concave, so the largest ratio bounds what is left to be gained.
        ratio = ((density / (w @ density)).sum(1) + (CONCENTRATION - 1) / w) / total
        if ratio.max() < 1 + GAP:
            break
        w = np.maximum(w * ratio, SMALLEST)
        w /= w.sum()
    return w
