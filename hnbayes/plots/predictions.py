"""Predictions beside what was observed: intervals, coverage, reliability."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hnbayes.diagnostics.samples import as_samples
from hnbayes.plots.style import BLUE, GREY, ORANGE, as_vector, axes, legend

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

# Standard normal quantile of 97.5%, of the reference band.
Z_95 = 1.959963984540054


def plot_predicted(
    observed: Any, mean: Any, low: Any, high: Any, *, level: float = 0.9, label: str = "", ax: Axes | None = None
) -> Axes:
    """Each point's prediction and interval against what was observed; on the diagonal they agree.

    Args:
        observed: (N,).
        mean: predicted mean or median, (N,).
        low: lower end of the predictive interval, (N,).
        high: its upper end, (N,).
        level: the interval's probability, for the labels.
        label: what is predicted, and in which unit.
        ax: where to draw; a new figure if not given.

    Example:
        >>> y = np.linspace(0, 1, 10)
        >>> ax = hnbayes.plots.plot_predicted(y, y + 0.1, y - 0.2, y + 0.4, label="strength [MPa]")
        >>> ax.figure.savefig("predicted.png")
    """
    truth = as_vector("observed", observed)
    middle, bottom, top = (as_vector(n, v, truth.size) for n, v in (("mean", mean), ("low", low), ("high", high)))
    inside = (bottom <= truth) & (truth <= top)
    ax = axes(ax, size=(5.2, 5.0))
    for mask, colour, marker, name in ((inside, BLUE, "o", "inside"), (~inside, ORANGE, "^", "outside")):
        ax.vlines(truth[mask], bottom[mask], top[mask], color=colour, alpha=0.35, linewidth=0.8)
        text = f"{name} its {level:.0%} interval ({int(mask.sum())})"
        ax.scatter(truth[mask], middle[mask], s=14, color=colour, marker=marker, linewidths=0, zorder=3, label=text)
    ends = [min(truth.min(), bottom.min()), max(truth.max(), top.max())]
    ax.plot(ends, ends, color=GREY, linewidth=1, linestyle="--", zorder=1)
    of = f" {label}" if label else ""
    ax.set(
        xlabel=f"observed{of}", ylabel=f"predicted{of}", title=f"{inside.mean():.0%} inside their {level:.0%} interval"
    )
    legend(ax, loc="upper left")
    return ax


def plot_coverage(observed: Any, predictive: Any, *, ax: Axes | None = None) -> Axes:
    """Regression's calibration: how many observations lie in the central intervals of each probability.

    The grey band holds 95% of what calibrated predictions give (binomial, each level by itself).

    Args:
        observed: (N,).
        predictive: draws of new observations at the same inputs, (C, S, N), with noise.
        ax: where to draw; a new figure if not given.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> ax = hnbayes.plots.plot_coverage(rng.normal(size=40), rng.normal(size=(4, 50, 40)))
        >>> ax.figure.savefig("coverage.png")
    """
    truth = as_vector("observed", observed)
    draws = as_samples("predictive", predictive, dims=3)
    if draws.shape[2] != truth.size:
        raise ValueError(
            f"predictive must have shape (chains, draws, {truth.size}), as many points as were observed; received "
            f"{draws.shape}. Predict at the observed inputs."
        )
    levels = np.linspace(0, 1, 51)
    covered = coverage(truth, draws, levels)
    ax = axes(ax, size=(5.2, 5.0))
    _reference(ax, levels, truth.size)
    ax.plot(levels, covered, color=BLUE, linewidth=1.8, label="observed")
    ax.set(xlabel="probability of the interval", ylabel="share of observations inside", xlim=(0, 1), ylim=(0, 1))
    legend(ax, loc="upper left")
    return ax


def coverage(observed: NDArray[Any], predictive: NDArray[Any], levels: NDArray[Any]) -> NDArray[Any]:
    """The share of the observations (N,) in the central intervals of the draws (C, S, N), for each of (L,) levels."""
    # The central interval of probability p holds y where y's rank among the draws is within p / 2 of the middle.
    below = (predictive < observed).mean((0, 1)) + 0.5 * (predictive == observed).mean((0, 1))
    return (2 * np.abs(below - 0.5) <= levels[:, None]).mean(1)


def plot_reliability(observed: Any, probabilities: Any, *, bins: int = 10, ax: Axes | None = None) -> Axes:
    """Classification's calibration: of the predictions made with some confidence, how many are right.

    Args:
        observed: class numbers (N,).
        probabilities: predicted probability of each class, (N, K), or of class 1, (N,).
        bins: equally many predictions in each; their vertical bars hold 95% (binomial).
        ax: where to draw; a new figure if not given.

    Raises:
        ValueError: if they are no probabilities, or classes no numbers below K.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> p = rng.uniform(size=200)  # of class 1
        >>> ax = hnbayes.plots.plot_reliability((rng.uniform(size=200) < p).astype(int), p)
        >>> ax.figure.savefig("reliability.png")
    """
    truth = as_vector("observed", observed)
    chances = np.asarray(probabilities.detach().cpu() if hasattr(probabilities, "detach") else probabilities, float)
    chances = np.stack([1 - chances, chances], axis=1) if chances.ndim == 1 else chances
    if chances.ndim != 2 or len(chances) != truth.size or not np.allclose(chances.sum(1), 1, atol=1e-4):
        raise ValueError(
            f"probabilities must have shape ({truth.size}, classes) with rows that add up to 1; received "
            f"{np.shape(probabilities)}. Pass class probabilities, not logits."
        )
    if not (np.isin(truth, np.arange(chances.shape[1]))).all():
        raise ValueError(f"observed must hold class numbers 0 to {chances.shape[1] - 1}; received others. Encode them.")
    confidence, right = chances.max(1), chances.argmax(1) == truth
    ax = axes(ax, size=(5.2, 5.0))
    ax.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle="--", label="calibrated")
    for number, part in enumerate(np.array_split(np.argsort(confidence, kind="stable"), min(bins, truth.size))):
        share = right[part].mean()
        low, high = _wilson(share, len(part))
        x = confidence[part].mean()
        ax.vlines(x, low, high, color=BLUE, alpha=0.6, linewidth=1.2)
        ax.scatter(x, share, s=22, color=BLUE, zorder=3, label="_" if number else f"{len(part)} predictions each")
    floor = max(0.0, min(confidence.min(), 1 / chances.shape[1]) - 0.05)
    ax.set(
        xlabel="confidence (highest class probability)",
        ylabel="share that is right",
        xlim=(floor, 1.02),
        ylim=(0, 1.02),
    )
    legend(ax, loc="upper left")
    return ax


def _reference(ax: Axes, levels: NDArray[Any], size: int) -> None:
    half = Z_95 * np.sqrt(levels * (1 - levels) / size)
    low, high = np.clip(levels - half, 0, 1), np.clip(levels + half, 0, 1)
    ax.fill_between(levels, low, high, color=GREY, alpha=0.25, linewidth=0, label="95% if calibrated")
    ax.plot(levels, levels, color=GREY, linewidth=1, linestyle="--")


def _wilson(share: float, size: int) -> tuple[float, float]:
    """Wilson's (1927) 95% interval of a proportion."""
    centre = (share + Z_95**2 / (2 * size)) / (1 + Z_95**2 / size)
    half = Z_95 / (1 + Z_95**2 / size) * np.sqrt(share * (1 - share) / size + Z_95**2 / (4 * size**2))
    return centre - half, centre + half
