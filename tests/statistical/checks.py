"""p-values of what must hold exactly, and the level at which a check fails.

A whole run makes at most MAX_CHECKS checks. Each fails at p < LEVEL = RUN_LEVEL / MAX_CHECKS, so that a run of right
samplers fails with a probability of at most RUN_LEVEL = 1/1000, however the checks depend on each other (Bonferroni).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]
RUN_LEVEL = 1e-3
MAX_CHECKS = 2500
LEVEL = RUN_LEVEL / MAX_CHECKS


def normal_checks(scores: Array, names: tuple[str, ...]) -> dict[str, float]:
    """p-values of independent rows (N, D) of standard normal numbers: mean, size, distribution, pairs.

    Exact but for the products of pairs, which are sums of N terms.
    """
    if not np.abs(scores).max() < 1e6:  # nor if one is no number: such a chain has run away
        return {"range": 0.0}
    count = len(scores)
    found: dict[str, float] = {}
    for name, column in zip(names, scores.T, strict=True):
        found[f"{name} mean"] = two_sided(column.sum() / np.sqrt(count))
        lower = stats.chi2.cdf(np.square(column).sum(), count)
        found[f"{name} square"] = float(min(1.0, 2 * min(lower, stats.chi2.sf(np.square(column).sum(), count))))
        found[f"{name} KS"] = float(stats.kstest(column, "norm").pvalue)
    rows, columns = np.triu_indices(scores.shape[1], 1)
    if len(rows):
        products = (scores[:, rows] * scores[:, columns]).sum(0) / np.sqrt(count)
        found["pairs"] = float(min(1.0, len(rows) * min(two_sided(z) for z in products)))
    return found


def two_sided(z: float) -> float:
    """P(|Z| > |z|) of a standard normal Z."""
    return float(2 * stats.norm.sf(abs(z)))


def mean_check(values: Array, expected: float) -> float:
    """Student's t of independent numbers (N,) against their mean."""
    error = values.std(ddof=1) / np.sqrt(len(values))
    if error == 0:
        return 1.0 if np.all(values == expected) else 0.0
    return float(2 * stats.t.sf(abs((values.mean() - expected) / error), len(values) - 1))


def uniform_ranks(ranks: NDArray[np.int64], possible: int) -> float:
    """p-value of ranks (N,) that are uniform on 0, ..., possible - 1: chi-squared, and the largest step of the ECDF.

    Twice the smaller of: chi-squared on (up to) 20 equal bins, and Kolmogorov's D of ranks that are made continuous by
    uniform numbers of a fixed stream, which keeps its distribution exact.
    """
    bins = max(b for b in range(2, 21) if possible % b == 0)
    counts = np.bincount(ranks * bins // possible, minlength=bins)
    chi = float(stats.chisquare(counts).pvalue) if len(ranks) >= 5 * bins else 1.0
    continuous = (ranks + np.random.default_rng(1).uniform(size=len(ranks))) / possible
    return float(min(1.0, 2 * min(chi, stats.kstest(continuous, "uniform").pvalue)))
