r"""Microcanonical Langevin Monte Carlo, without and with Metropolis' correction.

Robnik, De Luca, Silverstein and Seljak (2023) and Robnik and Seljak (2024) for the first, Robnik, Cohn-Gordon and
Seljak (2025) for the second. Positions move at unit speed, so the distance that a step goes doesn't depend on energies.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from hnbayes._checks import check_choice, check_count, check_fraction, check_positive, describe
from hnbayes.kernels.arrays import Array, Host
from hnbayes.kernels.hmc import DIVERGENCE_THRESHOLD, QUARTER_PERIOD
from hnbayes.kernels.isokinetic import SPLITTINGS, move, random_direction, refresh, search, turn
from hnbayes.kernels.kernel import Finished, Kernel, State, draw_uniform, evaluate
from hnbayes.kernels.metrics import Metric
from hnbayes.kernels.metropolis import log_acceptance, log_uniform
from hnbayes.potentials.base import Potential
from hnbayes.rng import Stream

# A share of D: Robnik and Seljak (2024) find biases of second moments of about 1% at it.
ENERGY_VARIANCE = 5e-4
# At which the first step size of the adjusted kernel is looked for; adaptation goes on from there.
ADJUSTED_FIRST_VARIANCE = 1e-3


@dataclass
class Way:
    """The transitions on their way.

    Attributes:
        q, u, gradient: positions, directions of length 1, gradients of U, (C, D).
        energy: U at the last whole step, (C,).
        change: of the kinetic energy since then, (C,).
        error: of the total energy since the transition began, (C,).
        squares: sum of the squared errors of its steps, (C,).
        stage: which part of a step comes next, (C,).
        taken, total: steps, (C,).
        broken: whether the last transition left the numbers, (C,).
    """

    q: Array
    u: Array
    gradient: Array
    energy: Host
    change: Host
    error: Host
    squares: Host
    stage: Host
    taken: Host
    total: Host
    broken: Host


class Microcanonical(Kernel):
    """What both kernels share: isokinetic steps of all chains, one evaluation of the gradient at a time."""

    stats: ClassVar[dict[str, Any]] = {
        "lp": np.float64,
        "acceptance_rate": np.float64,
        "step_size": np.float64,
        "n_steps": np.int64,
        "diverging": np.bool_,
        "energy_error": np.float64,
        "trajectory_length": np.float64,
    }
    path_type = Way
    # What an adapted length is, in units of the posterior's spread.
    length_factor: ClassVar[float] = 1.0

    def __init__(
        self, num_steps: int | None, length: float | None, integrator: str, max_steps: int, delta_max: float
    ) -> None:
        self.num_steps = None if num_steps is None else check_count("num_steps", num_steps)
        self.length = None if length is None else check_positive("length", length)
        self.integrator = check_choice("integrator", integrator, tuple(SPLITTINGS))
        self.max_steps = check_count("max_steps", max_steps)
        self.delta_max = check_positive("delta_max", delta_max)
        self.splitting = SPLITTINGS[integrator]

    def init(
        self,
        potential: Potential,
        positions: Tensor,
        streams: Sequence[Stream],
        step_size: float | Host = 1.0,
        metric: Metric | None = None,
    ) -> State:
        """See `Kernel.init`.

        Raises:
            ValueError: also if there is one dimension only, in which a direction can't turn.
        """
        if positions.shape[-1] < 2:
            raise ValueError(
                f"{type(self).__name__} needs positions of at least 2 dimensions, as directions turn; received "
                f"{describe(positions)}. Use 'nuts' or 'hmc'."
            )
        state = super().init(potential, positions, streams, step_size, metric)
        state.length[:] = self.length or self.length_factor * np.sqrt(positions.shape[1])
        return state

    @property
    @abstractmethod
    def first_variance(self) -> float:
        """The energy variance, as a share of D, at which the first step size is looked for."""

    def first_step_size(self, state: State) -> Host:
        """A step size of a given energy variance for each chain."""
        with np.errstate(all="ignore"):
            return search(state, self.splitting, self.first_variance, 0.1 * state.length)

    def steps(self, state: State, rows: Host) -> Host:
        """Steps of a transition of some chains: what is asked for, or those that the length takes."""
        if self.num_steps is not None:
            return np.full(len(rows), self.num_steps)
        steps = np.rint(state.length[rows] / state.step_size[rows])
        return np.clip(steps, 1, self.max_steps).astype(np.int64)

    def advance(self, state: State) -> tuple[State, Finished | None]:
        """One evaluation of every chain: a move, between two turns."""
        with np.errstate(all="ignore"):
            if state.fresh.any():
                self._begin(state, state.fresh.nonzero()[0])
            path: Way = state.path
            turns, moves = np.array(self.splitting.turns), np.array(self.splitting.moves)
            first = path.stage == 0
            if first.any():
                self._turn(state, np.where(first, turns[0], 0.0))
            path.q = move(state, path.q, path.u, moves[path.stage] * state.step_size)
            energy, path.gradient = evaluate(state, path.q)
            self._turn(state, turns[path.stage + 1])
            path.stage += 1
            whole = path.stage == len(moves)
            error = path.change + energy - path.energy
            broken = ~np.isfinite(energy) | (whole & ~(np.abs(error) <= self.delta_max))
            stepped = (whole | broken).nonzero()[0]
            path.error[stepped] += error[stepped]
            path.squares[stepped] += error[stepped] ** 2
            path.energy[stepped], path.change[stepped], path.stage[stepped] = energy[stepped], 0.0, 0
            path.taken[stepped] += 1
            path.broken[:] = broken
            ended = (path.taken >= path.total) | broken
            self._after_step(state, (whole & ~broken).nonzero()[0], ended)
            if not ended.any():
                return state, None
            return state, self._finish(state, ended.nonzero()[0])

    def _turn(self, state: State, share: Host) -> None:
        """Turn the directions of the chains whose share of the step size isn't 0."""
        path: Way = state.path
        turned, kinetic = turn(state, path.u, path.gradient, share * state.step_size)
        if share.all():
            path.u = turned
        else:
            some = share.nonzero()[0]
            ix = state.vectors.index(some)
            path.u[ix] = turned[ix]
        path.change += np.where(share > 0, kinetic, 0.0)

    def _begin(self, state: State, rows: Host) -> None:
        """Set out from the current draws."""
        if state.path is None:
            count, dimension = state.chains, state.position.shape[1]
            q, u, gradient = (state.vectors.zeros(count, dimension) for _ in range(3))
            energy, change, error, squares = (np.zeros(count) for _ in range(4))
            stage, taken, total = (np.zeros(count, np.int64) for _ in range(3))
            new = np.ones(count, bool)
            state.path = Way(q, u, gradient, energy, change, error, squares, stage, taken, total, new)
        path: Way = state.path
        ix = state.vectors.index(rows)
        path.q[ix], path.gradient[ix] = state.position[ix], state.gradient[ix]
        path.energy[rows] = state.energy[rows]
        for zeroed in (path.change, path.error, path.squares, path.stage, path.taken):
            zeroed[rows] = 0
        self._aim(state, rows)
        path.total[rows] = self._draw_steps(state, rows)
        path.broken[rows] = False
        state.fresh[rows] = False

    @abstractmethod
    def _aim(self, state: State, rows: Host) -> None:
        """The directions in which transitions set out."""

    def _draw_steps(self, state: State, rows: Host) -> Host:
        return self.steps(state, rows)

    @abstractmethod
    def _after_step(self, state: State, rows: Host, ended: Host) -> None:
        """What comes between steps."""

    @abstractmethod
    def _log_accept(self, state: State, rows: Host) -> Host:
        """The logarithm of the probability that transitions are accepted."""

    def _finish(self, state: State, rows: Host) -> Finished:
        """Accept or reject the ends of transitions."""
        path: Way = state.path
        log_accept = np.where(path.broken[rows], -np.inf, self._log_accept(state, rows))
        taken = rows[self._accepted(state, rows, log_accept)]
        tx = state.vectors.index(taken)
        state.position[tx], state.gradient[tx] = path.q[tx], path.gradient[tx]
        state.energy[taken] = path.energy[taken]
        state.fresh[rows] = True
        info = {
            "lp": -state.energy[rows],
            "acceptance_rate": np.exp(log_accept),
            "step_size": state.step_size[rows],
            "n_steps": path.taken[rows] * len(self.splitting.moves),
            "diverging": path.broken[rows].copy(),
            "energy_error": path.error[rows],
            "trajectory_length": state.length[rows],
        }
        return Finished(rows, info)

    def _accepted(self, state: State, rows: Host, log_accept: Host) -> Host:
        return log_uniform(state, rows) <= log_accept


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
