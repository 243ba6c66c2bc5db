"""Random-walk Metropolis (Metropolis et al. 1953; Hastings 1970)."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from hnbayes._checks import check_fraction
from hnbayes.kernels.arrays import Host
from hnbayes.kernels.kernel import Finished, Kernel, State, column, draw_normal, host_energy

OPTIMAL_ACCEPTANCE = 0.234  # Roberts, Gelman and Gilks (1997), in many dimensions


def log_acceptance(
    energy: Host, proposed: Host, log_forward: Host | float = 0.0, log_backward: Host | float = 0.0
) -> Host:
    r"""The logarithm of the Metropolis-Hastings acceptance probability, at most 0.

    \(\log \min(1, \exp(H(q) - H(q')) \, r(q \mid q') / r(q' \mid q))\), in log space throughout, so that a constant
    added to the energy changes nothing.

    Args:
        energy: H(q), the negative log density where the chain is (with the kinetic energy, for HMC).
        proposed: H(q') where it may go; NaN counts as infinite.
        log_forward: \(\log r(q' \mid q)\), the proposal's density; 0 for symmetric proposals.
        log_backward: \(\log r(q \mid q')\).
    """
    log_ratio = energy - proposed + log_backward - log_forward
    return np.minimum(np.where(np.isnan(log_ratio), -np.inf, log_ratio), 0.0)


def log_uniform(state: State, rows: Host) -> Host:
    """Logarithms of uniform numbers, one from each row's stream: minus a standard exponential number."""
    return -np.array([state.streams[row].standard_exponential() for row in rows])


class RandomWalkMetropolis(Kernel):
    """Gaussian random walk: q' ~ N(q, step_size^2 M^-1), accepted with probability min(1, p(q') / p(q)).

    Args:
        target_accept: the mean acceptance that step-size adaptation aims at.

    Example:
        >>> kernel = hnbayes.kernels.RandomWalkMetropolis(target_accept=0.3)
        >>> draws = hnbayes.sample_potential(
        ...     lambda q: q.abs().sum(), torch.zeros(2, 3), kernel=kernel, warmup=20, draws=20, seed=0, progress=False
        ... )
        >>> draws.stats["accepted"].shape
        torch.Size([2, 20])
    """

    stats: ClassVar[dict[str, Any]] = {
        "lp": np.float64,
        "acceptance_rate": np.float64,
        "accepted": np.bool_,
        "step_size": np.float64,
        "n_steps": np.int64,
        "diverging": np.bool_,
    }
    uses_gradient = False

    def __init__(self, target_accept: float = OPTIMAL_ACCEPTANCE) -> None:
        self.target_accept = check_fraction("target_accept", target_accept)

    def advance(self, state: State) -> tuple[State, Finished | None]:
        """One proposal for every chain."""
        rows = state.rows
        with np.errstate(all="ignore"):
            jump = state.metric.displacement(draw_normal(state, rows))
            proposal = state.position + column(state, state.step_size) * jump
            proposed = host_energy(state, state.potential.value(state.vectors.tensor(proposal)))
            log_accept = log_acceptance(state.energy, proposed)
            accepted = log_uniform(state, rows) <= log_accept
        taken = np.flatnonzero(accepted)
        ix = state.vectors.index(taken)
        state.position[ix] = proposal[ix]
        state.energy[taken] = proposed[taken]
        info = {
            "lp": -state.energy,
            "acceptance_rate": np.exp(log_accept),
            "accepted": accepted,
            "step_size": state.step_size.copy(),
            "n_steps": np.ones(state.chains, np.int64),
            "diverging": ~np.isfinite(proposed),
        }
        return state, Finished(rows, info)
