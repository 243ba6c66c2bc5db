"""Growth: the leaves of NUTS's trees by compiled C, where U and its gradient are compiled C too.

Between a subtree's beginning and its end NUTS takes leapfrog steps, weighs leaves and looks for U-turns of nested
subtrees. Where a gradient takes microseconds, Python's share of that would be most of the time. All decisions that
draw random numbers stay in nuts.py; those for a subtree's leaves have been drawn when it begins.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import torch

from hnbayes.kernels.arrays import Host, HostVectors
from hnbayes.kernels.kernel import State
from hnbayes.kernels.metrics import DiagonalMetric
from hnbayes.potentials.native import Point, library
from hnbayes.potentials.native.point import WORTH_SHARING

# Operations that a chain may take in one call: about a millisecond, so that an interrupt doesn't wait, and chains with
# small trees don't wait long for those with large ones.
OPERATIONS = 25_000_000
MOST_LEAVES = 1_024

VECTORS = ("q", "p", "gradient", "candidate_q", "candidate_gradient", "first_q", "first_p", "step")
NUMBERS = ("candidate_energy", "candidate_hamiltonian", "subtree_log_weight", "accept_sum", "lowest", "highest")
COUNTS = ("leaf", "size", "right")


class _Growth(ctypes.Structure):
    """`growth` of trees.c."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("at", "context")),
        *((name, ctypes.c_int64) for name in ("bytes", "operations", "chains", "dimension", "slots")),
        *((name, ctypes.c_int64) for name in ("inverse_row", "inverse_step", "exponentials_row", "most", "threads")),
        ("delta_max", ctypes.c_double),
        *((name, ctypes.c_void_p) for name in (*VECTORS, "inverse", *NUMBERS, "start", "exponentials", *COUNTS)),
        *((name, ctypes.c_void_p) for name in ("turning", "diverging")),
    )


class Growth:
    """Grows the subtrees of one batch of trees.

    Args:
        state: whose potential is a point, whose metric is diagonal, and whose trees have begun.
        point: the potential's.
        delta_max: energy error above which a leaf is divergent.

    Raises:
        ValueError: if there is no compiler.
    """

    def __init__(self, state: State, point: Point, delta_max: float) -> None:
        self.tree, self.point = state.path, point
        chains, dimension = state.position.shape
        compiled = library(state.position.dtype == np.float64)
        if compiled is None:
            raise ValueError("growth needs the compiled library.")
        self._grow = compiled.grow_trees
        self.turning, self.diverging = np.zeros(chains, bool), np.zeros(chains, bool)
        most = min(max(OPERATIONS // max(point.operations, 1), 1), MOST_LEAVES)
        self._record = _Growth(
            at=point.function,
            bytes=point.bytes,
            operations=point.operations,
            chains=chains,
            dimension=dimension,
            slots=self.tree.first_q.shape[1],
            most=most,
            delta_max=delta_max,
            turning=self.turning.ctypes.data,
            diverging=self.diverging.ctypes.data,
        )
        self._address = ctypes.addressof(self._record)
        self._known: dict[str, Any] = {}

    def fits(self, state: State, point: Point) -> bool:
        """Whether it was made for these trees."""
        return self.tree is state.path and self.point is point

    def grow(self, state: State) -> tuple[Host, Host]:
        """Grow each subtree until it is complete, makes a U-turn, diverges, or has as many new leaves as a call takes.

        Returns:
            Whether its last leaf closes a subtree that makes a U-turn, and whether it is divergent, (C,) each.
        """
        record, tree = self._record, self.tree
        record.context, record.threads = self.point.context(), torch.get_num_threads()
        for name in (*VECTORS, *NUMBERS, "start", "exponentials", *COUNTS):
            self._look(name, getattr(tree, name))
        inverse = state.metric.inverse
        if self._look("inverse", inverse):
            size = inverse.itemsize
            rows, columns = inverse.shape
            record.inverse_row = inverse.strides[0] // size if rows > 1 else 0
            record.inverse_step = inverse.strides[1] // size if columns > 1 else 0
        record.exponentials_row = tree.exponentials.shape[1]
        self._grow(self._address, WORTH_SHARING)
        return self.turning.copy(), self.diverging.copy()

    def _look(self, name: str, array: Any) -> bool:
        """Take an array's address, if it isn't the one that was there before."""
        if self._known.get(name) is array:
            return False
        self._known[name] = array
        setattr(self._record, name, array.ctypes.data)
        return True


def point_of(state: State) -> Point | None:
    """The potential of a state as a point, where leaves can be grown by compiled C."""
    if not isinstance(state.vectors, HostVectors) or not isinstance(state.metric, DiagonalMetric):
        return None
    return state.potential.point(state.position)
