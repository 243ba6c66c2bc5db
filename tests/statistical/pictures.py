"""Figures of a run: rank ECDFs with their bands, z-scores of reference posteriors, effective draws per gradient."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

if TYPE_CHECKING:
    from record import Record

MOST = 15  # panels of ranks


def band(count: int, possible: int, level: float = 0.95, simulations: int = 1000) -> tuple[np.ndarray, np.ndarray]:
    """A simultaneous band of the ECDF of uniform ranks, minus the uniform distribution (Saeilynoja et al. 2022).

    The pointwise level is chosen by simulation so that ECDFs stay within the band everywhere with probability `level`.

    Returns:
        Lower and upper limit at the ranks 0, ..., possible - 1.
    """
    uniform = np.arange(1, possible + 1) / possible
    rng = np.random.default_rng(0)
    counts = rng.multinomial(count, np.full(possible, 1 / possible), simulations).cumsum(1)[:, :-1]
    lower = stats.binom.cdf(counts, count, uniform[:-1])
    upper = stats.binom.sf(counts - 1, count, uniform[:-1])
    worst = 2 * np.minimum(lower, upper).min(1)
    pointwise = np.quantile(worst, 1 - level)
    low = stats.binom.ppf(pointwise / 2, count, uniform) / count - uniform
    high = stats.binom.ppf(1 - pointwise / 2, count, uniform) / count - uniform
    return low, high


def draw_all(record: Record, folder: Path) -> None:
    """Writes ranks.png, scores.png and efficiency.png, as far as there is something to show."""
    import matplotlib

    matplotlib.use("Agg")
    if record.ranks:
        _ranks(record, folder / "ranks.png")
    if record.scores:
        _scores(record, folder / "scores.png")
    if record.efficiency:
        _efficiency(record, folder / "efficiency.png")


def panels(found: list[tuple[tuple[str, str], tuple[tuple[str, ...], np.ndarray, int]]]) -> list[tuple]:
    """What is shown where there is more than fits: the problems of fewest samplers first, so that none is left out."""
    problems = [problem for (_, problem), _ in found]
    return sorted(found, key=lambda entry: problems.count(entry[0][1]))[:MOST]


def _ranks(record: Record, path: Path) -> None:
    from matplotlib import pyplot as plt

    shown = panels(list(record.ranks.items()))
    columns = min(3, len(shown))
    figure, axes = plt.subplots(
        -(-len(shown) // columns), columns, figsize=(3.1 * columns, 2.0 * -(-len(shown) // columns)), squeeze=False
    )
    for axis in axes.flat[len(shown) :]:
        axis.set_axis_off()
    for axis, ((sampler, problem), (_, ranks, possible)) in zip(axes.flat, shown, strict=False):
        low, high = band(len(ranks), possible)
        at = np.arange(1, possible + 1) / possible
        axis.fill_between(at, low, high, color="0.85", step="mid", linewidth=0)
        for column in ranks.T:
            ecdf = np.bincount(column, minlength=possible).cumsum() / len(column)
            axis.plot(at, ecdf - at, linewidth=0.8)
        axis.set_title(f"{sampler}: {problem}", fontsize=7)
        axis.tick_params(labelsize=6)
    figure.supxlabel("rank / number of states", fontsize=8)
    figure.supylabel("ECDF - uniform", fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)


def _scores(record: Record, path: Path) -> None:
    from matplotlib import pyplot as plt

    names = list(dict.fromkeys(row["posterior"] for row in record.scores))
    figure, axis = plt.subplots(figsize=(7, 0.28 * len(names) + 1))
    for place, name in enumerate(names):
        z = [row["z"] for row in record.scores if row["posterior"] == name]
        axis.plot(z, np.full(len(z), place), ".", alpha=0.6)
    for limit in (-4, 4):
        axis.axvline(limit, color="0.6", linewidth=0.8)
    axis.set_yticks(range(len(names)), names, fontsize=7)
    axis.set_xlabel("(mean - reference mean) / standard error", fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)


def _efficiency(record: Record, path: Path) -> None:
    from matplotlib import pyplot as plt

    rows = record.efficiency
    problems = list(dict.fromkeys(row["problem"] for row in rows))
    samplers = list(dict.fromkeys(row["sampler"] for row in rows))
    figure, axis = plt.subplots(figsize=(8, max(0.28 * len(samplers), 0.2 * len(problems)) + 1))
    colors = plt.get_cmap("tab20")
    for number, problem in enumerate(problems):
        found = {row["sampler"]: row["ess_per_gradient"] for row in rows if row["problem"] == problem}
        places = [samplers.index(name) for name in found]
        color = colors(number % colors.N)
        axis.plot(list(found.values()), places, "o", markersize=4, color=color, label=problem)
    axis.set_yticks(range(len(samplers)), samplers, fontsize=7)
    axis.set_xscale("log")
    axis.set_xlabel("smallest effective sample size of a parameter per evaluation", fontsize=8)
    axis.legend(fontsize=6, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)
