"""Log pointwise predictive density (LPPD): of all draws, as draws and chains are added, and left-one-out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hnbayes.diagnostics.samples import as_samples
from hnbayes.diagnostics.statistics import ess

if TYPE_CHECKING:
    from hnbayes.diagnostics.samples import Array


def lppd(log_likelihood: Any) -> Array:
    r"""Of each observation, \(\log \frac{1}{CS} \sum_{c,s} p(y_n \mid \theta_{cs})\) (Gelman et al. 2014, eq. 5).

    Args:
        log_likelihood: log densities (C, S, N).

    Returns:
        (N,); their sum is the LPPD of the data, their mean the usual score per point.

    Example:
        >>> log_likelihood = np.log([[[0.2, 0.5], [0.6, 0.5]]])  # 1 chain, 2 draws, 2 observations
        >>> np.exp(hnbayes.diagnostics.lppd(log_likelihood)).round(2)
        array([0.4, 0.5])
    """
    x = _log_likelihood(log_likelihood)
    return np.logaddexp.reduce(x.reshape(-1, x.shape[2]), axis=0) - np.log(x.shape[0] * x.shape[1])


@dataclass(frozen=True)
class CumulativeLPPD:
    """The LPPD per observation as draws and chains are added.

    Attributes:
        by_draw: of each chain's first s draws alone, (C, S).
        pooled: of the first s draws of all chains together, (S,).
        by_chain: of all draws of the first c chains, (C,).

    Example:
        >>> same = np.full((2, 50, 8), -1.0)
        >>> float(hnbayes.diagnostics.cumulative_lppd(same).still_rising)  # more draws would add nothing
        0.0
    """

    by_draw: Array
    pooled: Array
    by_chain: Array

    @property
    def still_rising(self) -> float:
        """What the second half of the draws still added, in nats per observation."""
        return float(self.pooled[-1] - self.pooled[max(len(self.pooled) // 2 - 1, 0)])


def cumulative_lppd(log_likelihood: Any) -> CumulativeLPPD:
    """The LPPD as draws and chains are added: where it levels off, more of them would predict no better.

    Args:
        log_likelihood: log densities (C, S, N), best of held-out data.

    Example:
        >>> log_likelihood = np.random.default_rng(0).normal(-1, 0.3, size=(2, 50, 8))
        >>> growth = hnbayes.diagnostics.cumulative_lppd(log_likelihood)
        >>> growth.by_draw.shape, growth.pooled.shape, growth.by_chain.shape
        ((2, 50), (50,), (2,))
    """
    x = _log_likelihood(log_likelihood)
    chains, draws, _ = x.shape
    seen = np.log(np.arange(1, draws + 1))[:, None]
    sums = np.logaddexp.accumulate(x, axis=1)
    by_chain = np.logaddexp.accumulate(sums[:, -1], axis=0) - np.log(draws * np.arange(1, chains + 1))[:, None]
    pooled = np.logaddexp.reduce(sums, axis=0) - np.log(chains) - seen
    return CumulativeLPPD((sums - seen).mean(2), pooled.mean(1), by_chain.mean(1))


def relative_efficiency(log_likelihood: Any) -> float:
    """ESS of the likelihoods over the number of draws, on average over observations: what PSIS takes as `reff`.

    The ESS of p(y_n | theta), not of its logarithm nor of the weights, decides how noisy the importance ratios are
    (Vehtari et al. 2024). At most 1,000 observations, evenly spaced, are looked at.

    Args:
        log_likelihood: log densities (C, S, N).

    Example:
        >>> log_likelihood = np.random.default_rng(0).normal(-1, 0.3, size=(4, 250, 8))
        >>> round(hnbayes.diagnostics.relative_efficiency(log_likelihood))  # independent draws
        1
    """
    x = _log_likelihood(log_likelihood)
    if x.shape[2] > 1000:
        x = x[:, :, np.linspace(0, x.shape[2] - 1, 1000).round().astype(int)]
    sizes = ess(np.exp(x - x.max((0, 1))), "mean")
    sizes = sizes[np.isfinite(sizes)]
    # Antithetic chains may be worth more than independent draws; PSIS keeps to at most as much.
    return float(min(sizes.mean() / (x.shape[0] * x.shape[1]), 1.0)) if sizes.size else 1.0


def loo(x: Any, *, var_name: str | None = None, reff: float | None = None, pointwise: bool = True) -> Any:
    """ArviZ's PSIS-LOO of the log-likelihood draws, without a pass over every weight of the network.

    `az.loo(idata)` computes an effective sample size over the whole posterior unless `reff` is given: minutes for a
    network. Here `reff` comes from the log-likelihood draws themselves, which are what is smoothed.

    Args:
        x: InferenceData or DataTree with a group `log_likelihood`, an object whose `to_inference_data()` gives one, or
            log densities (C, S, N).
        var_name: which variable of the group, where it has several.
        reff: relative efficiency, if known.
        pointwise: whether the values of each observation and their Pareto k are kept.

    Returns:
        What `az.loo` returns.

    Raises:
        TypeError, ValueError: if there are no log-likelihood draws in x.

    Warns:
        UserWarning: by ArviZ, of points whose Pareto k is high.

    Example:
        >>> log_likelihood = np.random.default_rng(0).normal(-1, 0.1, size=(4, 250, 8))
        >>> elpd = hnbayes.diagnostics.loo(log_likelihood)
        >>> round(elpd.elpd_loo), int(elpd.n_data_points)
        (-8, 8)
    """
    import arviz as az
    import xarray as xr

    from hnbayes.inference_data import container

    log_likelihood = x
    if not isinstance(x, xr.DataArray | np.ndarray) and not hasattr(x, "detach"):
        log_likelihood = log_likelihood_of(x, var_name)
    x = as_samples("log_likelihood", log_likelihood)
    x = x.reshape(*x.shape[:2], -1)
    data = xr.Dataset({"y": (("chain", "draw", "observation"), x)})
    idata: Any = container({"log_likelihood": data})
    efficiency = relative_efficiency(x) if reff is None else float(reff)
    arviz_loo: Any = az.loo
    # Its fit of the tail weighs shapes by 1 / sum(exp(...)), which is 0, as it should be, where a sum overflows.
    with np.errstate(over="ignore"):
        return arviz_loo(idata, pointwise=pointwise, reff=efficiency)


def log_likelihood_of(x: Any, var_name: str | None = None) -> Any:
    """The draws of the group `log_likelihood`: `xarray.DataArray` with dimensions chain, draw and the data's.

    Raises:
        TypeError: if x has no groups.
        ValueError: if it has no such group, or several variables and none is named.
    """
    idata = x.to_inference_data() if hasattr(x, "to_inference_data") else x
    try:
        names = list(idata["log_likelihood"].data_vars)
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        kind = ValueError if hasattr(idata, "groups") else TypeError
        raise kind(
            "x must hold log-likelihood draws: a group 'log_likelihood', or an array (chains, draws, observations); "
            f"received a {type(x).__name__} without. Compute them with Posterior.log_likelihood(X, y)."
        ) from error
    if var_name is None and len(names) == 1:
        var_name = names[0]
    if var_name not in names:
        raise ValueError(f"var_name must be one of {', '.join(map(str, names))}; received {var_name!r}. Name one.")
    return idata["log_likelihood"][var_name]


def _log_likelihood(x: Any) -> Array:
    return as_samples("log_likelihood", x, dims=3)
