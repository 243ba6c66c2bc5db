r"""Microcanonical Langevin dynamics: what the kernels with and without Metropolis' correction share.

Positions move at unit speed, so the distance that a step goes doesn't depend on energies.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from hnbayes._checks import check_choice, check_count, check_positive, describe
from hnbayes.kernels.arrays import Array, Host
from hnbayes.kernels.isokinetic import SPLITTINGS, move, search, turn
from hnbayes.kernels.kernel import Finished, Kernel, State, evaluate
from hnbayes.kernels.metrics import Metric
from hnbayes.kernels.metropolis import log_uniform
from hnbayes.potentials.base import Potential
from hnbayes.rng import Stream


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
