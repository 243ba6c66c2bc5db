"""What the network computes, over one input: the posterior's band, and what the data made of the prior."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hnbayes.diagnostics.samples import as_samples
from hnbayes.plots.style import BLUE, GREY, ORANGE, as_vector, axes, legend, quantiles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray


def plot_band(
    x: Any,
    functions: Any,
    *,
    predictive: Any = None,
    observed: tuple[Any, Any] | None = None,
    level: float = 0.9,
    labels: tuple[str, str] = ("x", "y"),
    ax: Axes | None = None,
) -> Axes:
    """The posterior's functions over one input: mean, band of the functions, and wider band of new observations.

    Args:
        x: inputs (N,), in any order.
        functions: the network's outputs there, (C, S, N).
        predictive: draws of new observations there, (C, S, N): the functions with noise.
        observed: the data, inputs (M,) and targets (M,).
        level: share of the draws between the band's edges.
        labels: of the axes.
        ax: where to draw; a new figure if not given.

    Example:
        >>> x = np.linspace(-2, 2, 20)
        >>> functions = np.sin(x) + 0.1 * np.random.default_rng(0).normal(size=(4, 50, 20))
        >>> ax = hnbayes.plots.plot_band(x, functions, observed=(x, np.sin(x)), labels=("x", "sin x"))
        >>> ax.figure.savefig("band.png")
    """
    at, draws, order = _over(x, "functions", functions)
    ax = axes(ax)
    if predictive is not None:
        noisy = as_samples("predictive", predictive, dims=3)[:, :, order]
        low, high = quantiles(noisy, level)
        ax.fill_between(at, low, high, color=ORANGE, alpha=0.35, linewidth=0, label=f"{level:.0%} of new observations")
    low, high = quantiles(draws, level)
    ax.fill_between(at, low, high, color=BLUE, alpha=0.35, linewidth=0, label=f"{level:.0%} of the functions")
    ax.plot(at, draws.mean((0, 1)), color=BLUE, linewidth=1.8, label="mean")
    if observed is not None:
        inputs = as_vector("observed[0]", observed[0])
        targets = as_vector("observed[1]", observed[1], inputs.size)
        ax.scatter(inputs, targets, s=12, color="black", alpha=0.7, linewidths=0, zorder=3, label="observed")
    ax.set(xlabel=labels[0], ylabel=labels[1])
    legend(ax, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0), borderaxespad=0.2)
    return ax


def plot_prior_posterior(
    x: Any,
    prior: Any,
    posterior: Any,
    *,
    observed: tuple[Any, Any] | None = None,
    curves: int = 20,
    level: float = 0.9,
    labels: tuple[str, str] = ("x", "y"),
    axs: Sequence[Axes] | None = None,
) -> Sequence[Axes]:
    """Functions drawn from the prior beside those of the posterior, on the same scale.

    Args:
        x: inputs (N,).
        prior: the prior's functions, (C, S, N); their chains and draws are their own.
        posterior: the posterior's, (C, S, N).
        observed: the data, inputs (M,) and targets (M,).
        curves: how many functions are drawn of each, evenly spaced among the draws.
        level: share of the draws between the band's edges.
        labels: of the axes.
        axs: two axes to draw in; a new figure if not given.

    Example:
        >>> x, rng = np.linspace(-2, 2, 20), np.random.default_rng(0)
        >>> prior, posterior = rng.normal(size=(2, 30, 1)) * x, (1 + 0.1 * rng.normal(size=(4, 30, 1))) * x
        >>> axs = hnbayes.plots.plot_prior_posterior(x, prior, posterior)
        >>> axs[0].figure.savefig("prior_posterior.png")
    """
    import matplotlib.pyplot as plt

    if axs is None:
        _, axs = plt.subplots(1, 2, figsize=(9.6, 4.0), sharex=True, sharey=True, layout="constrained")
    for ax, title, colour, functions in zip(axs, ("prior", "posterior"), (GREY, BLUE), (prior, posterior), strict=True):
        at, draws, _ = _over(x, title, functions)
        low, high = quantiles(draws, level)
        ax.fill_between(at, low, high, color=colour, alpha=0.25, linewidth=0, label=f"{level:.0%} of the functions")
        flat = draws.reshape(-1, at.size)
        for index in np.unique(np.linspace(0, len(flat) - 1, min(curves, len(flat))).round().astype(int)):
            ax.plot(at, flat[index], color=colour, linewidth=0.7, alpha=0.7)
        if observed is not None:
            inputs = as_vector("observed[0]", observed[0])
            targets = as_vector("observed[1]", observed[1], inputs.size)
            ax.scatter(inputs, targets, s=10, color="black", linewidths=0, zorder=3, label="observed")
        ax.set(xlabel=labels[0], title=title)
        legend(ax)
    axs[0].set_ylabel(labels[1])
    return axs


def _over(x: Any, name: str, functions: Any) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Inputs in ascending order, draws (C, S, N) in theirs, and that order."""
    if np.ndim(functions) == 4 and np.shape(functions)[3] == 1:
        functions = functions[..., 0]
    draws = as_samples(name, functions, dims=3)
    at = as_vector("x", x, draws.shape[2])
    order = np.argsort(at, kind="stable")
    return at[order], draws[:, :, order], order
