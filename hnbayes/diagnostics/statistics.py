"""R-hat, effective sample sizes and Monte Carlo errors of arrays (C, S, ...): ArviZ's, and the two that it lacks.

Weights of a network are not identified: swap two hidden units and the function stays. So these belong on what the
network computes (predictions at probe inputs, log likelihood, log prior), where such symmetries have no effect.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hnbayes.diagnostics.samples import as_samples

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hnbayes.diagnostics.samples import Array

MIN_DRAWS = 4  # below, ArviZ's R-hat and ESS are NaN


def rhat(x: Any) -> Array:
    """Rank-normalised split R-hat (Vehtari et al. 2021, section 4), computed by ArviZ.

    Args:
        x: draws (C, S, ...) of at least 2 chains.

    Returns:
        (...): one number for each quantity; NaN where there is one chain only, fewer than 4 draws, or no variation.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(4, 200))
        >>> bool(hnbayes.diagnostics.rhat(x) < 1.02)
        True
        >>> x[0] += 3  # one chain is elsewhere
        >>> bool(hnbayes.diagnostics.rhat(x) > 1.2)
        True
    """
    return _arviz("rhat", as_samples("x", x))


def ess(x: Any, method: str = "bulk") -> Array:
    """Effective sample size, computed by ArviZ: `method` is "bulk", "tail" or another of `az.ess`.

    Args:
        x: draws (C, S, ...).
        method: "bulk" for estimates of the centre, "tail" for those of 5% and 95% quantiles.

    Returns:
        (...): one number for each quantity.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(4, 500, 3))
        >>> hnbayes.diagnostics.ess(x).shape
        (3,)
        >>> walk = x.cumsum(1)  # draws that hardly differ from those before
        >>> bool((hnbayes.diagnostics.ess(walk) < 100).all())
        True
    """
    # ArviZ 1.x has another default for the tails than 0.x and Vehtari et al. 2021, section 4.3.
    options = {"prob": (0.05, 0.95)} if method == "tail" else {}
    return _arviz("ess", as_samples("x", x), method=method, **options)


def mcse(x: Any, method: str = "mean") -> Array:
    """Monte Carlo standard error of the posterior mean, or of the sd (`method="sd"`), computed by ArviZ.

    Args:
        x: draws (C, S, ...).
        method: "mean" or "sd".

    Returns:
        (...): one number for each quantity, in its own unit.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(4, 2500))
        >>> round(float(hnbayes.diagnostics.mcse(x)), 3)  # about 1 / sqrt(10,000)
        0.01
    """
    return _arviz("mcse", as_samples("x", x), method=method)


def within_chain_rhat(x: Any) -> Array:
    """Rank-normalised split R-hat of each chain alone: do its two halves agree?

    Where it is near 1 for every chain and `rhat` isn't, each chain has settled, but in a place (a mode) of its own:
    more draws won't help. Where it isn't, the chains still move: more warm-up or draws may.

    Args:
        x: draws (C, S, ...).

    Returns:
        (C, ...): one number for each chain and quantity; NaN where a chain never moves or has fewer than 8
            draws.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(4, 200))
        >>> x[0] += 3  # a mode of its own, in which it has settled
        >>> hnbayes.diagnostics.within_chain_rhat(x) < 1.05
        array([ True,  True,  True,  True])
    """
    x = as_samples("x", x)
    half = x.shape[1] // 2
    if half < MIN_DRAWS:
        return np.full((x.shape[0], *x.shape[2:]), np.nan)
    # A chain's first and last half as two chains; its number becomes the first of the quantity's dimensions.
    halves = np.moveaxis(np.stack([x[:, :half], x[:, -half:]]), 1, 2)
    folded = np.abs(halves - np.median(halves, axis=(0, 1)))
    bulk, tail = (_arviz("rhat", _rank_normalise(part), method="identity") for part in (halves, folded))
    return np.maximum(bulk, tail)


def nested_rhat(x: Any, superchains: Sequence[int] | Array, *, rank_normalise: bool = True) -> Array:
    r"""Nested R-hat (Margossian et al. 2024, eqs. 4-8), for many chains too short for R-hat.

    Chains are grouped in superchains, whose chains start at one point. \(\hat R_\nu = \sqrt{1 + \hat B_\nu / \hat
    W_\nu}\) compares the variance between the superchains' means with that within them: what is left of where they
    started. One draw a chain is enough. With M independent chains in each and one draw, it is about
    \(\sqrt{1 + 1/M}\) at its best.

    Args:
        x: draws (C, S, ...).
        superchains: of each chain, the number of its superchain (C,); at least 2, with equally many chains each.
        rank_normalise: whether values are replaced by normal scores of their ranks first, as in R-hat, so that heavy
            tails do no harm.

    Returns:
        (...): one number for each quantity.

    Raises:
        ValueError: if the superchains do not fit, or hold one draw altogether.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(64, 1))  # one draw of each of 64 chains
        >>> superchains = np.repeat(np.arange(4), 16)
        >>> bool(hnbayes.diagnostics.nested_rhat(x, superchains) < 1.1)
        True
        >>> x[superchains == 0] += 3
        >>> bool(hnbayes.diagnostics.nested_rhat(x, superchains) > 1.2)
        True
    """
    x = as_samples("x", x)
    ids, counts = np.unique(np.asarray(superchains), return_counts=True)
    if np.shape(superchains) != x.shape[:1] or len(ids) < 2 or len(set(counts.tolist())) > 1:
        raise ValueError(
            f"superchains must give the number of each of the {x.shape[0]} chains' superchain, at least 2 of them with "
            f"equally many chains each; received {len(ids)} superchains of {counts.tolist()} chains, shape "
            f"{np.shape(superchains)}. Start as many chains from each point."
        )
    if counts[0] * x.shape[1] < 2:
        raise ValueError("a superchain must hold at least 2 draws; received one chain of one draw each. Run more.")
    if rank_normalise:
        x = _rank_normalise(x)
    groups = np.stack([x[np.asarray(superchains) == i] for i in ids])  # (K, M, S, ...)
    means = groups.mean(2)
    between = means.mean(1).var(0, ddof=1)
    within = np.zeros_like(groups[:, 0, 0])
    if groups.shape[1] > 1:
        within = within + means.var(1, ddof=1)
    if groups.shape[2] > 1:
        within = within + groups.var(2, ddof=1).mean(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.sqrt(1 + between / within.mean(0))


@dataclass(frozen=True)
class Convergence:
    """What the draws of some quantities are worth; `...` is the quantities' own shape, () for a single one.

    Attributes:
        mean, sd: of all draws, (...).
        rhat: rank-normalised split R-hat, (...).
        within: the same of each chain alone, (C, ...).
        ess_bulk, ess_tail: effective sample sizes, (...).
        mcse_mean, mcse_sd: Monte Carlo standard errors of `mean` and `sd`, (...).
        stuck: chains in which a quantity that moves elsewhere never does, (C, ...).

    Example:
        >>> x = np.random.default_rng(0).normal(size=(4, 100))
        >>> x[2] = 0.5  # a chain that never moves
        >>> hnbayes.diagnostics.convergence(x).stuck
        array([False, False,  True, False])
    """

    mean: Array
    sd: Array
    rhat: Array
    within: Array
    ess_bulk: Array
    ess_tail: Array
    mcse_mean: Array
    mcse_sd: Array
    stuck: Array


def convergence(x: Any) -> Convergence:
    """All that ArviZ's statistics say of draws (C, S, ...), in one pass.

    Args:
        x: draws of predictions at probe inputs (C, S, N) or (C, S, N, K), of log likelihoods (C, S), ...

    Raises:
        ValueError: if they are not finite.

    Example:
        >>> functions = np.random.default_rng(0).normal(size=(4, 100, 5))  # outputs at 5 inputs
        >>> c = hnbayes.diagnostics.convergence(functions)
        >>> c.rhat.shape, c.within.shape, bool(c.stuck.any())
        ((5,), (4, 5), False)
    """
    x = as_samples("x", x)
    still = np.ptp(x, axis=1) == 0
    return Convergence(
        mean=x.mean((0, 1)),
        sd=x.std((0, 1), ddof=1 if x.shape[0] * x.shape[1] > 1 else 0),
        rhat=rhat(x),
        within=within_chain_rhat(x),
        ess_bulk=ess(x),
        ess_tail=ess(x, "tail"),
        mcse_mean=mcse(x),
        mcse_sd=mcse(x, "sd"),
        stuck=still & (np.ptp(x, axis=(0, 1)) > 0),
    )


def _arviz(statistic: str, x: Array, **options: Any) -> Array:
    """One of ArviZ's statistics, of every quantity: the same call in ArviZ 0.x and 1.x."""
    import arviz as az
    import xarray as xr

    shape = x.shape[2:]
    if x.shape[1] < MIN_DRAWS or (statistic == "rhat" and x.shape[0] < 2):
        return np.full(shape, np.nan)  # as ArviZ, without its warnings
    data = xr.Dataset({"x": (("chain", "draw", "quantity"), x.reshape(*x.shape[:2], -1))})
    with warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)  # of a quantity that never moves
        values = getattr(az, statistic)(data, **options)["x"].values
    return np.asarray(values, dtype=np.float64).reshape(shape)


def _rank_normalise(x: Array) -> Array:
    """Normal scores of the ranks among all draws (Vehtari et al. 2021, eq. 14), of each quantity of (C, S, ...)."""
    from scipy import special, stats

    size = x.shape[0] * x.shape[1]
    ranks = stats.rankdata(x.reshape(size, -1), axis=0)
    return special.ndtri((ranks - 0.375) / (size + 0.25)).reshape(x.shape)
