"""Closed-form targets: their potentials, moments and exact draws; and a plain leapfrog orbit on any of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import grad


@dataclass(frozen=True)
class Target:
    """A density exp(-U) whose moments are known and that can be drawn from exactly.

    Attributes:
        potential: U, (D,) -> ().
        mean: (D,).
        covariance: (D, D).
        transport: maps standard normal vectors (N, D) to independent draws (N, D).
    """

    potential: Callable[[Tensor], Tensor]
    mean: Tensor
    covariance: Tensor
    transport: Callable[[Tensor], Tensor]

    @property
    def dimension(self) -> int:
        return len(self.mean)

    def draw(self, count: int, seed: int) -> Tensor:
        """Independent draws, (count, D)."""
        return self.transport(standard_normal(count, self.dimension, seed))


def gaussian(covariance: Tensor | Sequence[Sequence[float]]) -> Target:
    """N(0, covariance)."""
    covariance = torch.as_tensor(covariance, dtype=torch.float64)
    precision = torch.linalg.inv(covariance)
    root = torch.linalg.cholesky(covariance)
    return Target(
        potential=lambda q: 0.5 * q @ precision.to(q.dtype) @ q,
        mean=torch.zeros(len(covariance), dtype=torch.float64),
        covariance=covariance,
        transport=lambda z: z @ root.mT,
    )


def independent_gaussian(scales: Sequence[float]) -> Target:
    """N(0, diag(scales^2))."""
    return gaussian(torch.diag(torch.tensor(scales, dtype=torch.float64) ** 2))


def banana(scales: Sequence[float], bend: Sequence[float]) -> Target:
    """q_0 = s_0 z_0 and q_k = s_k z_k + b_k (z_0^2 - 1) for standard normal z: every q_k is bent by q_0.

    Args:
        scales: s, D numbers.
        bend: b_1, ..., b_(D-1).
    """
    s = torch.tensor(scales, dtype=torch.float64)
    b = torch.tensor([0.0, *bend], dtype=torch.float64)

    def shift(z0: Tensor) -> Tensor:
        return b.to(z0.dtype) * (z0.square() - 1)

    def potential(q: Tensor) -> Tensor:
        scale = s.to(q.dtype)
        z = (q - shift(q[0] / scale[0])) / scale
        return 0.5 * z.square().sum()

    return Target(
        potential=potential,
        mean=torch.zeros(len(s), dtype=torch.float64),
        covariance=torch.diag(s**2) + 2 * torch.outer(b, b),
        transport=lambda z: s * z + shift(z[:, :1]),
    )


def standard_normal(rows: int, columns: int, seed: int) -> Tensor:
    """Standard normal float64 numbers, (rows, columns)."""
    return torch.randn(rows, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def moment_scores(target: Target, draws: Tensor) -> Tensor:
    """z-scores of the means and second moments of independent draws (N, D), all of them in one vector."""
    centred = draws - target.mean
    row, column = torch.triu_indices(target.dimension, target.dimension)
    samples = torch.cat((centred, centred[:, row] * centred[:, column] - target.covariance[row, column]), 1)
    return samples.mean(0) / (samples.std(0) / len(draws) ** 0.5)


def hamiltonian(target: Target, inverse_mass: Tensor, q: Tensor, p: Tensor) -> Tensor:
    """U(q) + p^T M^-1 p / 2 of each row, (N, D) x (N, D) -> (N,)."""
    return torch.stack([target.potential(row) for row in q]) + 0.5 * ((p @ inverse_mass) * p).sum(1)


def leapfrog_orbit(
    target: Target, q: Tensor, p: Tensor, step: float, inverse_mass: Tensor, back: int, forth: int
) -> tuple[Tensor, Tensor]:
    """The points of a leapfrog orbit in order of time, written out plainly as an oracle.

    Args:
        target: for U.
        q, p: the point at time 0, (D,).
        step: step size.
        inverse_mass: M^-1, (D, D).
        back, forth: steps to go back from the point and forth.

    Returns:
        Positions and momenta, (back + 1 + forth, D) each; row `back` is the given point.
    """
    gradient = grad(target.potential)

    def points(e: float, count: int) -> list[tuple[Tensor, Tensor]]:
        found, at, momentum = [], q, p
        for _ in range(count):
            middle = momentum - e / 2 * gradient(at)
            at = at + e * inverse_mass @ middle
            momentum = middle - e / 2 * gradient(at)
            found.append((at, momentum))
        return found

    orbit = [*reversed(points(-step, back)), (q, p), *points(step, forth)]
    return torch.stack([point[0] for point in orbit]), torch.stack([point[1] for point in orbit])
