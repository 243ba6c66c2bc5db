"""U and its gradient of any captured potential, by compiled C."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hnbayes.potentials.gradients import with_gradient
from hnbayes.potentials.graph import simplify
from hnbayes.potentials.host import HostFunction
from hnbayes.potentials.native import Point, PointArrays, compiled, library
from hnbayes.potentials.tracing import traced
from hnbayes.potentials.translated.operations import DECOMPOSED
from hnbayes.potentials.translated.translation import NAME, Program, translate

# Fewer evaluations don't repay a compiler's half second.
WORTH_COMPILING = 2_000
# Of more arithmetic operations than these dispatch is a small part.
MOST_OPERATIONS = 20_000_000
# Half of the compiler's time, and code as fast.
FLAGS = ("-O2", "-ftree-vectorize")


def translated_function(
    function: Callable[[Tensor], Tensor], fold_data: bool, positions: Tensor
) -> HostFunction | None:
    """(C, D) -> (gradients, values) of a potential, in C; None where it can't be written, or nothing is gained.

    Args:
        function: U.
        fold_data: whether C may hold what it needs of the data, not the data themselves.
        positions: a batch (C, D) like those to come.

    Raises:
        UntranslatableError: if C has no counterpart of what it does.

    Example:
        >>> from hnbayes.potentials.translated import translated_function
        >>> function = translated_function(lambda q: 0.5 * q.square().sum(), False, torch.zeros(2, 3))
        >>> gradients = torch.ones(2, 3) if function is None else function(torch.ones(2, 3))[0]  # None: no C compiler
        >>> gradients
        tensor([[1., 1., 1.],
                [1., 1., 1.]])
    """
    dtype = positions.dtype
    if positions.device.type != "cpu" or dtype not in (torch.float32, torch.float64):
        return None
    double = dtype == torch.float64
    if library(double) is None:
        return None
    graph = traced(with_gradient(function), positions[0].detach(), decomposed=DECOMPOSED)
    program = translate(simplify(graph, fold_data), dtype, fold_data)
    if program.operations > MOST_OPERATIONS:
        return None
    point = _point(program, double)
    return None if point is None else HostFunction(PointArrays(point, double), True)


def _point(program: Program, double: bool) -> Point | None:
    built = compiled(program.source, double, FLAGS)
    if built is None:
        return None
    constants = program.constants
    context = np.array([tensor.data_ptr() for tensor in constants] + [0], np.uint64)
    address = context.ctypes.data
    data = [(at, constants[at], constants[at].shape, constants[at].stride()) for at in program.data]

    def current() -> int:
        for at, tensor, shape, strides in data:
            if tensor.shape != shape or tensor.stride() != strides:
                raise ValueError(
                    f"data must keep their layout, shape {tuple(shape)} and strides {strides}; received "
                    f"{tuple(tensor.shape)} and {tensor.stride()}. Call the potential's reset() after such changes."
                )
            context[at] = tensor.data_ptr()
        return address

    entry = ctypes.cast(getattr(built, NAME), ctypes.c_void_p).value
    if entry is None:
        raise ValueError(f"{NAME} must be in the library.")
    keeps: Any = (built, context, constants)
    return Point(entry, current, program.bytes, program.operations, keeps)
