"""The pictures of a report, each with what is to be seen in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from hnbayes import plots
from hnbayes.cli.html import Picture
from hnbayes.diagnostics import rhat
from hnbayes.diagnostics.samples import thin_points

if TYPE_CHECKING:
    from collections.abc import Callable

    from hnbayes.cli.evidence import Evidence, HeldOut, Slice

LEVEL = 0.9
PROBES = 64


def pictures(evidence: Evidence) -> list[Picture]:
    """All pictures that there is evidence for, the most telling first."""
    result: list[Picture] = []
    if evidence.held_out is not None:
        result += _held_out(evidence.held_out, evidence.target)
    if evidence.slice is not None:
        result += _slices(evidence.slice, evidence.target)
    if evidence.functions is not None and np.isfinite(evidence.functions).all():
        result += _worst_probe(evidence.functions)
    densities = evidence.held_out.log_likelihood if evidence.held_out else evidence.log_likelihood
    if densities is not None and np.isfinite(densities).all():
        rows = "held-out" if evidence.held_out else "training"
        caption = (
            f"Predictive density of the {rows} rows as draws are added. Level lines: more draws would add nothing; a "
            "black line above the others: the chains know different things."
        )
        result.append(_one(lambda ax: plots.plot_lppd(densities, ax=ax), caption))
    result += _sampler(evidence)
    return result


def _one(draw: Callable[[Any], object], caption: str, size: tuple[float, float] = (5.2, 3.8)) -> Picture:
    figure = Figure(figsize=size, layout="constrained")
    draw(figure.add_subplot())
    return Picture(figure, caption)


def _held_out(rows: HeldOut, target: str) -> list[Picture]:
    if rows.probabilities is not None:
        y, chances = rows.y, rows.probabilities
        caption = "Reliability on held-out rows: on the dashed line, confidence p means right p of the time."
        return [_one(lambda ax: plots.plot_reliability(y, chances, ax=ax), caption)]
    draws = rows.predictive
    if draws is None:
        return []
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=(0, 1))
    predicted = _one(
        lambda ax: plots.plot_predicted(rows.y, draws.mean((0, 1)), low, high, level=LEVEL, label=target, ax=ax),
        f"Held-out rows: prediction and {LEVEL:.0%} interval against what was observed.",
        (5.2, 4.6),
    )
    coverage = _one(
        lambda ax: plots.plot_coverage(rows.y, draws, ax=ax),
        "Calibration on held-out rows: above the band intervals are too wide, below it too narrow.",
        (5.2, 4.6),
    )
    return [predicted, coverage]


def _slices(cut: Slice, target: str) -> list[Picture]:
    others = "" if cut.observed is not None else ", the other inputs at their mean"
    labels = (cut.column, target)
    result = [
        _one(
            lambda ax: plots.plot_band(
                cut.x, cut.functions, predictive=cut.predictive, observed=cut.observed, labels=labels, ax=ax
            ),
            f"The posterior along {cut.column}{others}: the band should widen where there are no data.",
        )
    ]
    if cut.prior is not None:
        figure = Figure(figsize=(5.2, 3.8), layout="constrained")
        axs = figure.subplots(1, 2, sharey=True)
        plots.plot_prior_posterior(cut.x, cut.prior, cut.functions, observed=cut.observed, labels=labels, axs=axs)
        caption = f"Functions of the prior and of the posterior along {cut.column}{others}."
        result.append(Picture(figure, caption))
    return result


def _worst_probe(functions: Any) -> list[Picture]:
    flat = thin_points(functions, PROBES).reshape(*functions.shape[:2], -1)
    values = rhat(flat)
    worst = int(np.nanargmax(values)) if np.isfinite(values).any() else 0
    found = f"R-hat {values[worst]:.3f}" if np.isfinite(values[worst]) else "R-hat not known"
    draws = flat[:, :, worst]
    return [
        _one(
            lambda ax: plots.plot_trace(draws, label="network's output", ax=ax),
            f"The prediction on which the chains agree least ({found}): traces should overlap and not drift.",
            (5.2, 3.2),
        ),
        _one(
            lambda ax: plots.plot_ranks(draws, label="output", ax=ax),
            "Ranks of the same prediction: where the chains agree, all are flat and within the grey band.",
            (5.2, 3.2),
        ),
    ]


def _sampler(evidence: Evidence) -> list[Picture]:
    stats, result = evidence.stats, []
    if "energy" in stats and stats["energy"].shape[1] > 1:
        caption = "Energy: where its changes are much narrower than itself, the tails are explored slowly."
        result.append(_one(lambda ax: plots.plot_energy(stats["energy"], ax=ax), caption))
    if "tree_depth" in stats:
        caption = "Tree depth: how long the trajectories were; many cut ones are a waste, not an error."
        cut = stats.get("reached_max_treedepth")
        result.append(_one(lambda ax: plots.plot_tree_depth(stats["tree_depth"], cut, ax=ax), caption))
    return result
