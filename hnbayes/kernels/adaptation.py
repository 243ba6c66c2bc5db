"""Adaptation of step size and metric during warm-up, apart from the kernels.

Everything is per chain, because chains are desynchronised and stay independent; `pooled=True` lets each chain
estimate its metric from the draws that all chains have made in its window so far.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from hnbayes.kernels.arrays import Host
from hnbayes.kernels.integrators import leapfrog_step
from hnbayes.kernels.kernel import Kernel, State, column, draw_normal, evaluate, kinetic
from hnbayes.kernels.metropolis import log_acceptance

# The arrays of DualAveraging and of Welford that change.
AVERAGES = ("mu", "error", "log_average", "count")
MOMENTS = ("count", "mean", "scatter")
# Dual averaging at half of Stan's gain, with mu where the search for a step size ended: for acceptances that fall
# steeply with the step size, or vary much. At Stan's constants the step size swings widely to the end of warm-up, and
# the average of its logarithms is too small; at half the gain it takes long to come down from ten times the step size.
CALM: Mapping[str, float] = {"gamma": 0.1, "ahead": 1.0}
SEARCH_ACCEPTANCE = 0.8
SEARCH_LIMITS = (1e-12, 1e12)


class DualAveraging:
    r"""Nesterov's dual averaging of log step sizes (Hoffman and Gelman 2014, eq. 6 and section 3.2.1), per chain.

    \(\bar H_t = (1 - \frac{1}{t + t_0}) \bar H_{t-1} + \frac{1}{t + t_0} (\delta - \alpha_t)\),
    \(\log \epsilon_t = \mu - \frac{\sqrt t}{\gamma} \bar H_t\),
    \(\log \bar\epsilon_t = t^{-\kappa} \log \epsilon_t + (1 - t^{-\kappa}) \log \bar\epsilon_{t-1}\).

    Args:
        step_size: initial step sizes, (C,).
        target: \(\delta\), the acceptance aimed at.
        gamma, t0, kappa: constants, as in the paper and Stan.
        ahead: \(e^\mu / \epsilon_0\), likewise.
    """

    def __init__(
        self,
        step_size: Host,
        target: float,
        gamma: float = 0.05,
        t0: float = 10.0,
        kappa: float = 0.75,
        ahead: float = 10.0,
    ) -> None:
        self.target, self.gamma, self.t0, self.kappa, self.ahead = target, gamma, t0, kappa, ahead
        self.mu = np.log(ahead * step_size)
        self.error = np.zeros_like(self.mu)
        self.log_average = np.zeros_like(self.mu)
        self.count = np.zeros_like(self.mu)

    def update(self, rows: Host, acceptance: Host) -> Host:
        """Take the acceptance of a transition of some chains; returns their next step sizes, (R,)."""
        self.count[rows] += 1
        t = self.count[rows]
        weight = 1 / (t + self.t0)
        self.error[rows] = (1 - weight) * self.error[rows] + weight * (self.target - acceptance)
        log_step = self.mu[rows] - np.sqrt(t) / self.gamma * self.error[rows]
        share = t**-self.kappa
        self.log_average[rows] = share * log_step + (1 - share) * self.log_average[rows]
        return np.exp(log_step)

    def restart(self, rows: Host, step_size: Host) -> None:
        """Begin anew for some chains, from given step sizes."""
        self.mu[rows] = np.log(self.ahead * step_size)
        for values in (self.error, self.log_average, self.count):
            values[rows] = 0

    def average(self, rows: Host) -> Host:
        """The averaged step sizes of some chains, (R,)."""
        return np.exp(self.log_average[rows])


class Welford:
    """Running mean and covariance of each chain's draws (Welford 1962), in float64.

    Args:
        chains: C.
        dimension: D.
        dense: whether to keep the covariance matrix or its diagonal only.
    """

    def __init__(self, chains: int, dimension: int, dense: bool) -> None:
        self.dense = dense
        self.count = np.zeros(chains)
        self.mean = np.zeros((chains, dimension))
        self.scatter = np.zeros((chains, dimension, dimension) if dense else (chains, dimension))

    def update(self, rows: Host, positions: Host) -> None:
        """Add a draw (R, D) to each of some chains."""
        self.count[rows] += 1
        before = positions - self.mean[rows]
        self.mean[rows] += before / self.count[rows, None]
        after = positions - self.mean[rows]
        if self.dense:
            self.scatter[rows] += before[:, :, None] * after[:, None, :]
        else:
            self.scatter[rows] += before * after

    def covariance(self, row: int) -> tuple[float, Host]:
        """Number of draws and their covariance (D, D), or variances (D,), for one chain."""
        return float(self.count[row]), self.scatter[row] / (self.count[row] - 1)

    def pooled_covariance(self) -> tuple[float, Host]:
        """The same from the draws of all chains together, about their common mean."""
        total = self.count.sum()
        weights = self.count / total
        mean = weights @ self.mean
        offset = self.mean - mean
        scatter = self.scatter.sum(0)
        if self.dense:
            scatter = scatter + (offset * self.count[:, None]).T @ offset
        else:
            scatter = scatter + self.count @ offset**2
        return float(total), scatter / (total - 1)


@dataclass(frozen=True)
class Windows:
    """Stan's three phases of warm-up: fast (step size), slow windows that double (metric), fast.

    Attributes:
        begin: the first transition of the slow phase.
        ends: the transitions after which the metric is renewed.
    """

    begin: int
    ends: tuple[int, ...]

    @classmethod
    def stan(cls, warmup: int, initial: int = 75, base: int = 25, final: int = 50) -> Windows:
        """The schedule of the Stan reference manual, shrunk to 15, 75 and 10 per cent for short warm-ups.

        From 151 to 199 transitions Stan ends with a window shorter than its first, at 151 of one draw, which has no
        variance; here the first window then takes the rest.
        """
        if warmup < 20:
            return cls(warmup, ())
        if initial + base + final > warmup:
            initial, final = int(0.15 * warmup), int(0.1 * warmup)
            base = warmup - initial - final
        ends = []
        start, size, stop = initial, base, warmup - final
        while start < stop:
            # A window that would leave too little for one of twice its size takes the rest.
            end = stop if start + size + 2 * size > stop else start + size
            ends.append(end)
            start, size = end, 2 * size
        return cls(initial, tuple(ends))


class Adaptation:
    """Warm-up of a run: the step size by dual averaging, the metric in Stan's windows.

    Args:
        state: the state at the start; its metric must have one row a chain if it is adapted.
        warmup: transitions of warm-up a chain.
        target: acceptance aimed at.
        step_size: whether to adapt the step size.
        metric: "diag" or "dense" to adapt the metric, None to leave it.
        pooled: estimate the metric from the draws of all chains.
        structure: for "dense", which entries of the covariance to keep, (D, D) of bool; None keeps all. It must be
            block-diagonal up to a permutation, so that what is kept is positive definite.
    """

    averaging_constants: ClassVar[Mapping[str, float]] = {}  # of `DualAveraging`, where they aren't Stan's

    def __init__(
        self,
        state: State,
        warmup: int,
        target: float,
        step_size: bool = True,
        metric: Literal["diag", "dense"] | None = "diag",
        pooled: bool = False,
        structure: Host | None = None,
    ) -> None:
        self.structure = structure
        self.averaging = DualAveraging(state.step_size, target, **self.averaging_constants) if step_size else None
        self.windows = Windows.stan(warmup)
        self.warmup = warmup
        self.pooled = pooled
        self.metric = metric
        self._shape = (state.chains, state.position.shape[1])
        # The draws of each slow window that some chain is in, by the window's end.
        self.open: dict[int, Welford] = {}
        self.renewed = dict.fromkeys(self.windows.ends, 0)

    def update(self, state: State, rows: Host, chains: Host, done: Host, acceptance: Host) -> None:
        """Adapt chains that have completed a transition, before they begin the next.

        Args:
            state: changed in place: step sizes and metric of the rows.
            rows: where in the state the chains are, (R,).
            chains: their numbers in the run, (R,).
            done: transitions of warm-up that each has completed, this one included, (R,).
            acceptance: acceptance rate of the transitions, (R,).
        """
        if self.averaging is not None:
            acceptance = np.where(np.isfinite(acceptance), acceptance, 0.0)
            state.step_size[rows] = self.averaging.update(chains, acceptance)
        if self.metric is not None:
            self._add_draws(state, rows, chains, done)
        ended = done == self.warmup
        if self.averaging is not None and ended.any():
            state.step_size[rows[ended]] = self.averaging.average(chains[ended])

    def arrays(self) -> dict[str, Host]:
        """All that changes in the course of a warm-up, by name, for `restore`."""
        found: dict[str, Host] = {"renewed": np.array(list(self.renewed.values()), np.int64)}
        if self.averaging is not None:
            found |= {f"averaging.{name}": getattr(self.averaging, name) for name in AVERAGES}
        for end, welford in self.open.items():
            found |= {f"window.{end}.{name}": getattr(welford, name) for name in MOMENTS}
        return found

    def restore(self, arrays: Mapping[str, Host]) -> None:
        """Go on from what `arrays` gave, in the warm-up of a run like that one."""
        self.renewed = dict(zip(self.renewed, map(int, arrays["renewed"]), strict=True))
        if self.averaging is not None:
            for name in AVERAGES:
                getattr(self.averaging, name)[:] = arrays[f"averaging.{name}"]
        self.open = {}
        for end in self.windows.ends:
            if f"window.{end}.count" in arrays:
                self.open[end] = Welford(*self._shape, self.metric == "dense")
                for name in MOMENTS:
                    getattr(self.open[end], name)[:] = arrays[f"window.{end}.{name}"]

    def _add_draws(self, state: State, rows: Host, chains: Host, done: Host) -> None:
        """Count the draws of some chains to their windows."""
        for row, chain, count in zip(rows, chains, done, strict=True):
            self._add_draw(state, row, chain, int(count))

    def _add_draw(self, state: State, row: int, chain: int, done: int) -> None:
        """Count a draw to its window; at the window's end the chain gets a new metric."""
        end = next((end for end in self.windows.ends if done <= end), None)
        if end is None or done <= self.windows.begin:
            return
        if end not in self.open:
            self.open[end] = Welford(*self._shape, self.metric == "dense")
        welford, at = self.open[end], np.array([row])
        welford.update(np.array([chain]), host_position(state, at))
        if done == end:
            self._renew_metric(state, at, np.array([chain]), welford)
            self.renewed[end] += 1
            if self.renewed[end] == self._shape[0]:
                del self.open[end]

    def _renew_metric(self, state: State, row: Host, chain: Host, welford: Welford) -> None:
        """Give one chain the metric of its window's draws; its step size starts again from where it is."""
        count, estimate = welford.pooled_covariance() if self.pooled else welford.covariance(int(chain[0]))
        if self.structure is not None:
            estimate = estimate * self.structure
        # Stan's shrinkage towards a small multiple of the identity.
        shrunk = count / (count + 5.0) * estimate
        floor = 1e-3 * 5.0 / (count + 5.0)
        shrunk = shrunk + floor * (np.eye(len(estimate)) if welford.dense else 1.0)
        state.metric.replace_rows(row, shrunk[None])
        if self.averaging is not None:
            self.averaging.restart(chain, state.step_size[row])


def host_position(state: State, rows: Host) -> Host:
    """Positions (R, D) of some chains on the host, in float64."""
    position: Host = state.vectors.to_host(state.position[state.vectors.index(rows)]).astype(np.float64)
    return position


def find_step_size(kernel: Kernel, state: State) -> Host:
    """A step size of about 80% acceptance of a single leapfrog step for each chain (Hoffman and Gelman 2014, alg. 4).

    Args:
        kernel: for Metropolis, whose proposals need no search, 2.38 / sqrt(D) is returned (Roberts and Rosenthal 2001).
        state: not changed but for its random streams.

    Returns:
        Step sizes, (C,).
    """
    own = kernel.first_step_size(state)
    if own is not None:
        return own
    if not kernel.uses_gradient:
        return np.full(state.chains, 2.38 / np.sqrt(state.position.shape[1]))
    step_size = state.step_size.copy()
    direction = np.zeros(state.chains)
    searching = np.arange(state.chains)
    with np.errstate(all="ignore"):
        while len(searching):
            p = state.vectors.zeros(*state.position.shape)
            ix = state.vectors.index(searching)
            p[ix] = state.metric.momentum(draw_normal(state, searching), ix)
            start = state.energy + kinetic(state, p)
            _, p, energy, _ = leapfrog_step(
                state.position,
                p,
                state.gradient,
                column(state, step_size),
                state.metric.velocity,
                lambda q: evaluate(state, q),
            )
            log_accept = log_acceptance(start, energy + kinetic(state, p))
            wanted = np.where(log_accept > np.log(SEARCH_ACCEPTANCE), 1.0, -1.0)[searching]
            first = direction[searching] == 0
            direction[searching[first]] = wanted[first]
            going_on = wanted == direction[searching]
            searching = searching[going_on]
            step_size[searching] *= 2.0 ** direction[searching]
            within = (step_size[searching] > SEARCH_LIMITS[0]) & (step_size[searching] < SEARCH_LIMITS[1])
            searching = searching[within]
    return step_size
