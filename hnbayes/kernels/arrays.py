"""Where the vectors of a kernel live: NumPy views of CPU memory, or tensors on an accelerator.

Kernels keep per-chain numbers (energies, weights, depths) as NumPy float64 on the host and vectors of D numbers in
`Vectors`. On a CPU a NumPy operation on such small arrays costs a fifth of the torch call, so CPU tensors are used
through NumPy views of the same memory; elsewhere vectors stay tensors. Both kinds share arithmetic and indexing, so
kernels need only the few methods here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hnbayes.potentials.base import Potential

Host = NDArray[Any]
# A NumPy array on the CPU or a tensor elsewhere; typing both at once would make every kernel line a union.
Array = Any
FEW_ROWS = 16
HAS_VECDOT = hasattr(np, "vecdot")  # since NumPy 2.0


class HostVectors:
    """Vectors as NumPy arrays that share memory with CPU tensors.

    Attributes:
        dtype: of the vectors.
        host_dtype: what NumPy calls it.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = self.host_dtype = host_dtype_of(dtype)

    def array(self, tensor: Tensor) -> Array:
        """The vectors of a tensor, sharing its memory."""
        return tensor.detach().numpy() if tensor.requires_grad else tensor.numpy()

    def tensor(self, array: Array) -> Tensor:
        """The tensor of some vectors, sharing their memory."""
        return torch.from_numpy(array)

    def evaluate(self, potential: Potential, array: Array) -> tuple[Host, Array]:
        """U of each vector, on the host, and its gradient."""
        return potential.value_and_grad_arrays(array)

    def zeros(self, *shape: int) -> Array:
        """Zeros of the vectors' dtype."""
        return np.zeros(shape, self.dtype)

    def from_host(self, values: Host) -> Array:
        """Host numbers in the vectors' dtype."""
        return values.astype(self.dtype)

    def to_host(self, array: Array) -> Host:
        """Vectors as host numbers."""
        return np.asarray(array)

    def index(self, rows: Host) -> Any:
        """Row numbers in the form that indexes vectors."""
        return rows

    def rowdot(self, a: Array, b: Array) -> Host:
        """The dot product of each row, (R, D) x (R, D) -> (R,), on the host."""
        # BLAS's dot product of each row, at less than half of einsum's cost; so is a product of (1, D) with (D, 1).
        if HAS_VECDOT:
            return np.vecdot(a, b)
        return np.matmul(a[:, None, :], b[:, :, None])[:, 0, 0]

    def rowdots(self, a: Array, *others: Array) -> list[Host]:
        """The dot products of each row with those of several arrays, (R,) for each array."""
        return [self.rowdot(a, b) for b in others]

    def copy_rows(self, source: Array, target: Array, rows: Host) -> None:
        """Copy some rows of one (C, D) array to another."""
        if len(rows) > FEW_ROWS:
            target[rows] = source[rows]
            return
        for row in rows.tolist():  # without the two passes and the temporary array of the above
            target[row] = source[row]


class DeviceVectors:
    """Vectors as tensors on any device.

    The host waits for the device in `to_host` only, through which all that is read goes. What is sent doesn't wait on a
    CUDA device: it leaves from pinned memory.

    Attributes:
        dtype: of the vectors.
        host_dtype: what NumPy calls it.
        device: where they are.
    """

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self.dtype = dtype
        self.host_dtype = host_dtype_of(dtype)
        self.device = device

    def array(self, tensor: Tensor) -> Array:
        """The tensor itself, without a graph."""
        return tensor.detach()

    def tensor(self, array: Array) -> Tensor:
        """The tensor itself."""
        return array

    def evaluate(self, potential: Potential, array: Array) -> tuple[Host, Array]:
        """U of each vector, on the host, and its gradient."""
        values, gradient = potential.value_and_grad(array)
        return self.to_host(values.detach()), gradient.detach()

    def zeros(self, *shape: int) -> Array:
        """Zeros of the vectors' dtype, on their device."""
        return torch.zeros(shape, dtype=self.dtype, device=self.device)

    def from_host(self, values: Host) -> Array:
        """Host numbers in the vectors' dtype, on their device."""
        return self._send(torch.as_tensor(values).to(self.dtype))

    def to_host(self, array: Array) -> Host:
        """Vectors as host numbers; waits for the device."""
        return array.cpu().numpy()

    def index(self, rows: Host) -> Any:
        """Row numbers in the form that indexes vectors."""
        return self._send(torch.as_tensor(rows))

    def rowdot(self, a: Array, b: Array) -> Host:
        """The dot product of each row, (R, D) x (R, D) -> (R,), on the host."""
        return self.to_host((a * b).sum(-1))

    def rowdots(self, a: Array, *others: Array) -> list[Host]:
        """The dot products of each row with those of several arrays, (R,) for each array, read at once."""
        return list(self.to_host(torch.stack([(a * b).sum(-1) for b in others])))

    def copy_rows(self, source: Array, target: Array, rows: Host) -> None:
        """Copy some rows of one (C, D) array to another."""
        ix = self.index(rows)
        target[ix] = source[ix]

    def _send(self, tensor: Tensor) -> Tensor:
        """A tensor of the host on the device."""
        if self.device.type != "cuda":
            return tensor.to(self.device)
        return tensor.pin_memory().to(self.device, non_blocking=True)


Vectors = HostVectors | DeviceVectors


def host_dtype_of(dtype: torch.dtype) -> np.dtype[Any]:
    """NumPy's dtype of the same numbers."""
    return np.dtype(str(dtype).removeprefix("torch."))


def vectors_like(positions: Tensor) -> Vectors:
    """The fitting kind of vectors for positions of a dtype on a device."""
    if positions.device.type == "cpu":
        return HostVectors(positions.dtype)
    return DeviceVectors(positions.dtype, positions.device)
