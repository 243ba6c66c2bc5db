"""Agreement: whether one way to evaluate U gives the numbers of another, or why it gives none."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from hnbayes._checks import brief
from hnbayes.potentials.sequential import Function, out_of_memory, sequential_value, sequential_value_and_grad

BatchFunction = Callable[[Tensor], Any]
ANOTHER_VALUE = (
    "vmap gives another value than the function alone (does it draw random numbers or change its own state?)"
)


def agree(graph: BatchFunction, vectorised: BatchFunction, positions: Tensor) -> bool:
    """Whether a graph gives the same numbers as the function it came from, at two batches."""
    for batch in (positions, nudged(positions)):
        with torch.no_grad(), quietly():
            expected, received = vectorised(batch), graph(batch)
        if not all_close(received, expected):
            return False
    return True


def why_no_values(vectorised: BatchFunction, function: Function, positions: Tensor) -> str | None:
    """Why vectorised values can't be used, or None if they agree with the sequential ones."""
    try:
        with torch.no_grad(), quietly():
            values = vectorised(positions)
        reference, _ = sequential_value(function, positions[:1])
    except Exception as error:  # whatever stops vmap, the sequential way has worked
        if isinstance(error, RuntimeError) and out_of_memory(error):
            raise
        return brief(error)
    return None if _close(values[:1], reference) else ANOTHER_VALUE


def why_no_gradients(vectorised: BatchFunction, function: Function, positions: Tensor) -> str | None:
    """Why a vectorised gradient can't be used, or None if it agrees with the sequential one at two points."""
    for batch, row in ((positions, 0), (nudged(positions), len(positions) - 1)):
        try:
            with quietly():
                gradients, values = vectorised(batch)
            value, gradient = sequential_value_and_grad(function, batch[row : row + 1])
        except Exception as error:  # functorch raises many kinds; the sequential way above has worked
            if isinstance(error, RuntimeError) and out_of_memory(error):
                raise
            return brief(error)
        if not (_close(values[row : row + 1], value) and _close(gradients[row : row + 1], gradient)):
            return ANOTHER_VALUE
    return None


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without torch's remarks on what it has no batched form of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def nudged(positions: Tensor) -> Tensor:
    """A batch near another."""
    nudge = 0.01 * torch.sin(torch.arange(positions.numel(), device=positions.device, dtype=positions.dtype))
    return positions + nudge.view_as(positions)


def _close(received: Tensor, expected: Tensor, tolerance: float | None = None) -> bool:
    """Equal up to rounding: 1e-3 of the largest entry in float32, 1e-8 in float64; NaN matches NaN."""
    if tolerance is None:
        tolerance = 1e-8 if expected.dtype == torch.float64 else 1e-3
    finite = expected[torch.isfinite(expected)]
    scale = float(finite.abs().max()) if finite.numel() else 1.0
    return torch.allclose(received, expected, rtol=tolerance, atol=tolerance * scale, equal_nan=True)


def all_close(received: Any, expected: Any, tolerance: float | None = None) -> bool:
    """`_close` for values alone or for (gradients, values)."""
    if isinstance(expected, Tensor):
        return _close(received, expected, tolerance)
    return all(_close(a, b, tolerance) for a, b in zip(received, expected, strict=True))
