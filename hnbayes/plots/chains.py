"""How the chains went: traces and ranks of functions, predictive density, energy, tree depth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hnbayes.diagnostics import bfmi, cumulative_lppd
from hnbayes.diagnostics.lppd import CumulativeLPPD
from hnbayes.diagnostics.samples import as_samples
from hnbayes.plots.style import BLUE, GREY, ORANGE, axes, chain_colours, chain_label, legend

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_trace(x: Any, *, label: str = "prediction", ax: Axes | None = None) -> Axes:
    """A quantity over the draws, chain by chain: a prediction at one input, a log likelihood.

    Args:
        x: draws (C, S).
        label: what it is.
        ax: where to draw; a new figure if not given.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(4, 200))
        >>> ax = hnbayes.plots.plot_trace(x, label="prediction at 0")
        >>> ax.figure.savefig("trace.png")
    """
    draws = as_samples("x", x, dims=2)
    ax = axes(ax, size=(7.5, 3.0))
    for chain, colour in enumerate(chain_colours(len(draws))):
        ax.plot(draws[chain], color=colour, linewidth=0.8, alpha=0.85, label=chain_label(chain, len(draws)))
    ax.set(xlabel="draw", ylabel=label)
    ax.margins(x=0.01)
    legend(ax, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0), borderaxespad=0.2)
    return ax


def plot_ranks(x: Any, *, bins: int = 20, label: str = "prediction", ax: Axes | None = None) -> Axes:
    """Ranks of each chain's draws among all draws (Vehtari et al. 2021, section 5): flat where the chains agree.

    The grey band holds 95% of what chains of independent draws give.

    Args:
        x: draws (C, S).
        bins: of the histograms.
        label: what it is.
        ax: where to draw; a new figure if not given.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(4, 200))
        >>> ax = hnbayes.plots.plot_ranks(x, label="prediction at 0")
        >>> ax.figure.savefig("ranks.png")
    """
    from scipy import stats

    draws = as_samples("x", x, dims=2)
    chains, size = draws.shape
    bins = max(min(bins, size // 2), 2)
    edges = np.linspace(0.5, draws.size + 0.5, bins + 1)
    ranks = stats.rankdata(draws).reshape(draws.shape)
    ax = axes(ax, size=(6.4, 3.4))
    low, high = stats.binom.interval(0.95, size, 1 / bins)
    ax.axhspan(low, high, color=GREY, alpha=0.2, linewidth=0, label="95% if they agree")
    for chain, colour in enumerate(chain_colours(chains)):
        counts = np.histogram(ranks[chain], edges)[0]
        ax.stairs(counts, edges, color=colour, linewidth=1.5, label=chain_label(chain, chains))
    ax.set(xlabel=f"rank of the {label} among all draws", ylabel="draws", xlim=(edges[0], edges[-1]))
    ax.set_ylim(bottom=0)
    legend(ax, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0), borderaxespad=0.2)
    return ax


def plot_lppd(x: Any, *, ax: Axes | None = None) -> Axes:
    """The LPPD per observation as draws are added, of each chain and of all: level where more would add nothing.

    Args:
        x: log densities (C, S, N), best of held-out data, or what `cumulative_lppd` returns.
        ax: where to draw; a new figure if not given.

    Example:
        >>> log_likelihood = np.random.default_rng(0).normal(-1, 0.3, size=(4, 50, 8))
        >>> ax = hnbayes.plots.plot_lppd(log_likelihood)
        >>> ax.figure.savefig("lppd.png")
    """
    found = x if isinstance(x, CumulativeLPPD) else cumulative_lppd(x)
    chains, draws = found.by_draw.shape
    steps = np.arange(1, draws + 1)
    ax = axes(ax)
    for chain, colour in enumerate(chain_colours(chains)):
        ax.plot(steps, found.by_draw[chain], color=colour, linewidth=1, label=chain_label(chain, chains))
    ax.plot(steps, found.pooled, color="black", linewidth=2.2, label="all chains")
    ax.set(xlabel="draws of each chain", ylabel="LPPD per observation", xscale="log")
    # The first draws are far below what matters.
    settled = np.concatenate([found.by_draw[:, draws // 10 :].ravel(), found.pooled[draws // 10 :]])
    room = 0.15 * max(float(np.ptp(settled)), 1e-3)
    ax.set_ylim(settled.min() - room, settled.max() + room)
    legend(ax, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0), borderaxespad=0.2)
    return ax


def plot_energy(energy: Any, *, ax: Axes | None = None) -> Axes:
    """The energy's distribution beside that of its changes: where these are much narrower, tails are explored slowly.

    Args:
        energy: Hamiltonians (C, S).
        ax: where to draw; a new figure if not given.

    Example:
        >>> energy = np.random.default_rng(0).normal(size=(4, 200))
        >>> ax = hnbayes.plots.plot_energy(energy)
        >>> ax.figure.savefig("energy.png")
    """
    draws = as_samples("energy", energy, dims=2)
    if draws.shape[1] < 2:
        raise ValueError(f"energy must hold at least 2 draws a chain; received {draws.shape[1]}. Sample more.")
    centred = (draws - draws.mean(1, keepdims=True)).ravel()
    changes = np.diff(draws, axis=1).ravel()
    limit = max(float(np.quantile(np.abs(np.concatenate([centred, changes])), 0.995)), 1e-12)
    edges = np.linspace(-limit, limit, 41).tolist()
    ax = axes(ax)
    ax.hist(centred, edges, density=True, color=BLUE, alpha=0.5, label="energy, less its mean")
    ax.hist(changes, edges, density=True, histtype="step", color=ORANGE, linewidth=2, label="change from draw to draw")
    values = bfmi(draws)
    ax.set(xlabel="energy", ylabel="density", title=f"E-BFMI: worst chain {values.min():.2f} (should exceed 0.3)")
    legend(ax)
    return ax


def plot_tree_depth(tree_depth: Any, reached_maximum: Any = None, *, ax: Axes | None = None) -> Axes:
    """How often trajectories doubled: each step to the right costs twice the gradients.

    Args:
        tree_depth: (C, S).
        reached_maximum: whether the trajectory was cut there, (C, S), if known.
        ax: where to draw; a new figure if not given.

    Example:
        >>> depth = np.random.default_rng(0).integers(3, 7, size=(4, 200))
        >>> ax = hnbayes.plots.plot_tree_depth(depth, depth == 6)
        >>> ax.figure.savefig("tree_depth.png")
    """
    depth = as_samples("tree_depth", tree_depth, dims=2).ravel().astype(int)
    cut = np.zeros(depth.shape, bool)
    if reached_maximum is not None:
        cut = as_samples("reached_maximum", reached_maximum, dims=2).ravel().astype(bool)
        if cut.shape != depth.shape:
            raise ValueError(
                "reached_maximum must be of as many draws as tree_depth; received others. Pass both of one run."
            )
    values = np.arange(depth.min(), depth.max() + 1)
    turned, stopped = ([int((depth[mask] == v).sum()) for v in values] for mask in (~cut, cut))
    ax = axes(ax)
    ax.bar(values, turned, color=BLUE, label="turned by themselves")
    if cut.any():
        ax.bar(values, stopped, bottom=turned, color=ORANGE, hatch="//", label="cut at the maximum")
    ax.set(xlabel="tree depth (trajectories of up to 2^depth - 1 steps)", ylabel="draws")
    ax.set_xticks(values)
    # Room for the legend, which margins don't leave above a bar that has one of height 0 on it.
    ax.set_ylim(0, 1.2 * max(a + b for a, b in zip(turned, stopped, strict=True)))
    legend(ax)
    return ax
