"""Isolation: a chain whose potential raises an error is dropped, and the others go on as if it had stayed."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hnbayes._checks import first_line
from hnbayes.kernels.kernel import State
from hnbayes.potentials.base import Potential
from hnbayes.potentials.sequential import out_of_memory
from hnbayes.sampling.callbacks import StopSampling
from hnbayes.sampling.loop import Progress
from hnbayes.sampling.verdict import first_numbers, warn

Found = TypeVar("Found")


class Isolated(Potential):
    """A potential that never raises: rows for which the inner one does are NaN, and their errors are kept.

    Args:
        inner: U.

    Attributes:
        errors: row of the last batches -> what it raised.
    """

    def __init__(self, inner: Potential) -> None:
        super().__init__(
            inner.function, spec=inner.spec, dtype=inner.dtype, compile=inner.compile, on_error=inner.on_error
        )
        self.inner = inner
        self.errors: dict[int, Exception] = {}

    def prepare(self, positions: Tensor, evaluations: int | None = None) -> str:
        """See `Potential`."""
        return self.inner.prepare(positions, evaluations)

    def evaluates_arrays(self, positions: Tensor) -> bool:
        """See `Potential`."""
        return self.inner.evaluates_arrays(positions)

    def value_and_grad(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """U and its gradient, NaN for rows that raise an error."""
        try:
            return self.inner.value_and_grad(positions)
        except Exception as error:
            self._refuse_others(error)
        found = self._each_row(self.inner.value_and_grad, positions)
        values = torch.full(positions.shape[:1], torch.nan, dtype=positions.dtype, device=positions.device)
        gradients = torch.full_like(positions, torch.nan)
        for row, (value, gradient) in found.items():
            values[row], gradients[row] = value[0], gradient[0]
        return values, gradients

    def value_and_grad_arrays(self, positions: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """The same for NumPy arrays."""
        try:
            return self.inner.value_and_grad_arrays(positions)
        except Exception as error:
            self._refuse_others(error)
        values, gradients = self.value_and_grad(torch.from_numpy(positions))
        return values.numpy(), gradients.numpy()

    def value(self, positions: Tensor) -> Tensor:
        """U, NaN for rows that raise an error."""
        try:
            return self.inner.value(positions)
        except Exception as error:
            self._refuse_others(error)
        values = torch.full(positions.shape[:1], torch.nan, dtype=positions.dtype, device=positions.device)
        for row, value in self._each_row(self.inner.value, positions).items():
            values[row] = value[0]
        return values

    def _each_row(self, evaluate: Callable[[Tensor], Found], positions: Tensor) -> dict[int, Found]:
        """What a function gives for each row alone, without those that raise; their errors are kept."""
        found = {}
        for row in range(len(positions)):
            try:
                found[row] = evaluate(positions[row : row + 1])
            except Exception as error:
                self._refuse_others(error)
                self.errors[row] = error
        return found

    def _refuse_others(self, error: Exception) -> None:
        """Raise what is no fault of a chain."""
        if isinstance(error, (StopSampling, MemoryError)) or out_of_memory(error):
            raise error


def without_bad_starts(
    U: Isolated, positions: Tensor, chain_ids: list[int], gradient: bool
) -> tuple[Tensor, list[int], tuple[int, ...]]:
    """The chains that can begin: U, and its gradient, are finite there.

    Args:
        U: the potential.
        positions: (C, D).
        chain_ids: numbers of the chains.
        gradient: whether the gradient is needed.

    Returns:
        Positions and numbers of these chains, and the numbers of the others.

    Raises:
        ValueError: if there are none.
    """
    bad: dict[int, str] = {}
    for row in range(len(positions)):
        batch = positions[row : row + 1].detach()
        values, slopes = U.value_and_grad(batch) if gradient else (U.value(batch), batch)
        if 0 in U.errors:
            bad[row] = _told(U.errors.pop(0))
        elif not bool(torch.isfinite(values).all() and torch.isfinite(slopes).all()):
            bad[row] = "U or its gradient is not finite."
    for row, reason in bad.items():
        warn(f"chain {chain_ids[row]} was dropped where it starts: {reason}")
    good = [row for row in range(len(positions)) if row not in bad]
    if not good:
        raise ValueError(f"at least one chain must be able to begin; the first can't: {bad[0]} Start elsewhere.")
    if not bad:
        return positions, chain_ids, ()
    return positions[good], [chain_ids[row] for row in good], tuple(chain_ids[row] for row in bad)


def drop_failed(progress: Progress, total: int) -> bool:
    """Drop chains whose potential has raised an error in the last evaluation; each is warned of.

    A dropped chain's row goes on as a copy of another's, so that the batch, and with it the rounding of the others,
    stays as it was.

    Args:
        progress: changed.
        total: transitions of a chain.

    Returns:
        Whether there were any.

    Raises:
        Exception: that of the last chain, if no chain is left.
    """
    state = progress.state
    U = state.potential
    if not isinstance(U, Isolated) or not U.errors:
        return False
    errors = dict(U.errors)
    U.errors.clear()
    healthy = [row for row in range(state.chains) if row not in errors]
    for row, error in errors.items():
        chain = int(progress.chains[row])
        if progress.going_on(total)[chain]:
            progress.dropped[chain] = _told(error)
            # Where it was: the last completed draw, not what has failed.
            progress.keep(np.array([chain]), np.array([row]))
            _report(progress, chain)
    if len(progress.dropped) == len(progress.done):
        raise next(iter(errors.values()))
    if healthy:  # otherwise all others have ended before
        for row in errors:
            _copy_row(state, healthy[0], row)
    return True


def _report(progress: Progress, chain: int) -> None:
    """Warn of a chain that was dropped, with its last state."""
    final = progress.final
    position = final.vectors.to_host(final.position[chain : chain + 1])[0]
    warn(
        f"chain {progress.number(chain)} was dropped after {progress.done[chain]} transitions: "
        f"{progress.dropped[chain]} Its last state: U = {final.energy[chain]:.6g}, "
        f"step size {final.step_size[chain]:.3g}, |q| = {np.linalg.norm(position):.4g}, "
        f"q = ({first_numbers(position)}). The other chains go on."
    )


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error) or 'without a message'}."


def _copy_row(state: State, source: int, target: int) -> None:
    """Make a row of a state a copy of another, with a stream of its own."""
    chains = state.chains
    for record in (state, state.path):
        for entry in dataclasses.fields(record) if record is not None else ():
            values = getattr(record, entry.name)
            if isinstance(values, (np.ndarray, Tensor)) and len(values) == chains:
                values[target] = values[source]
    inverse = state.metric.host_inverse()
    if len(inverse) == chains:
        state.metric.replace_rows(np.array([target]), inverse[source][None])
    state.streams[target] = copy.deepcopy(state.streams[source])
