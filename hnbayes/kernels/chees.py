"""ChEES-HMC: one trajectory length and one step size for many chains, which learn both together.

Hoffman, Radul and Sountsov (2021), "An Adaptive-MCMC Scheme for Setting Trajectory Lengths in Hamiltonian Monte Carlo".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from hnbayes._checks import check_count, check_fraction, check_positive, describe
from hnbayes.kernels.arrays import Array, Host
from hnbayes.kernels.hmc import DIVERGENCE_THRESHOLD, HMC, Trajectory
from hnbayes.kernels.kernel import Finished, State
from hnbayes.kernels.metrics import Metric
from hnbayes.potentials.base import Potential
from hnbayes.rng import Stream

TARGET_ACCEPT = 0.651  # Hoffman, Radul and Sountsov (2021), section 3.2, after Beskos et al. (2013)


@dataclass
class JitteredTrajectory(Trajectory):
    """Trajectories on their way, with what the adaptation of their length looks at.

    Attributes:
        origin: where they began, (C, D).
        begun: how many transitions each chain has begun, (C,).
        share: of the length, drawn for each, (C,).
        lost: which have left the numbers, (C,).
    """

    origin: Array
    begun: Host
    share: Host
    lost: Host


class ChEES(HMC):
    r"""HMC whose trajectory length T is learned, in warm-up, by the criterion ChEES from all chains together.

    A transition goes a length h T, where h is the next number in (0, 1) of a Halton sequence, the same for all chains;
    it takes \(\lceil h T / \epsilon \rceil\) leapfrog steps. Warm-up (`ChEESAdaptation`) maximises the change of the
    squared distance from the mean, \(\frac14 E[(\lVert q' - E q' \rVert^2 - \lVert q - E q \rVert^2)^2]\), over T, and
    adapts the step size to the harmonic mean of the chains' acceptance. After warm-up both are fixed.

    All chains share T, the step size and the mass matrix. So a chain is a function of the seed and of all the chains
    beside it, not of its own number alone, and chains can't be spread over processes. It needs many: with tens the
    estimates are good, with 4 they are poor.

    Args:
        length: T; None learns it.
        max_steps: the most leapfrog steps that T may lead to.
        delta_max: energy error above which a transition is reported as divergent.
        target_accept: the harmonic mean of acceptance that the step size is adapted to.
        learning_rate: of Adam, on log T.

    Raises:
        TypeError, ValueError: if an argument is none of the above.

    Example:
        >>> draws = hnbayes.sample_potential(
        ...     lambda q: 0.5 * q.square().sum(), torch.randn(8, 2), kernel="chees", warmup=20, draws=10, progress=False
        ... )
        >>> draws.stats["trajectory_length"].shape
        torch.Size([8, 10])
    """

    stats: ClassVar[dict[str, Any]] = {**HMC.stats, "trajectory_length": np.float64}
    path_type = JitteredTrajectory
    shares_adaptation = True

    def __init__(
        self,
        length: float | None = None,
        max_steps: int = 1000,
        delta_max: float = DIVERGENCE_THRESHOLD,
        target_accept: float = TARGET_ACCEPT,
        learning_rate: float = 0.025,
    ) -> None:
        super().__init__(delta_max=delta_max, max_steps=check_count("max_steps", max_steps))
        self.length = None if length is None else check_positive("length", length)
        self.target_accept = check_fraction("target_accept", target_accept)
        self.learning_rate = check_positive("learning_rate", learning_rate)

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
            ValueError: also if the length is to be learned from one chain alone.
        """
        if self.length is None and len(positions) < 2:
            raise ValueError(
                f"ChEES learns the trajectory length from at least 2 chains, best from tens; received "
                f"{describe(positions)}. Sample more chains, give ChEES(length=...), or use 'nuts'."
            )
        state = super().init(potential, positions, streams, step_size, metric)
        state.length[:] = self.length or state.step_size
        return state

    def _ended(self, path: Trajectory, energy: Host) -> Host:
        # All take equally many steps, so that no chain goes ahead: warm-up compares what they did at the same time. One
        # that has left the numbers is rejected in the end, wherever it is then.
        if isinstance(path, JitteredTrajectory):
            path.lost |= ~np.isfinite(energy)
        ended: Host = path.taken >= path.total
        return ended

    def _new_path(self, state: State) -> JitteredTrajectory:
        path = super()._new_path(state)
        own = {entry.name: getattr(path, entry.name) for entry in fields(Trajectory)}
        origin = state.vectors.zeros(*state.position.shape)
        begun, share, lost = np.zeros(state.chains, np.int64), np.ones(state.chains), np.zeros(state.chains, bool)
        return JitteredTrajectory(**own, origin=origin, begun=begun, share=share, lost=lost)

    def _draw_steps(self, state: State, rows: Host) -> Host:
        path: JitteredTrajectory = state.path
        ix = state.vectors.index(rows)
        path.origin[ix] = state.position[ix]
        path.begun[rows] += 1
        path.share[rows], path.lost[rows] = halton(path.begun[rows]), False
        steps = np.ceil(path.share[rows] * state.length[rows] / state.step_size[rows])
        return np.clip(steps, 1, self.max_steps).astype(np.int64)

    def _finish(self, state: State, rows: Host, energy: Host) -> Finished:
        finished = super()._finish(state, rows, np.where(state.path.lost, np.inf, energy))
        finished.info["trajectory_length"] = state.length[rows]
        return finished


def halton(index: Host) -> Host:
    """Numbers of the Halton sequence of base 2, from 1 on: 1/2, 1/4, 3/4, 1/8, ...

    Args:
        index: positive integers.
    """
    left, digit, total = index.copy(), 0.5, np.zeros(len(index))
    while left.any():
        total += digit * (left & 1)
        left >>= 1
        digit /= 2
    return total
