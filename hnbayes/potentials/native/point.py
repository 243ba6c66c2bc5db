"""Point: a compiled U and its gradient at one position."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hnbayes.potentials.native.compiler import library


@dataclass(frozen=True)
class Point:
    """A C function of the type `point` (see points.h), and what it needs.

    Attributes:
        function: its address.
        context: gives the address of its context; asked anew for each call, as tensors' memory may have moved.
        bytes: the memory that a thread needs for it.
        operations: about how many arithmetic operations a call takes.
        keeps: what must live as long as it is called.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Linear(1, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
        >>> X = torch.linspace(-1, 1, 10)[:, None]
        >>> U = hnbayes.nn_pot_energy(net, X, X, hnbayes.log_prob_standard_normal_prior)
        >>> q = torch.zeros(2, U.spec.size)
        >>> point = U.point(q.numpy()) if U.prepare(q) == "native" else None  # None without a C compiler
        >>> point is None or point.operations > 0
        True
    """

    function: int
    context: Callable[[], int]
    bytes: int
    operations: int
    keeps: Any = None


class PointArrays:
    """A point evaluated for all chains: (C, D) -> (gradients (C, D), values (C,)), on NumPy arrays.

    A chain's numbers depend neither on the other chains nor on how many threads share the work.

    Raises:
        ValueError: if there is no compiler.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Linear(1, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
        >>> X = torch.linspace(-1, 1, 10)[:, None]
        >>> U = hnbayes.nn_pot_energy(net, X, X, hnbayes.log_prob_standard_normal_prior)
        >>> q = torch.zeros(2, U.spec.size)
        >>> if U.prepare(q) == "native":
        ...     evaluate = hnbayes.potentials.native.PointArrays(U.point(q.numpy()), double=False)
        ...     gradients, values = evaluate(q.numpy())
        ...     assert gradients.shape == (2, 13)
    """

    def __init__(self, point: Point, double: bool) -> None:
        compiled = library(double)
        if compiled is None:
            raise ValueError("a point needs the compiled library.")
        self.point = point
        self._evaluate = compiled.evaluate_points

    def __call__(self, q: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Gradients (C, D) and values (C,)."""
        q = np.ascontiguousarray(q)
        gradients, values = np.empty_like(q), np.empty(len(q), q.dtype)
        point = self.point
        self._evaluate(
            *(point.function, point.context(), point.bytes, q.shape[1], len(q), threads_for(point, len(q))),
            *(q.ctypes.data, gradients.ctypes.data, values.ctypes.data),
        )
        return gradients, values


def threads_for(point: Point, chains: int) -> int:
    """How many threads to share chains among: one where the work is over before another thread has woken."""
    return 1 if point.operations * chains < WORTH_SHARING else torch.get_num_threads()


WORTH_SHARING = 50_000
