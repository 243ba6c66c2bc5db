"""MCLMC and MAMCLMC: microcanonical Langevin Monte Carlo, without and with Metropolis' correction.

Robnik, De Luca, Silverstein and Seljak (2023) and Robnik and Seljak (2024) for the first, Robnik, Cohn-Gordon and
Seljak (2025) for the second.
"""

from __future__ import annotations

import numpy as np

from hnbayes._checks import check_fraction, check_positive, describe
from hnbayes.kernels.arrays import Host
from hnbayes.kernels.hmc import DIVERGENCE_THRESHOLD, QUARTER_PERIOD
from hnbayes.kernels.isokinetic import random_direction, refresh
from hnbayes.kernels.kernel import State, draw_uniform
from hnbayes.kernels.metropolis import log_acceptance
from hnbayes.kernels.microcanonical import Microcanonical, Way

# A share of D: Robnik and Seljak (2024) find biases of second moments of about 1% at it.
ENERGY_VARIANCE = 5e-4
# At which the first step size of the adjusted kernel is looked for; adaptation goes on from there.
ADJUSTED_FIRST_VARIANCE = 1e-3


class MCLMC(Microcanonical):
    r"""Unadjusted microcanonical Langevin Monte Carlo: every step is kept, so draws have a bias.

    Each step of size \(\epsilon\) follows \(\dot q = M^{-1/2} u\),
    \(\dot u = -(I - u u^T) M^{-1/2} \nabla U / (D - 1)\); then u forgets where it pointed: \(u' \propto u + \nu z\),
    \(\nu^2 = (e^{2 \epsilon / L} - 1) / D\). The bias grows with the energy's variance a step, to which warm-up adapts
    the step size; docs/beyond.md has figures.

    Args:
        num_steps: steps of a transition, of which the last is a draw; None takes as many as go a length L.
        length: L, after which a direction is forgotten; None adapts it, in warm-up, to the posterior's spread and
            then to the draws' autocorrelation.
        energy_variance: what the mean squared energy error of a step is adapted to, as a share of D: a number, or two,
            from the first to the last transition of warm-up.
        integrator: "mclachlan" (two gradients a step) or "leapfrog" (one).
        max_steps: the most steps that L may lead to.
        delta_max: a step with a larger energy error is not taken: the chain sets out anew from its last draw, and the
            transition is reported as divergent.

    Raises:
        TypeError, ValueError: if an argument is none of the above.

    Example:
        >>> def U(q):
        ...     return 0.5 * (q**2).sum()
        >>> kernel = hnbayes.kernels.MCLMC(num_steps=5)
        >>> options = {"warmup": 20, "draws": 20, "seed": 0, "progress": False}
        >>> hnbayes.sample_potential(U, torch.randn(2, 10), kernel=kernel, **options).positions.shape
        torch.Size([2, 20, 10])
    """

    def __init__(
        self,
        num_steps: int | None = None,
        length: float | None = None,
        energy_variance: float | tuple[float, float] = ENERGY_VARIANCE,
        integrator: str = "mclachlan",
        max_steps: int = 1000,
        delta_max: float = DIVERGENCE_THRESHOLD,
    ) -> None:
        super().__init__(num_steps, length, integrator, max_steps, delta_max)
        if isinstance(energy_variance, (tuple, list)):
            if len(energy_variance) != 2:
                raise ValueError(
                    f"energy_variance must be one number or two, first and last; received {describe(energy_variance)}."
                )
            first, last = (check_positive("energy_variance", value) for value in energy_variance)
            self.energy_variance: float | tuple[float, float] = (first, last)
        else:
            first = last = self.energy_variance = check_positive("energy_variance", energy_variance)
        self.variances = (first, last)

    @property
    def first_variance(self) -> float:
        """The energy variance that adaptation begins with."""
        return self.variances[0]

    def _aim(self, state: State, rows: Host) -> None:
        # Directions go on from transition to transition, but where there was none or it was given up.
        path: Way = state.path
        if len(new := rows[path.broken[rows]]):
            path.u[state.vectors.index(new)] = random_direction(state, new)

    def _after_step(self, state: State, rows: Host, ended: Host) -> None:
        path: Way = state.path
        if len(rows):
            ix = state.vectors.index(rows)
            path.u[ix] = refresh(state, path.u[ix], rows, state.step_size[rows], state.length[rows])

    def _log_accept(self, state: State, rows: Host) -> Host:
        return np.zeros(len(rows))

    def _accepted(self, state: State, rows: Host, log_accept: Host) -> Host:
        return log_accept == 0


class MAMCLMC(Microcanonical):
    r"""Metropolis-adjusted microcanonical Monte Carlo: a trajectory is accepted with probability \(\min(1, e^{-W})\).

    W is the sum of its steps' energy errors. A trajectory sets out in a uniform direction and takes a random number of
    steps, uniform from 1 to 2 n - 1, where n steps go the length L. It leaves exp(-U) invariant at any step size.

    Args:
        num_steps: n; None takes as many as go a length L.
        length: L; None adapts it, in warm-up, to the posterior's spread.
        noise_length: the length, in units of L, after which directions are forgotten within a trajectory; None keeps
            them (the "Hamiltonian" variant).
        integrator: "mclachlan" (two gradients a step) or "leapfrog" (one).
        max_steps: the largest n that L may lead to.
        delta_max: a step with a larger energy error ends the trajectory, which is rejected and reported as divergent.
        target_accept: the mean acceptance that the step size is adapted to.

    Raises:
        TypeError, ValueError: if an argument is none of the above.

    Example:
        >>> def U(q):
        ...     return 0.5 * (q**2).sum()
        >>> kernel = hnbayes.kernels.MAMCLMC(num_steps=5)
        >>> options = {"warmup": 20, "draws": 20, "seed": 0, "progress": False}
        >>> hnbayes.sample_potential(U, torch.randn(2, 10), kernel=kernel, **options).stats["acceptance_rate"].shape
        torch.Size([2, 20])
    """

    # A quarter of the period of a Gaussian that the metric has made standard, at unit speed and radius sqrt(D).
    length_factor = QUARTER_PERIOD

    def __init__(
        self,
        num_steps: int | None = None,
        length: float | None = None,
        noise_length: float | None = None,
        integrator: str = "mclachlan",
        max_steps: int = 1000,
        delta_max: float = DIVERGENCE_THRESHOLD,
        target_accept: float = 0.9,
    ) -> None:
        super().__init__(num_steps, length, integrator, max_steps, delta_max)
        self.noise_length = None if noise_length is None else check_positive("noise_length", noise_length)
        self.target_accept = check_fraction("target_accept", target_accept)

    @property
    def first_variance(self) -> float:
        """Of a step of high acceptance."""
        return ADJUSTED_FIRST_VARIANCE

    def _aim(self, state: State, rows: Host) -> None:
        state.path.u[state.vectors.index(rows)] = random_direction(state, rows)

    def _draw_steps(self, state: State, rows: Host) -> Host:
        most = 2 * self.steps(state, rows) - 1
        return 1 + (draw_uniform(state, rows) * most).astype(np.int64)

    def _after_step(self, state: State, rows: Host, ended: Host) -> None:
        # Between steps only: at a trajectory's ends the direction is drawn anew, so the way back is as likely.
        rows = rows[~ended[rows]]
        if self.noise_length is not None and len(rows):
            path: Way = state.path
            ix = state.vectors.index(rows)
            length = self.noise_length * state.length[rows]
            path.u[ix] = refresh(state, path.u[ix], rows, state.step_size[rows], length)

    def _log_accept(self, state: State, rows: Host) -> Host:
        error = state.path.error[rows]
        return log_acceptance(np.zeros(len(rows)), error)
