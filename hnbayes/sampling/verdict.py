"""Warnings after a run: what makes its draws doubtful, and what to try."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import numpy as np
import torch

from hnbayes.diagnostics.energy import LOW_BFMI, SATURATED_SHARE, bfmi
from hnbayes.kernels.arrays import Host
from hnbayes.sampling.draws import Draws

ENOUGH_DRAWS = 100
COARSE_SPACING = 0.1
# A chain that stands still for half of its draws, and at least so many, is stuck.
STUCK_DRAWS = 50


class SamplingWarning(UserWarning):
    """The draws may not represent the posterior."""


def warn_about(draws: Draws) -> None:
    """Warn of divergences, of energies that are explored slowly and of trajectories cut at the maximum depth."""
    if draws.num_draws == 0:
        if draws.metadata.get("interrupted"):
            warn("the run was interrupted before any draw was kept; save_warmup=True keeps those of warm-up.")
        return
    _warn_of_stuck(draws)
    stats = draws.stats
    diverging = stats["diverging"]
    count = int(diverging.sum())
    # An improper proposal of Metropolis is a rejection like any other.
    if count and "energy" in stats:
        warn(
            f"{count} of {diverging.numel()} transitions diverged, in {int(diverging.any(1).sum())} of "
            f"{draws.chains} chains: the chains did not follow the posterior's curvature there and may be biased. "
            "Raise target_accept (0.95, 0.99), or reparametrise (non-centred scales)."
        )
    if "energy" in stats and draws.num_draws >= ENOUGH_DRAWS:
        worst = float(bfmi(stats["energy"].numpy()).min())
        if worst < LOW_BFMI:
            warn(
                f"the energy is explored slowly: E-BFMI {worst:.2f} (should be above {LOW_BFMI}) in the worst chain, "
                "as it is for heavy tails and funnels. Reparametrise, or run longer."
            )
    if "reached_max_treedepth" in stats:
        share = float(stats["reached_max_treedepth"].double().mean())
        if share >= SATURATED_SHARE:
            warn(
                f"{share:.0%} of the trajectories were cut at the maximum tree depth: draws are right, but more alike "
                "than need be. Raise max_tree_depth, or let warm-up run longer."
            )


def _warn_of_stuck(draws: Draws) -> None:
    """Warn of chains that stay where they are, with what is known of their last state."""
    last = max(draws.num_draws // 2, STUCK_DRAWS)
    if draws.num_draws < last:
        return
    lp = draws.stats["lp"][:, -last:]
    for chain in torch.nonzero((lp == lp[:, :1]).all(1))[:, 0].tolist():
        position = draws.positions[chain, -1]
        warn(
            f"chain {chain} has not moved in its last {last} draws: it stands at q = ({first_numbers(position)}), "
            f"|q| = {float(position.double().norm()):.4g}, with U = {-float(lp[chain, -1]):.6g} and step size "
            f"{float(draws.stats['step_size'][chain, -1]):.3g}. Leave it out, start it elsewhere, or warm up longer."
        )


def first_numbers(position: Any) -> str:
    """The first four numbers of a position (D,), for messages."""
    return ", ".join(f"{x:.4g}" for x in position[:4].tolist()) + (", ..." if len(position) > 4 else "")


def warn_if_coarse(energy: Host, dtype: torch.dtype) -> bool:
    """Warn if U is so large that float32 can't tell energies apart that differ by 0.1; says whether it did."""
    if dtype != torch.float32 or not energy.size:
        return False
    largest = float(np.abs(energy).max())
    spacing = float(np.spacing(np.float32(largest)))
    if spacing <= COARSE_SPACING:
        return False
    warn(
        f"|U| reaches {largest:.3g}, where float32 numbers are {spacing:.2g} apart, too coarse to accept draws by. "
        "Use float64 positions and data, or subtract a constant from U."
    )
    return True


def warn(message: str, category: type[Warning] = SamplingWarning) -> None:
    """Warn at the line outside the package that asked for the run, however deep within it the cause is found."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("hnbayes."):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)
