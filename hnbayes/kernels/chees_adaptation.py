"""Warm-up of ChEES-HMC: trajectory length, step size and metric of all chains together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np

from hnbayes.kernels.adaptation import CALM, Adaptation, Welford, find_step_size, host_position
from hnbayes.kernels.arrays import Host
from hnbayes.kernels.chees import ChEES, JitteredTrajectory
from hnbayes.kernels.kernel import State

# Of Adam, without momentum, and of the average of log T (Hoffman, Radul and Sountsov 2021, section 3.2).
ADAM_DECAY = 0.95
AVERAGE_POWER = 0.5
FIELDS = ("log", "log_average", "square", "count")


class LengthAscent:
    r"""Stochastic gradient ascent of the criterion over log T: Adam without momentum, and an average of its path.

    Args:
        length: T at first.
        learning_rate: of Adam.
    """

    def __init__(self, length: float, learning_rate: float) -> None:
        self.learning_rate = learning_rate
        self.log, self.log_average = np.full(1, np.log(length)), np.full(1, np.log(length))
        self.square, self.count = np.zeros(1), np.zeros(1)

    def climb(self, gradient: float, low: float, high: float) -> None:
        """Go a step up.

        Args:
            gradient: of the criterion with respect to log T; one that isn't finite is passed over.
            low: the least that T may be.
            high: the most.
        """
        if not np.isfinite(gradient):
            return
        self.count += 1
        self.square[:] = ADAM_DECAY * self.square + (1 - ADAM_DECAY) * gradient**2
        size = np.sqrt(self.square / (1 - ADAM_DECAY**self.count))
        step = gradient / size if size > 0 else 0.0
        self.log[:] = np.clip(self.log + self.learning_rate * step, np.log(low), np.log(high))
        share = self.count**-AVERAGE_POWER
        self.log_average[:] = share * self.log + (1 - share) * self.log_average

    def rescale(self, factor: float) -> None:
        """Multiply T, as when its unit changes."""
        self.log += np.log(factor)
        self.log_average += np.log(factor)

    @property
    def length(self) -> float:
        """T at present."""
        return float(np.exp(self.log[0]))

    @property
    def average(self) -> float:
        """The averaged T."""
        return float(np.exp(self.log_average[0]))


def criterion_gradient(path: JitteredTrajectory, state: State, rows: Host, acceptance: Host) -> float:
    r"""The gradient of ChEES with respect to log T, estimated from a transition of all chains.

    \(\hat g = \sum_m \alpha_m g_m / \sum_m \alpha_m\),
    \(g_m = t (\lVert q'_m - \bar q' \rVert^2 - \lVert q_m - \bar q \rVert^2) (q'_m - \bar q')^T v'_m\), where t is the
    length of the transition, q' and v' the position and velocity at its end (Hoffman, Radul and Sountsov 2021). Norms
    and products are those of the mass matrix M, so that units of the parameters don't matter: with M = I they are the
    paper's, and \(x^T M v' = x^T p'\).

    Args:
        path: the trajectories, complete.
        state: for metric and lengths.
        rows: of the chains that count, (R,).
        acceptance: of their transitions, (R,).

    Returns:
        The estimate; NaN if nothing was accepted.
    """
    ix = state.vectors.index(rows)
    start, end, momentum = (
        np.asarray(state.vectors.to_host(values[ix]), np.float64) for values in (path.origin, path.q, path.p)
    )
    moved = acceptance > 0
    if not moved.any():
        return float("nan")
    weight = acceptance[moved] / acceptance[moved].sum()
    start = (start - start.mean(0))[moved]
    end, momentum = end[moved], momentum[moved]
    end = end - weight @ end
    inverse = state.metric.host_inverse()[0].astype(np.float64)
    change = squared_norm(end, inverse) - squared_norm(start, inverse)
    length = path.share[rows[0]] * state.length[rows[0]]
    return float(length * (weight @ (change * (end * momentum).sum(1))))


def squared_norm(x: Host, inverse: Host) -> Host:
    """x^T M x of each row, (R,), from M^-1, a diagonal or a matrix."""
    weighted = np.linalg.solve(inverse, x.T).T if inverse.ndim == 2 else x / inverse
    norm: Host = (x * weighted).sum(1)
    return norm


class ChEESAdaptation(Adaptation):
    """Warm-up of `ChEES`: what chains learn, they share.

    The step size follows the harmonic mean of acceptance by dual averaging; the metric is renewed at the ends of Stan's
    windows from the draws of all chains; T climbs the criterion.

    Args:
        kernel: whose.
        state, warmup, target, step_size, metric, structure: see `Adaptation`. The step sizes and lengths of the state
            are made one.
        pooled: of no effect; the metric is always estimated from all chains.
    """

    # The harmonic mean of chains falls steeply with the step size.
    averaging_constants: ClassVar[Mapping[str, float]] = CALM

    def __init__(
        self,
        kernel: ChEES,
        state: State,
        warmup: int,
        target: float,
        step_size: bool = True,
        metric: Literal["diag", "dense"] | None = "diag",
        pooled: bool = True,
        structure: Host | None = None,
    ) -> None:
        state.step_size[:] = np.median(state.step_size)
        super().__init__(state, warmup, target, step_size, metric, True, structure)
        self.kernel = kernel
        self.ascent: LengthAscent | None = None
        if kernel.length is None:
            self.ascent = LengthAscent(float(state.step_size[0]), kernel.learning_rate)
            state.length[:] = self.ascent.length

    def update(self, state: State, rows: Host, chains: Host, done: Host, acceptance: Host) -> None:
        """See `Adaptation.update`; all chains that go on complete a transition at once."""
        acceptance = np.where(np.isfinite(acceptance), acceptance, 0.0)
        if self.ascent is not None:
            gradient = criterion_gradient(state.path, state, rows, acceptance)
            step = float(state.step_size[rows[0]])
            self.ascent.climb(gradient, step, step * self.kernel.max_steps)
        with np.errstate(divide="ignore", over="ignore"):
            together = 1 / np.mean(1 / acceptance)  # the harmonic mean; 0 if one is 0
        super().update(state, rows, chains, done, np.full(len(rows), together))
        if self.ascent is not None:
            ended = int(done[0]) == self.warmup
            state.length[rows] = self.ascent.average if ended else self.ascent.length

    def arrays(self) -> dict[str, Host]:
        """See `Adaptation.arrays`."""
        own = {} if self.ascent is None else {f"ascent.{name}": getattr(self.ascent, name) for name in FIELDS}
        return super().arrays() | own

    def restore(self, arrays: Mapping[str, Host]) -> None:
        """See `Adaptation.restore`."""
        super().restore(arrays)
        if self.ascent is not None:
            for name in FIELDS:
                getattr(self.ascent, name)[:] = arrays[f"ascent.{name}"]

    def _add_draws(self, state: State, rows: Host, chains: Host, done: Host) -> None:
        """Count the draws of all chains before any gets the metric of the window that they end."""
        count = int(done[0])
        end = next((end for end in self.windows.ends if count <= end), None)
        if end is None or count <= self.windows.begin:
            return
        welford = self.open.setdefault(end, Welford(*self._shape, self.metric == "dense"))
        welford.update(chains, host_position(state, rows))
        if count == end:
            self._renew_metric(state, rows, chains, welford)
            del self.open[end]

    def _renew_metric(self, state: State, row: Host, chain: Host, welford: Welford) -> None:
        """Give all chains the metric of their draws, and a step size and a length that fit it."""
        before = state.metric.host_inverse()[row[0]].astype(np.float64)
        super()._renew_metric(state, row, chain, welford)
        after = state.metric.host_inverse()[row[0]].astype(np.float64)
        if self.ascent is not None:
            # Along the axis on which the posterior was widest it takes as long as before.
            self.ascent.rescale(1 / np.sqrt(widest(after, before)))
        if self.averaging is not None:
            state.step_size[:] = np.median(find_step_size(self.kernel, state)[row])
            self.averaging.restart(chain, state.step_size[row])


def widest(covariance: Host, unit: Host) -> float:
    """The largest variance in units of another covariance, both diagonals or both matrices."""
    if covariance.ndim == 1:
        return float((covariance / unit).max())
    return float(np.linalg.eigvals(np.linalg.solve(unit, covariance)).real.max())
