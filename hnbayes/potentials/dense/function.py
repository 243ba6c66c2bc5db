"""U and its gradient for all chains, by the compiled library."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hnbayes.potentials import evaluators
from hnbayes.potentials.dense.layers import Layer, find_layers
from hnbayes.potentials.dense.library import library
from hnbayes.potentials.dense.parts import Parts
from hnbayes.potentials.host import Arrays, HostFunction

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
    """
    if positions.shape[1] > LARGEST or not _plain_data(parts, positions):
        return None
    layers = find_layers(parts.outputs, parts.inputs, positions[0].detach())
    if not layers or not _fits(parts, layers):
        return None
    compiled = library(positions.dtype == torch.float64)
    if compiled is None:
        return None
    dense = _DenseArrays(compiled, parts, layers, positions)
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


class _DenseArrays:
    """U and its gradient without what `parts.rest` adds, on NumPy arrays.

    The data's memory is looked up at each call, so what is changed in place is seen.
    """

    def __init__(self, compiled: Any, parts: Parts, layers: list[Layer], positions: Tensor) -> None:
        self._evaluate = compiled.dense_value_and_gradient
        self._inputs, self._targets = parts.inputs, parts.targets
        self._factor, self._constant = (parts.factor, parts.constant) if parts.rest is None else (1.0, 0.0)
        dimension = positions.shape[1]
        numbers = [len(layers), len(parts.inputs), layers[0].inputs, LOSSES[parts.loss], dimension]
        for layer in layers:
            numbers += [layer.units, layer.activation, layer.weight, layer.bias]
        self._network = np.array(numbers, np.int64)
        self._normal: tuple[Any, ...] = (None, None)
        if parts.normal is not None and parts.rest is None:
            moments = (parts.normal.mean, parts.normal.precision)
            self._normal = tuple(t.detach().to(positions.dtype).contiguous().numpy() for t in moments)
        self._addresses = [None if array is None else array.ctypes.data for array in (self._network, *self._normal)]

    def __call__(self, q: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Gradients (C, D) and values (C,)."""
        q = np.ascontiguousarray(q)
        gradients, values = np.empty_like(q), np.empty(len(q), q.dtype)
        network, centre, inverse = self._addresses
        self._evaluate(
            *(network, self._inputs.data_ptr(), self._targets.data_ptr(), centre, inverse),
            *(self._factor, self._constant, len(q), torch.get_num_threads()),
            *(q.ctypes.data, gradients.ctypes.data, values.ctypes.data),
        )
        return gradients, values


def _with_rest(dense: _DenseArrays, parts: Parts, positions: Tensor) -> Arrays | None:
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
