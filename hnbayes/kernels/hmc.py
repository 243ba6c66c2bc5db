"""Hamiltonian Monte Carlo with a fixed number of leapfrog steps (Neal 2011, figure 2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from hnbayes._checks import check_count, check_fraction, check_positive
from hnbayes.kernels.arrays import Array, Host
from hnbayes.kernels.kernel import Finished, Kernel, State, column, draw_normal, draw_uniform, integrate, kinetic
from hnbayes.kernels.metropolis import log_acceptance, log_uniform

# A quarter of the period of a standard Gaussian, where successive draws are independent. Half a period and a whole one
# (Pyro's default of 2 pi) bring a Gaussian chain back to where it was.
QUARTER_PERIOD = float(np.pi / 2)
DIVERGENCE_THRESHOLD = 1000.0


@dataclass
class Trajectory:
    """The trajectories on their way.

    Attributes:
        q, p, gradient: where they are, (C, D).
        start: the Hamiltonian at their start, (C,).
        taken: leapfrog steps taken, (C,).
        total: leapfrog steps to take, (C,).
    """

    q: Array
    p: Array
    gradient: Array
    start: Host
    taken: Host
    total: Host


class HMC(Kernel):
    r"""Static HMC: L leapfrog steps from (q, p), p ~ N(0, M), accepted with probability \(\min(1, e^{-\Delta H})\).

    Args:
        num_steps: L; None takes as many steps as `trajectory_length` needs at the current step size.
        trajectory_length: integration time, used where `num_steps` is None.
        delta_max: energy error above which a transition is reported as divergent.
        max_steps: the most steps that `trajectory_length` may lead to.
        jitter: a share j, below 1; each transition takes a random number of steps from (1 - j) L to L, so that
            trajectories don't come back to where they began time after time (Neal 2011, section 3.2).

    Example:
        >>> def U(q):
        ...     return 0.5 * (q**2).sum()
        >>> kernel = hnbayes.kernels.HMC(num_steps=8, jitter=0.5)  # from 4 to 8 steps
        >>> options = {"warmup": 20, "draws": 20, "seed": 0, "progress": False}
        >>> steps = hnbayes.sample_potential(U, torch.zeros(2, 3), kernel=kernel, **options).stats["n_steps"]
        >>> bool(steps.min() >= 4), bool(steps.max() <= 8)
        (True, True)
    """

    stats: ClassVar[dict[str, Any]] = {
        "lp": np.float64,
        "acceptance_rate": np.float64,
        "accepted": np.bool_,
        "step_size": np.float64,
        "n_steps": np.int64,
        "diverging": np.bool_,
        "energy": np.float64,
        "energy_error": np.float64,
    }
    path_type: ClassVar[type[Any] | None] = Trajectory

    def __init__(
        self,
        num_steps: int | None = None,
        trajectory_length: float = QUARTER_PERIOD,
        delta_max: float = DIVERGENCE_THRESHOLD,
        max_steps: int = 1000,
        jitter: float = 0.0,
    ) -> None:
        self.num_steps = None if num_steps is None else check_count("num_steps", num_steps)
        self.trajectory_length = check_positive("trajectory_length", trajectory_length)
        self.delta_max = check_positive("delta_max", delta_max)
        self.max_steps = check_count("max_steps", max_steps)
        self.jitter = check_fraction("jitter", jitter) if jitter else 0.0

    def advance(self, state: State) -> tuple[State, Finished | None]:
        """One leapfrog step of every chain."""
        with np.errstate(all="ignore"):
            if state.fresh.any():
                self._begin(state, state.fresh.nonzero()[0])
            path: Trajectory = state.path
            step = column(state, state.step_size)
            energy = integrate(state, path, step)
            path.taken += 1
            ended = self._ended(path, energy).nonzero()[0]
            if not len(ended):
                return state, None
            return state, self._finish(state, ended, energy)

    def steps(self, step_size: Host) -> Host | int:
        """Leapfrog steps of a trajectory at some step sizes."""
        if self.num_steps is not None:
            return self.num_steps
        return np.clip(np.ceil(self.trajectory_length / step_size), 1, self.max_steps).astype(np.int64)

    def _ended(self, path: Trajectory, energy: Host) -> Host:
        """Which trajectories are complete, (C,)."""
        # A trajectory that has left the numbers can't come back, so it ends at once and is rejected.
        return (path.taken >= path.total) | ~np.isfinite(energy)

    def _new_path(self, state: State) -> Trajectory:
        """Room for the trajectories of all chains."""
        count, dimension = state.chains, state.position.shape[1]
        q, p, gradient = (state.vectors.zeros(count, dimension) for _ in range(3))
        taken, total = np.zeros(count, np.int64), np.zeros(count, np.int64)
        return Trajectory(q, p, gradient, np.zeros(count), taken, total)

    def _draw_steps(self, state: State, rows: Host) -> Host | int:
        """How many steps the trajectories of some chains take."""
        steps = self.steps(state.step_size[rows])
        if self.jitter:
            fewest = np.ceil((1 - self.jitter) * steps)
            steps = (fewest + draw_uniform(state, rows) * (steps - fewest + 1)).astype(np.int64)
        return steps

    def _begin(self, state: State, rows: Host) -> None:
        """Draw momenta and set trajectories out from the current draws."""
        if state.path is None:
            state.path = self._new_path(state)
        path: Trajectory = state.path
        ix = state.vectors.index(rows)
        p = state.metric.momentum(draw_normal(state, rows), ix)
        path.q[ix], path.p[ix], path.gradient[ix] = state.position[ix], p, state.gradient[ix]
        path.start[rows] = state.energy[rows] + kinetic(state, p, rows)
        path.taken[rows] = 0
        path.total[rows] = self._draw_steps(state, rows)
        state.fresh[rows] = False

    def _finish(self, state: State, rows: Host, energy: Host) -> Finished:
        """Accept or reject the ends of trajectories."""
        path: Trajectory = state.path
        start = path.start[rows]
        kinetic_start = start - state.energy[rows]
        ix = state.vectors.index(rows)
        end = energy[rows] + kinetic(state, path.p[ix], rows)
        log_accept = log_acceptance(start, end)
        accepted = log_uniform(state, rows) <= log_accept
        taken = rows[accepted]
        tx = state.vectors.index(taken)
        state.position[tx] = path.q[tx]
        state.gradient[tx] = path.gradient[tx]
        state.energy[taken] = energy[taken]
        state.fresh[rows] = True
        error = end - start
        info = {
            "lp": -state.energy[rows],
            "acceptance_rate": np.exp(log_accept),
            "accepted": accepted,
            "step_size": state.step_size[rows],
            "n_steps": path.taken[rows],
            "diverging": ~(error <= self.delta_max),
            "energy": np.where(accepted, end, state.energy[rows] + kinetic_start),
            "energy_error": error,
        }
        return Finished(rows, info)
