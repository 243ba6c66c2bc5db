"""The metric (mass matrix) as an object: no kernel asks whether it is scalar, diagonal or dense.

A metric holds the inverse mass matrix M^-1 of each chain, or one for all of them, as an array with a leading
dimension of C or 1. At its best M^-1 is the covariance of the posterior.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from torch import Tensor

from hnbayes._checks import describe
from hnbayes.kernels.arrays import Array, Host, Vectors

SYMMETRY_TOLERANCE = 1e-5  # relative; float32 matrices computed from draws are no more symmetric than this


class Metric(ABC):
    """M^-1 of each chain and what kernels need of it. `ix` chooses rows; None means all chains in order."""

    def __init__(self, vectors: Vectors, inverse: Host) -> None:
        self.vectors = vectors
        self._load(inverse)

    @abstractmethod
    def _load(self, inverse: Host) -> None:
        """Take inverse mass matrices, and what follows from them, to the vectors' device."""

    @abstractmethod
    def velocity(self, p: Array, ix: Any = None) -> Array:
        """M^-1 p, shape (R, D)."""

    @abstractmethod
    def momentum(self, z: Array, ix: Any = None) -> Array:
        """M^(1/2) z: a draw of N(0, M) from standard normal z, shape (R, D)."""

    @abstractmethod
    def displacement(self, z: Array, ix: Any = None) -> Array:
        """M^(-1/2) z: a draw of N(0, M^-1) from standard normal z, shape (R, D)."""

    def pullback(self, gradient: Array, ix: Any = None) -> Array:
        """Gradients with respect to z, where q = M^(-1/2) z as `displacement` has it, shape (R, D).

        Raises:
            NotImplementedError: unless the metric is diagonal or dense, as microcanonical kernels need it.
        """
        raise NotImplementedError(f"a {type(self).__name__} has no pullback; use a diagonal or dense metric.")

    @property
    @abstractmethod
    def inverse(self) -> Array:
        """M^-1, shape (C or 1, ...)."""

    def host_inverse(self) -> Host:
        """M^-1 as a NumPy array."""
        return self.vectors.to_host(self.inverse)

    def replace_rows(self, rows: Host, inverse: Host) -> None:
        """Give some chains a new M^-1, shape (R, ...); the metric must have one row a chain."""
        updated = self.host_inverse().copy()
        updated[rows] = inverse
        self._load(updated)

    def select(self, rows: Host) -> Metric:
        """The metric of some of the chains."""
        inverse = self.host_inverse()
        return type(self)(self.vectors, inverse if len(inverse) == 1 else inverse[rows])

    def _rounded(self, inverse: Host) -> Host:
        """An inverse as the vectors' dtype holds it."""
        return inverse.astype(self.vectors.host_dtype)

    @staticmethod
    def _rows(array: Array, ix: Any) -> Array:
        return array if ix is None or len(array) == 1 else array[ix]


class DiagonalMetric(Metric):
    """A diagonal mass matrix; a scalar one is the case of a single column."""

    def _load(self, inverse: Host) -> None:
        # The root is that of the rounded inverse, so that a metric can be made again of what it holds.
        self._inverse = self.vectors.from_host(inverse)
        self._root = self.vectors.from_host(np.sqrt(self._rounded(inverse)))

    @property
    def inverse(self) -> Array:
        """The diagonal of M^-1, shape (C or 1, D or 1)."""
        return self._inverse

    def velocity(self, p: Array, ix: Any = None) -> Array:
        """M^-1 p, shape (R, D)."""
        return self._rows(self._inverse, ix) * p

    def momentum(self, z: Array, ix: Any = None) -> Array:
        """M^(1/2) z, shape (R, D)."""
        return z / self._rows(self._root, ix)

    def displacement(self, z: Array, ix: Any = None) -> Array:
        """M^(-1/2) z, shape (R, D)."""
        return z * self._rows(self._root, ix)

    def pullback(self, gradient: Array, ix: Any = None) -> Array:
        """M^(-1/2) times the gradient, shape (R, D)."""
        return gradient * self._rows(self._root, ix)


class DenseMetric(Metric):
    """A full mass matrix, through the Cholesky factor L of M^-1 = L L^T."""

    def _load(self, inverse: Host) -> None:
        self._inverse = self.vectors.from_host(inverse)
        lower = np.linalg.cholesky(self._rounded(inverse).astype(np.float64))
        identity = np.broadcast_to(np.eye(inverse.shape[-1]), lower.shape)
        self._lower = self.vectors.from_host(lower)
        self._root_mass = self.vectors.from_host(np.linalg.solve(np.swapaxes(lower, -1, -2), identity))

    @property
    def inverse(self) -> Array:
        """M^-1, shape (C or 1, D, D)."""
        return self._inverse

    def velocity(self, p: Array, ix: Any = None) -> Array:
        """M^-1 p, shape (R, D)."""
        return (self._rows(self._inverse, ix) @ p[..., None])[..., 0]

    def momentum(self, z: Array, ix: Any = None) -> Array:
        """L^-T z, shape (R, D)."""
        return (self._rows(self._root_mass, ix) @ z[..., None])[..., 0]

    def displacement(self, z: Array, ix: Any = None) -> Array:
        """L z, shape (R, D)."""
        return (self._rows(self._lower, ix) @ z[..., None])[..., 0]

    def pullback(self, gradient: Array, ix: Any = None) -> Array:
        """L^T times the gradient, shape (R, D)."""
        return (gradient[..., None, :] @ self._rows(self._lower, ix))[..., 0, :]


def as_metric(inverse_mass: float | Tensor, dimension: int, vectors: Vectors) -> Metric:
    """The metric of an inverse mass matrix that all chains share.

    Args:
        inverse_mass: M^-1 as a number or 0-dimensional tensor (times the identity), (D,) (a diagonal) or (D, D).
        dimension: D.
        vectors: where to keep it.

    Raises:
        TypeError: if it is neither a number nor a tensor.
        ValueError: if its shape doesn't fit or it isn't positive definite.
    """
    if isinstance(inverse_mass, bool) or not isinstance(inverse_mass, (int, float, Tensor, np.ndarray)):
        raise TypeError(
            "the inverse mass must be a number, or a tensor of shape (), (D,) or (D, D); "
            f"received {describe(inverse_mass)}."
        )
    # Read by tolist: within torch.func's transforms, results of torch operations have no memory to read.
    values = inverse_mass.tolist() if isinstance(inverse_mass, Tensor) else inverse_mass
    host = np.asarray(values, dtype=np.float64)
    if host.shape not in ((), (dimension,), (dimension, dimension)):
        raise ValueError(
            f"the inverse mass must be a number or have shape ({dimension},) or ({dimension}, {dimension}); "
            f"received shape {host.shape}."
        )
    if not np.isfinite(host).all():
        raise ValueError("the inverse mass must be finite; received NaN or infinity.")
    if host.ndim < 2:
        if (host <= 0).any():
            raise ValueError(f"the inverse mass must be positive; received a smallest entry of {host.min()}.")
        return DiagonalMetric(vectors, host.reshape(1, -1))
    if np.abs(host - host.T).max() > SYMMETRY_TOLERANCE * np.abs(host).max():
        raise ValueError("the inverse mass matrix must be symmetric; received one that is not.")
    try:
        return DenseMetric(vectors, 0.5 * (host + host.T)[None])
    except np.linalg.LinAlgError as error:
        raise ValueError(
            "the inverse mass matrix must be positive definite; received one whose Cholesky factorisation fails."
        ) from error


def identity_metric(kind: str, chains: int, dimension: int, vectors: Vectors) -> Metric:
    """The identity, of one row a chain, to start an adaptation from.

    Args:
        kind: "diag" or "dense".
        chains: C.
        dimension: D.
        vectors: where to keep it.
    """
    if kind == "dense":
        return DenseMetric(vectors, np.tile(np.eye(dimension), (chains, 1, 1)))
    return DiagonalMetric(vectors, np.ones((chains, dimension)))
