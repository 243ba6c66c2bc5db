"""Warm-up of the microcanonical kernels: the step size by the energy's variance, lengths by the posterior's spread."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np

from hnbayes.kernels.adaptation import CALM, Adaptation, Welford, host_position
from hnbayes.kernels.arrays import Host
from hnbayes.kernels.kernel import State
from hnbayes.kernels.mclmc import MCLMC
from hnbayes.kernels.microcanonical import Microcanonical

# Robnik and Seljak (2024): how far, in powers of the step size, an estimate is believed; and over how many
# transitions estimates are averaged.
TRUST = 1.5
MEMORY = 50
SHRINK_AT_DIVERGENCE = 0.5
# L as a share of the distance between independent draws.
LENGTH_OF_AUTOCORRELATION = 0.4
# The last phase may change L by so much.
LENGTH_LIMITS = (0.25, 4.0)
FEWEST_PAIRS = 10


class EnergyVariance:
    r"""Step sizes of a given energy variance, per chain (Robnik and Seljak 2024, section 4.1).

    The squared energy error of a step grows as \(\epsilon^6\), so that \(\Delta^2 / \epsilon^6\), averaged with weights
    \(\exp(-\frac12 (\log \xi / (6 \tau))^2)\), \(\xi = \Delta^2 / (D v)\), tells the \(\epsilon\) at which \(\xi = 1\).

    Args:
        chains: C.
    """

    def __init__(self, chains: int) -> None:
        self.average, self.weight = np.zeros(chains), np.zeros(chains)

    def update(self, chains: Host, step_size: Host, ratio: Host, diverged: Host) -> Host:
        """Take what a transition tells of some chains; returns their next step sizes, (R,).

        Args:
            chains: which, (R,).
            step_size: with which it was made, (R,).
            ratio: xi, (R,).
            diverged: whether it was given up, (R,).
        """
        xi = np.where(diverged | ~np.isfinite(ratio), 1.0, ratio) + 1e-8
        weight = np.exp(-0.5 * (np.log(xi) / (6.0 * TRUST)) ** 2)
        decay = (MEMORY - 1.0) / (MEMORY + 1.0)
        self.average[chains] = decay * self.average[chains] + weight * xi / step_size**6
        self.weight[chains] = decay * self.weight[chains] + weight
        found = (self.average[chains] / self.weight[chains]) ** (-1.0 / 6.0)
        smaller = SHRINK_AT_DIVERGENCE * step_size
        self.restart(chains[diverged])
        return np.where(diverged, smaller, found)

    def restart(self, chains: Host) -> None:
        """Forget what is known of some chains."""
        self.average[chains] = self.weight[chains] = 0.0


class LagOne:
    """Correlation between successive draws of each chain, from running sums.

    Args:
        chains: C.
        dimension: D.
    """

    def __init__(self, chains: int, dimension: int) -> None:
        self.count = np.zeros(chains, np.int64)
        self.last, self.mean, self.scatter, self.product = (np.zeros((chains, dimension)) for _ in range(4))

    def update(self, chain: int, position: Host) -> None:
        """Add a draw (D,) of one chain."""
        before = self.mean[chain].copy()
        self.count[chain] += 1
        if self.count[chain] > 1:
            self.product[chain] += (position - before) * (self.last[chain] - before)
        self.mean[chain] += (position - before) / self.count[chain]
        self.scatter[chain] += (position - before) * (position - self.mean[chain])
        self.last[chain] = position

    def autocorrelation_time(self, chain: int) -> float | None:
        r"""The mean over coordinates of \((1 + \rho) / (1 - \rho)\), that of an AR(1) process; None if unknown."""
        moving = self.scatter[chain] > 0
        if self.count[chain] < FEWEST_PAIRS or not moving.any():
            return None
        rho = np.clip(self.product[chain][moving] / self.scatter[chain][moving], -0.5, 0.95)
        return float(np.mean((1 + rho) / (1 - rho)))


class MicrocanonicalAdaptation(Adaptation):
    """Warm-up of a microcanonical kernel.

    The metric is renewed at the ends of Stan's windows, as for other kernels; there the length L becomes the
    posterior's spread on the metric's axes. `MCLMC` has its step size from `EnergyVariance`, the adjusted kernel from
    its acceptance. After the last window, L of `MCLMC` becomes 0.4 times the distance between independent draws.

    Args:
        kernel: whose.
        state, warmup, target, step_size, metric, pooled, structure: see `Adaptation`.
    """

    # Trajectories of one step are nearly always accepted, long ones less often.
    averaging_constants: ClassVar[Mapping[str, float]] = CALM

    def __init__(
        self,
        kernel: Microcanonical,
        state: State,
        warmup: int,
        target: float,
        step_size: bool = True,
        metric: Literal["diag", "dense"] | None = "diag",
        pooled: bool = False,
        structure: Host | None = None,
    ) -> None:
        unadjusted = isinstance(kernel, MCLMC)
        super().__init__(state, warmup, target, step_size and not unadjusted, metric, pooled, structure)
        self.kernel = kernel
        self.variances = kernel.variances if isinstance(kernel, MCLMC) else None
        self.variance = EnergyVariance(state.chains) if unadjusted and step_size else None
        self.lag = LagOne(*self._shape) if unadjusted and kernel.length is None else None

    def update(self, state: State, rows: Host, chains: Host, done: Host, acceptance: Host) -> None:
        """See `Adaptation.update`."""
        if self.variance is not None and self.variances is not None:
            first, last = self.variances
            target = first + (last - first) * (done - 1) / max(1, self.warmup - 1)
            path = state.path
            ratio = path.squares[rows] / np.maximum(path.taken[rows], 1) / (target * self._shape[1])
            # A step mustn't go further than L, after which directions are forgotten.
            found = self.variance.update(chains, state.step_size[rows], ratio, path.broken[rows])
            state.step_size[rows] = np.minimum(found, state.length[rows])
        super().update(state, rows, chains, done, acceptance)
        if self.metric is None and self.kernel.length is None:
            self._add_draws(state, rows, chains, done)
        if self.lag is not None and self.windows.ends:
            for row, chain, count in zip(rows, chains, done, strict=True):
                if count > self.windows.ends[-1]:
                    self._follow(state, int(row), int(chain), int(count))

    def arrays(self) -> dict[str, Host]:
        """See `Adaptation.arrays`."""
        found = super().arrays()
        for name, part in self._parts():
            found |= {f"{name}.{entry}": values for entry, values in vars(part).items()}
        return found

    def restore(self, arrays: Mapping[str, Host]) -> None:
        """See `Adaptation.restore`."""
        super().restore(arrays)
        for name, part in self._parts():
            for entry, values in vars(part).items():
                values[:] = arrays[f"{name}.{entry}"]

    def _parts(self) -> list[tuple[str, Any]]:
        parts = (("variance", self.variance), ("lag", self.lag))
        return [(name, part) for name, part in parts if part is not None]

    def _renew_metric(self, state: State, row: Host, chain: Host, welford: Welford) -> None:
        """Give one chain the metric of its window's draws, and steps and a length that fit it."""
        dimension = self._shape[1]
        spread = np.sqrt(dimension)
        if self.metric is None:
            _, variances = welford.pooled_covariance() if self.pooled else welford.covariance(int(chain[0]))
            spread = max(float(np.sqrt(variances.sum())), 1e-3 * spread)
        else:
            before = self._reach(state, row)
            super()._renew_metric(state, row, chain, welford)
            # As far in the posterior's own units as before.
            state.step_size[row] *= before / self._reach(state, row)
            if self.averaging is not None:
                self.averaging.restart(chain, state.step_size[row])
            if self.variance is not None:
                self.variance.restart(chain)
        if self.kernel.length is None:
            state.length[row] = self.kernel.length_factor * spread

    def _reach(self, state: State, row: Host) -> float:
        """The root of the mean of the inverse metric's diagonal."""
        inverse = state.metric.host_inverse()[row[0]].astype(np.float64)
        return float(np.sqrt(np.mean(np.diagonal(inverse) if inverse.ndim == 2 else inverse)))

    def _follow(self, state: State, row: int, chain: int, done: int) -> None:
        """The last phase, of L; it ends with the warm-up."""
        if self.lag is None:
            return
        at = np.array([row])
        self.lag.update(chain, host_position(state, at)[0])
        time = self.lag.autocorrelation_time(chain) if done == self.warmup else None
        if time is not None:
            distance = float(self.kernel.steps(state, at)[0] * state.step_size[row])
            wanted = LENGTH_OF_AUTOCORRELATION * time * distance
            low, high = LENGTH_LIMITS
            state.length[row] = np.clip(wanted, low * state.length[row], high * state.length[row])
