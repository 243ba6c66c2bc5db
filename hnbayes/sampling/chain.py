"""One Markov chain with its history, and how several of them advance in one batch.

`advance_together` runs any number of chains that share a potential and a kind of kernel; a single chain is the case
of one. The documented classes are in chains.py, `MultiChainHMC` in multichain.py.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from hnbayes._checks import check_choice, check_count, check_finite, check_fraction, describe
from hnbayes.kernels.adaptation import Adaptation, find_step_size
from hnbayes.kernels.arrays import Host, vectors_like
from hnbayes.kernels.kernel import Kernel, State, check_start, new_state
from hnbayes.kernels.metrics import Metric, as_metric, identity_metric
from hnbayes.potentials.base import Potential, as_potential
from hnbayes.rng import chain_streams, resolve_seed
from hnbayes.sampling.draws import Draws
from hnbayes.sampling.loop import run


class Chain(ABC):
    """A single Markov chain: position, history, and where it reports to."""

    def __init__(
        self,
        initial_position: Tensor,
        pot_energy_func: Callable[[Tensor], Tensor],
        scale: float,
        inv_mass: float | Tensor,
        logger: logging.Logger | None,
        log_interval: int,
        writer: Any,
        writer_tag: str,
        seed: int | None,
        chain: int,
    ) -> None:
        if not isinstance(initial_position, Tensor):
            raise TypeError(f"initial_position must be a tensor (D,); received {describe(initial_position)}.")
        if initial_position.ndim != 1 or len(initial_position) == 0:
            raise ValueError(
                f"initial_position must be a vector (D,); received shape {tuple(initial_position.shape)}. Flatten it."
            )
        if initial_position.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"initial_position must be float32 or float64; received {initial_position.dtype}.")
        check_finite("initial_position", initial_position)
        self._potential: Potential = as_potential(pot_energy_func, on_error="raise")
        self._position = initial_position.detach().clone()
        self._scale = scale
        as_metric(inv_mass, len(initial_position), vectors_like(initial_position))
        self._inv_mass = inv_mass.detach().clone() if isinstance(inv_mass, Tensor) else inv_mass
        self._logger = logger
        self._log_interval = check_count("log_interval", log_interval)
        self._writer = writer
        self._writer_tag = writer_tag
        self.chain = check_count("chain", chain, 0)
        self.seed = resolve_seed(seed)
        self._stream = chain_streams(self.seed, [self.chain])[0]
        # U and its gradient at the position, once they are known.
        self._known: tuple[Tensor, Tensor] | None = None
        self._trajectory = [self._position]
        # What was reported of each state in the trajectory; None for the initial position.
        self._reports: list[dict[str, Any] | None] = [None]
        self._num_states = 0
        self._acceptance = 0.0

    @abstractmethod
    def _kernel(self) -> Kernel:
        """The kernel as the chain is set at present."""

    @property
    def current_position(self) -> Tensor:
        """The latest position, shape (D,)."""
        return self._position

    @property
    def num_states(self) -> int:
        """How many states have been simulated; the initial position is not counted."""
        return self._num_states

    @property
    def position_trajectory(self) -> list[Tensor]:
        """All positions so far that were not cleared, (D,) each, the initial one first."""
        return self._trajectory

    @property
    def acceptance_probability(self) -> float:
        """The fraction of proposals accepted (for NUTS: the mean acceptance over trajectories); 1 at first."""
        return self._acceptance / self._num_states if self._num_states else 1.0

    def clear_position_trajectory(self, n: int | None = None) -> None:
        """Forget positions of the trajectory; `num_states` stays.

        Args:
            n: forget the first `n` only, such as warm-up; None forgets all.
        """
        if n is not None:
            check_count("n", n, 0)
        stop = len(self._trajectory) if n is None else n
        self._trajectory = self._trajectory[stop:]
        self._reports = self._reports[stop:]

    def simulate_chain(self, n: int) -> None:
        """Add `n` states to the chain.

        An interrupt (Ctrl-C) or an error of the potential is raised on; the states before it are kept.

        Args:
            n: number of states.
        """
        advance_together([self], check_count("n", n))

    def warm_up(
        self, n: int, target_accept: float | None = None, metric: Literal["diag", "dense", "unit"] = "diag"
    ) -> None:
        """Adapt step size and inverse mass over `n` states, which do not count and are not kept.

        The chain goes on from where the warm-up has led, with the step size and inverse mass that it found.

        Args:
            n: number of states; Stan's schedule wants some hundreds.
            target_accept: acceptance aimed at: 0.8, or 0.234 for MCMC, if None.
            metric: "diag" or "dense" adapt the inverse mass; "unit" leaves it.
        """
        warm_up_together([self], n, target_accept, metric)

    def to_draws(self) -> Draws:
        """The states of the trajectory (without the initial position) as `Draws` of one chain."""
        return gather_draws([self])

    def _append(self, position: Tensor, report: dict[str, Any]) -> None:
        self._position = position
        self._trajectory.append(position)
        self._reports.append(report)
        self._num_states += 1
        self._acceptance += float(report.get("accepted", report["acceptance_rate"]))
        if self._logger is not None and self._num_states % self._log_interval == 0:
            self._logger.info(
                "state %d: U = %.6g, acceptance %.3f", self._num_states, -report["lp"], self.acceptance_probability
            )
        if self._writer is not None:
            for name, value in report.items():
                self._writer.add_scalar(f"{self._writer_tag}{name}", float(value), self._num_states)


class _Histories:
    """A sink of the loop that appends to each chain's own history."""

    def __init__(self, chains: Sequence[Chain]) -> None:
        self.chains = chains

    def store(self, chains: Host, positions: Host, info: dict[str, Host]) -> None:
        """Append a state to some chains."""
        for row, number in enumerate(chains):
            chain = self.chains[number]
            position = torch.tensor(positions[row], device=chain._position.device)
            chain._append(position, {name: values[row] for name, values in info.items()})


def advance_together(chains: Sequence[Chain], n: int) -> None:
    """Add `n` states to chains that share a potential and a kind of kernel, in one batch."""
    kernel = chains[0]._kernel()
    state = _state(chains, kernel)
    for chain in chains:
        # If the run is cut short, the state may be ahead of the history, and what is known of it of no use.
        chain._known = None
    state, interrupted = run(kernel, state, warmup=0, draws=n, sink=_Histories(chains))
    if interrupted:
        raise KeyboardInterrupt
    _remember(chains, state)


def prepare_together(chains: Sequence[Chain]) -> None:
    """Evaluate the potential of chains that advance together once, so that its graph is there."""
    state = _state(chains, chains[0]._kernel())
    if chains[0]._kernel().uses_gradient:
        state.potential.value_and_grad(state.positions_tensor())
    else:
        state.potential.value(state.positions_tensor())


def warm_up_together(
    chains: Sequence[Chain], n: int, target_accept: float | None, metric: Literal["diag", "dense", "unit"]
) -> None:
    """Adapt each of several chains over `n` states, in one batch."""
    check_count("n", n, 20)
    check_choice("metric", metric, ("diag", "dense", "unit"))
    kernel = chains[0]._kernel()
    target = kernel.target_accept or 0.8
    if target_accept is not None:
        target = check_fraction("target_accept", target_accept)
    state = _state(chains, kernel)
    adapted: Literal["diag", "dense"] | None = None if metric == "unit" else metric
    if adapted is not None and kernel.uses_gradient:
        state.metric = identity_metric(adapted, len(chains), state.position.shape[1], state.vectors)
    else:
        adapted = None
    state.step_size[:] = find_step_size(kernel, state)
    adaptation = Adaptation(state, n, target, metric=adapted)
    state, interrupted = run(kernel, state, warmup=n, draws=0, sink=_Histories(chains), adaptation=adaptation)
    if interrupted:
        raise KeyboardInterrupt
    inverse = state.metric.host_inverse()
    for row, chain in enumerate(chains):
        chain._position = state.positions_tensor()[row].clone()
        chain._scale = float(state.step_size[row])
        if adapted is not None:
            chain._inv_mass = torch.tensor(inverse[row], device=chain._position.device)
        if chain._num_states == 0:
            chain._trajectory, chain._reports = [chain._position], [None]
    _remember(chains, state)


def gather_draws(chains: Sequence[Chain]) -> Draws:
    """The reported states of several chains as `Draws`, of each the last as many as the shortest has.

    Raises:
        ValueError: if a chain has no states.
    """
    histories = [
        [(position, report) for position, report in zip(chain._trajectory, chain._reports, strict=True) if report]
        for chain in chains
    ]
    shortest = min(map(len, histories))
    if shortest == 0:
        raise ValueError("every chain must hold states; received one without. Call simulate_chain(n) first.")
    histories = [history[-shortest:] for history in histories]
    positions = torch.stack([torch.stack([position for position, _ in history]) for history in histories])
    stats = {
        name: torch.from_numpy(np.array([[report[name] for _, report in history] for history in histories], dtype=kind))
        for name, kind in chains[0]._kernel().stats.items()
    }
    inverses = [torch.tensor(_metric([chain]).host_inverse()[0]) for chain in chains]
    dimension = positions.shape[-1]
    if any(inverse.ndim == 2 for inverse in inverses):
        inverses = [m if m.ndim == 2 else torch.diag(m.expand(dimension)) for m in inverses]
    else:
        inverses = [m.expand(dimension) for m in inverses]
    return Draws(
        positions=positions.cpu(),
        stats=stats,
        step_size=torch.tensor([chain._scale for chain in chains], dtype=torch.float64),
        inverse_metric=torch.stack(inverses),
        spec=chains[0]._potential.spec,
        metadata={"kernel": type(chains[0]).__name__, "seed": chains[0].seed, "draws": shortest, "warmup": 0},
    )


def _metric(chains: Sequence[Chain]) -> Metric:
    """The metrics of chains of one kind (diagonal or dense) as one."""
    dimension = len(chains[0]._position)
    vectors = vectors_like(chains[0]._position)
    inverses = [as_metric(chain._inv_mass, dimension, vectors) for chain in chains]
    host = [metric.host_inverse()[0] for metric in inverses]
    shape = np.broadcast_shapes(*(h.shape for h in host))
    return type(inverses[0])(vectors, np.stack([np.broadcast_to(h, shape) for h in host]))


def _state(chains: Sequence[Chain], kernel: Kernel) -> State:
    """The chains as one state, with what is known of their positions."""
    positions = torch.stack([chain._position for chain in chains])
    known = [chain._known for chain in chains]
    potential = chains[0]._potential
    if any(entry is None for entry in known):
        if kernel.uses_gradient:
            values, gradient = potential.value_and_grad(positions)
        else:
            values, gradient = potential.value(positions), torch.zeros_like(positions)
        check_start(values, gradient)
    else:
        values, gradient = (torch.stack(parts) for parts in zip(*known, strict=True))
    scales = np.array([chain._scale for chain in chains])
    streams = [chain._stream for chain in chains]
    return new_state(potential, positions, values, gradient, streams, scales, _metric(chains))


def _remember(chains: Sequence[Chain], state: State) -> None:
    gradient = state.vectors.tensor(state.gradient)
    for row, chain in enumerate(chains):
        chain._known = (torch.tensor(state.energy[row]), gradient[row].clone())


def same_batch(chain: Chain) -> tuple[Any, ...]:
    """A key that is equal for chains that may advance in one batch."""
    kernel = chain._kernel()
    dense = isinstance(chain._inv_mass, Tensor) and chain._inv_mass.ndim == 2
    settings = tuple(sorted((k, v) for k, v in vars(kernel).items() if not k.startswith("_") and v is not None))
    return (
        id(chain._potential),
        type(chain),
        settings,
        dense,
        len(chain._position),
        chain._position.dtype,
        chain._position.device,
    )
