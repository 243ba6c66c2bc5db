"""U and its gradient for all chains, by the compiled library."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hnbayes.potentials import evaluators
from hnbayes.potentials.dense.layers import Layer, find_layers
from hnbayes.potentials.dense.parts import Parts
from hnbayes.potentials.host import Arrays, HostFunction
from hnbayes.potentials.native import Point, PointArrays, library

# Of more parameters the products are those for which torch's BLAS, blocked for all caches and with threads within a
# product, was made.
LARGEST = 200_000
# As dense.c numbers them.
LOSSES = {"squares": 0, "categorical": 1, "bernoulli": 2}


def dense_function(parts: Parts, positions: Tensor) -> HostFunction | None:
    """(C, D) -> (gradients, values) of a dense network's posterior; None where that isn't what it is.

    Args:
        parts: of the potential.
        positions: a batch (C, D) like those to come.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Linear(1, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
        >>> X = torch.linspace(-1, 1, 10)[:, None]
        >>> U = hnbayes.nn_pot_energy(net, X, X, hnbayes.log_prob_standard_normal_prior)
        >>> function = hnbayes.potentials.dense.dense_function(U.parts, torch.zeros(2, U.spec.size))
        >>> function is None or function(torch.zeros(2, U.spec.size))[0].shape == (2, 13)  # None without a C compiler
        True
    """
    if positions.shape[1] > LARGEST or not _plain_data(parts, positions):
        return None
    layers = find_layers(parts.outputs, parts.inputs, positions[0].detach())
    if not layers or not _fits(parts, layers):
        return None
    double = positions.dtype == torch.float64
    if library(double) is None:
        return None
    dense = PointArrays(_dense_point(parts, layers, positions), double)
    arrays: Arrays | None = dense if parts.rest is None else _with_rest(dense, parts, positions)
    return None if arrays is None else HostFunction(arrays, True)


def _plain_data(parts: Parts, positions: Tensor) -> bool:
    """Whether C can read data and positions where they are."""
    inputs, targets = parts.inputs, parts.targets
    kinds = (torch.int64,) if parts.loss == "categorical" else (positions.dtype,)
    return (
        positions.dtype in (torch.float32, torch.float64)
        and inputs.dtype == positions.dtype
        and targets.dtype in kinds
        and all(
            type(t) is Tensor
            and t.device.type == "cpu"
            and t.layout == torch.strided
            and t.is_contiguous()
            and not t.requires_grad
            and not t.is_neg()
            for t in (inputs, targets)
        )
        and positions.device.type == "cpu"
    )


def _fits(parts: Parts, layers: list[Layer]) -> bool:
    """Whether the layers follow each other and give what the targets are compared with."""
    rows, units = len(parts.inputs), layers[-1].units
    widths = [parts.inputs.numel() // rows, *(layer.units for layer in layers)]
    if [layer.inputs for layer in layers] != widths[:-1]:
        return False
    wanted = rows if parts.loss == "categorical" else rows * units
    return parts.targets.numel() == wanted and len(parts.targets) == rows


class _Problem(ctypes.Structure):
    """`problem` of dense.c."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("net", "x", "y", "seen_x", "seen_y", "columns_x", "columns_y")),
        *((name, ctypes.c_void_p) for name in ("centre", "inverse")),
        *((name, ctypes.c_double) for name in ("factor", "constant")),
    )


def _dense_point(parts: Parts, layers: list[Layer], positions: Tensor) -> Point:
    """U and its gradient without what `parts.rest` adds, as a point.

    The data are looked up at each call, so what is changed in place is seen.
    """
    compiled = library(positions.dtype == torch.float64)
    if compiled is None:
        raise ValueError("there must be a library.")
    inputs, targets = parts.inputs, parts.targets
    numbers = [len(layers), len(inputs), layers[0].inputs, LOSSES[parts.loss], positions.shape[1]]
    for layer in layers:
        numbers += [layer.units, layer.activation, layer.weight, layer.bias]
    network = np.array(numbers, np.int64)
    normal: list[NDArray[Any]] = []
    if parts.normal is not None and parts.rest is None:
        moments = (parts.normal.mean, parts.normal.precision)
        normal = [t.detach().to(positions.dtype).contiguous().numpy() for t in moments]
    centre, inverse = [array.ctypes.data for array in normal] or (None, None)
    factor, constant = (parts.factor, parts.constant) if parts.rest is None else (1.0, 0.0)
    # Torch's memory begins at a cache line; a column has room for one line more than it needs.
    taken = [positions.new_zeros(0 if t.dtype == torch.int64 else t.numel()) for t in (inputs, targets)]
    columns = [positions.new_zeros(len(t) // len(inputs) * (len(inputs) // 16 + 2) * 16) for t in taken]
    memory = [t.data_ptr() for t in (*taken, *columns)]
    problem = _Problem(network.ctypes.data, None, None, *memory, centre, inverse, factor, constant)
    address = ctypes.addressof(problem)

    def context() -> int:
        problem.x, problem.y = inputs.data_ptr(), targets.data_ptr()
        compiled.dense_take(address)
        return address

    function = ctypes.cast(compiled.dense_point, ctypes.c_void_p).value
    if function is None:
        raise ValueError("dense_point must be in the library.")
    # A forward and two backward products, of a multiplication and an addition each.
    operations = 6 * len(inputs) * sum(layer.inputs * layer.units for layer in layers)
    keeps = (problem, network, normal, inputs, targets, taken, columns)
    return Point(function, context, compiled.dense_bytes(network.ctypes.data), operations, keeps)


def _with_rest(dense: PointArrays, parts: Parts, positions: Tensor) -> Arrays | None:
    """U and its gradient where the loss goes into a function of it and of other numbers; None if that isn't fast."""
    rest_of, start = parts.rest, parts.rest_from
    if rest_of is None:
        raise ValueError("there must be a rest.")
    _, losses = dense(positions.detach().numpy())

    def function(z: Tensor) -> Tensor:
        return rest_of(z[:-1], z[-1])

    arguments = torch.cat((positions.detach()[:, start:], torch.from_numpy(losses)[:, None]), 1)
    rest = evaluators.build(function, arguments, "auto", None)
    if rest.cause is not None:
        return None
    evaluate = rest.arrays or _Passage(rest)
    normal = parts.normal
    moments = None if normal is None else (normal.mean.numpy(), normal.precision.numpy())

    def arrays(q: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        gradients, losses = dense(q)
        slopes, values = evaluate(np.concatenate((q[:, start:], losses[:, None]), 1))
        with np.errstate(all="ignore"):
            gradients *= slopes[:, -1:]
            gradients[:, start:] += slopes[:, :-1]
            if moments is not None:
                mean, precision = moments
                z = q - mean
                force = precision * z
                gradients += force
                values = values + 0.5 * np.einsum("cd,cd->c", force, z)
        return gradients, values

    return arrays


class _Passage:
    """An evaluator of tensors, on arrays."""

    def __init__(self, evaluator: evaluators.Evaluator) -> None:
        self._evaluator = evaluator

    def __call__(self, q: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Gradients (C, D) and values (C,)."""
        values, gradients = self._evaluator.value_and_grad(torch.from_numpy(q))
        return gradients.numpy(), values.numpy()
