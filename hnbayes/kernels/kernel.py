"""What all kernels share: the state of all chains, and how it advances by one batched evaluation.

Chains are desynchronised: one that completes a transition begins its next in the following evaluation, while others
are still on their way. So the primitive is `advance`, one evaluation of the potential for the whole batch.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from hnbayes.kernels.arrays import Array, Host, Vectors, vectors_like
from hnbayes.kernels.metrics import Metric, as_metric
from hnbayes.potentials.base import Potential
from hnbayes.rng import Stream


@dataclass
class State:
    """All chains between two evaluations. Arrays are updated in place by the kernel that made it.

    Attributes:
        potential: U.
        vectors: where vectors live.
        position: the last completed draw of each chain, (C, D).
        energy: U there, (C,) float64.
        gradient: its gradient there, (C, D).
        streams: one random generator a chain.
        step_size: (C,) float64; read when a transition begins.
        metric: the mass matrices; read while a transition runs, so change a chain's only between transitions.
        fresh: whether a chain has yet to begin its transition, (C,).
        path: the transition on its way; each kernel has its own kind.
        length: of trajectories, for kernels that adapt it, (C,) float64.
        rows: 0, ..., C - 1.

    Example:
        >>> from hnbayes.rng import chain_streams
        >>> U = hnbayes.Potential(lambda q: 0.5 * (q**2).sum())
        >>> state = hnbayes.kernels.NUTS().init(U, torch.ones(2, 3), chain_streams(0, range(2)))
        >>> state.energy, state.rows
        (array([1.5, 1.5]), array([0, 1]))
    """

    potential: Potential
    vectors: Vectors
    position: Array
    energy: Host
    gradient: Array
    streams: list[Stream]
    step_size: Host
    metric: Metric
    fresh: Host
    path: Any = None
    length: Host = field(default_factory=lambda: np.empty(0))

    def __post_init__(self) -> None:
        self.rows = np.arange(len(self.energy))
        if not len(self.length):
            self.length = np.ones(len(self.energy))

    @property
    def chains(self) -> int:
        """C, the number of chains."""
        return len(self.energy)

    def select(self, rows: Host) -> State:
        """A new state of some of the chains, to go on without the others."""
        picked = pick_rows(self, rows, self.vectors)
        return dataclasses.replace(
            picked,
            streams=[self.streams[row] for row in rows],
            metric=self.metric.select(rows),
            path=None if self.path is None else pick_rows(self.path, rows, self.vectors),
        )

    def positions_tensor(self) -> Tensor:
        """The positions as a tensor (C, D)."""
        return self.vectors.tensor(self.position)


def new_state(
    potential: Potential,
    positions: Tensor,
    values: Tensor,
    gradient: Tensor,
    streams: Sequence[Stream],
    step_size: float | Host = 1.0,
    metric: Metric | None = None,
) -> State:
    """A state of chains about to begin a transition, from what is known of their positions; nothing is evaluated.

    Args:
        potential: U.
        positions: (C, D); copied.
        values: U there, (C,).
        gradient: its gradient there, (C, D); copied.
        streams: one generator a chain.
        step_size: a number or one a chain.
        metric: the mass matrices; None is the identity.
    """
    chains, dimension = positions.shape
    vectors = vectors_like(positions)
    return State(
        potential=potential,
        vectors=vectors,
        position=vectors.array(positions.detach().clone(memory_format=torch.contiguous_format)),
        energy=values.double().cpu().numpy().copy(),
        gradient=vectors.array(gradient.detach().clone(memory_format=torch.contiguous_format)),
        streams=list(streams),
        step_size=np.broadcast_to(np.asarray(step_size, np.float64), (chains,)).copy(),
        metric=as_metric(1.0, dimension, vectors) if metric is None else metric,
        fresh=np.ones(chains, bool),
    )


def pick_rows(record: Any, rows: Host, vectors: Vectors) -> Any:
    """A copy of a dataclass with some rows of each of its arrays; other fields stay."""
    ix = vectors.index(rows)
    changes: dict[str, Any] = {}
    for entry in dataclasses.fields(record):
        value = getattr(record, entry.name)
        if isinstance(value, np.ndarray):
            changes[entry.name] = value[rows]
        elif isinstance(value, Tensor):
            changes[entry.name] = value[ix]
    return dataclasses.replace(record, **changes)


@dataclass(frozen=True)
class Finished:
    """Chains that have just completed a transition; their draws stand in the state.

    Attributes:
        rows: which chains, (R,).
        info: what the kernel reports of each of them, name -> (R,), names as in ArviZ's sample_stats.

    Example:
        >>> from hnbayes.rng import chain_streams
        >>> U = hnbayes.Potential(lambda q: 0.5 * (q**2).sum())
        >>> kernel = hnbayes.kernels.RandomWalkMetropolis()
        >>> state, finished = kernel.advance(kernel.init(U, torch.zeros(2, 3), chain_streams(0, range(2))))
        >>> finished.rows, finished.info["accepted"].shape
        (array([0, 1]), (2,))
    """

    rows: Host
    info: dict[str, Host] = field(default_factory=dict)


class Kernel(ABC):
    """A Markov kernel that leaves exp(-U) invariant, for all chains at once.

    Attributes:
        stats: what it reports for each draw, name -> NumPy dtype.
        uses_gradient: whether it needs the gradient of U.
        path_type: the dataclass of arrays in which transitions on their way are kept; None where one evaluation
            completes a transition.
        target_accept: the mean acceptance that step-size adaptation aims at; None takes the caller's.
        shares_adaptation: whether all chains adapt together, so that they need to be in one process.

    Example:
        >>> kernel = hnbayes.kernels.NUTS()
        >>> from hnbayes.rng import chain_streams
        >>> U = hnbayes.Potential(lambda q: 0.5 * (q**2).sum())
        >>> state = kernel.init(U, torch.zeros(2, 3), chain_streams(0, range(2)), step_size=0.5)
        >>> state, info = kernel.step(state)  # one transition of each chain
        >>> sorted(info) == sorted(kernel.stats)
        True
    """

    stats: ClassVar[dict[str, Any]] = {}
    uses_gradient: ClassVar[bool] = True
    path_type: ClassVar[type[Any] | None] = None
    target_accept: float | None = None
    shares_adaptation: ClassVar[bool] = False

    def init(
        self,
        potential: Potential,
        positions: Tensor,
        streams: Sequence[Stream],
        step_size: float | Host = 1.0,
        metric: Metric | None = None,
    ) -> State:
        """The state in which each chain is about to begin a transition.

        Args:
            potential: U.
            positions: initial positions (C, D); copied.
            streams: one generator a chain, from `hnbayes.rng.chain_streams`.
            step_size: a number or one a chain.
            metric: the mass matrices; None is the identity.

        Raises:
            ValueError: if U or its gradient is not finite at a position.
        """
        if self.uses_gradient:
            values, gradient = potential.value_and_grad(positions.detach())
        else:
            values, gradient = potential.value(positions.detach()), torch.zeros_like(positions)
        check_start(values, gradient)
        return new_state(potential, positions, values, gradient, streams, step_size, metric)

    @abstractmethod
    def advance(self, state: State) -> tuple[State, Finished | None]:
        """One evaluation of U for every chain; says which chains have completed a transition by it."""

    def first_step_size(self, state: State) -> Host | None:
        """Where step sizes start, (C,), for kernels that know better than `find_step_size`; None for others."""
        return None

    def step(self, state: State) -> tuple[State, dict[str, Host]]:
        """One whole transition of every chain; chains that are done early wait.

        Args:
            state: with every chain about to begin a transition.

        Returns:
            The new state, and the kernel's report, name -> (C,).
        """
        waiting = np.arange(state.chains)
        info: dict[str, Host] = {name: np.zeros(state.chains, kind) for name, kind in self.stats.items()}
        part = state
        while len(waiting):
            part, finished = self.advance(part)
            if finished is None:
                continue
            done = waiting[finished.rows]
            for name, values in finished.info.items():
                info[name][done] = values
            _put_rows(state, done, part, finished.rows)
            keep = np.setdiff1d(np.arange(len(waiting)), finished.rows)
            waiting = waiting[keep]
            part = part.select(keep)
        state.fresh[:] = True
        return state, info


def _put_rows(state: State, rows: Host, part: State, part_rows: Host) -> None:
    ix, part_ix = state.vectors.index(rows), state.vectors.index(part_rows)
    state.position[ix] = part.position[part_ix]
    state.gradient[ix] = part.gradient[part_ix]
    state.energy[rows] = part.energy[part_rows]


def draw_normal(state: State, rows: Host) -> Array:
    """Standard normal vectors (R, D) from the rows' own streams."""
    normal = np.empty((len(rows), state.position.shape[1]), state.vectors.host_dtype)
    for row, out in zip(rows.tolist(), normal, strict=True):
        state.streams[row].standard_normal(dtype=normal.dtype, out=out)
    return state.vectors.from_host(normal)


def draw_uniform(state: State, rows: Host) -> Host:
    """Uniform numbers in [0, 1), one for each row from its own stream."""
    return np.array([state.streams[row].random() for row in rows])


def evaluate(state: State, q: Array) -> tuple[Host, Array]:
    """U (C,) on the host as float64 and its gradient (C, D)."""
    values, gradient = state.vectors.evaluate(state.potential, q)
    return _finite_energy(values), gradient


def host_energy(state: State, values: Tensor) -> Host:
    """U as float64 on the host."""
    return _finite_energy(state.vectors.to_host(state.vectors.array(values)))


def _finite_energy(values: Host) -> Host:
    """U as float64; what is not finite, -inf too, counts as infinite energy, so it is never accepted."""
    host = values.astype(np.float64)
    finite = np.isfinite(host)
    if np.count_nonzero(finite) < len(host):
        host[~finite] = np.inf
    return host


def column(state: State, values: Host) -> Array:
    """Per-chain numbers as a (C, 1) column of vectors."""
    return state.vectors.from_host(values[:, None])


def integrate(state: State, path: Any, step: Array) -> Host:
    """A leapfrog step of every chain, as `leapfrog_step` but in place.

    Args:
        state: for the potential and the metric.
        path: with q, p and gradient, (C, D) each, which are moved on.
        step: signed step sizes, (C, 1).

    Returns:
        U at the new positions, (C,).
    """
    half = 0.5 * step
    path.p -= half * path.gradient
    # What U returns may share the memory of q: all of it has been read, or copied, before q moves on.
    path.q += step * state.metric.velocity(path.p)
    energy, path.gradient = evaluate(state, path.q)
    path.p -= half * path.gradient
    return energy


def kinetic(state: State, p: Array, rows: Host | None = None, velocity: Array | None = None) -> Host:
    """The kinetic energy p^T M^-1 p / 2 of each row, (R,); `velocity` is M^-1 p where it is known."""
    if velocity is None:
        velocity = state.metric.velocity(p, None if rows is None else state.vectors.index(rows))
    return 0.5 * state.vectors.rowdot(p, velocity)


def check_start(values: Tensor, gradient: Tensor) -> None:
    """Raise ValueError unless U and its gradient are finite at every initial position."""
    for name, tensor in (("potential", values[:, None]), ("gradient of the potential", gradient)):
        bad = (~torch.isfinite(tensor)).any(1)
        if bad.any():
            row = int(torch.nonzero(bad)[0])
            raise ValueError(
                f"the {name} must be finite at every initial position; received "
                f"{float(tensor[row][~torch.isfinite(tensor[row])][0])} for chain {row} ({int(bad.sum())} of "
                f"{len(bad)} chains). Start elsewhere, or check the model at this position."
            )
