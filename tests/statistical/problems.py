"""Joint distributions p(theta) p(y | theta) that can be drawn from exactly, and densities with exact draws.

Chains of one batch can each have a data set of their own: the last coordinate of a position says which. It is a
standard normal about WELL times the number of the data set, so far from its neighbours that no chain leaves its own,
and independent of all else: to a sampler it is one more dimension.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from posteriors import read
from targets import standard_normal
from torch import Tensor

WELL = 1000.0


def which(q: Tensor) -> Tensor:
    """The number of the data set of a position (..., D), (...)."""
    return torch.round(q[..., -1] / WELL).long()


def well(q: Tensor) -> Tensor:
    """The energy of the last coordinate of a position (D,)."""
    return 0.5 * (q[-1] - WELL * torch.round(q[-1] / WELL)).square()


def in_wells(theta: Tensor, seed: int) -> Tensor:
    """Parameters (C, D) and, as their last coordinate, an exact draw about the number of their row: (C, D + 1)."""
    number = torch.arange(len(theta), dtype=theta.dtype)
    return torch.cat((theta, (WELL * number)[:, None] + standard_normal(len(theta), 1, seed)), 1)


@dataclass(frozen=True)
class Joint:
    """A model, unconstrained.

    Attributes:
        name: of the model.
        draw: count, seed -> exact draws of the prior (count, D).
        data: theta (C, D), seed -> data (C, ...), one set a row.
        energy: theta (D,), data (...) -> -log p(theta) p(y | theta), up to a constant.
        scores: theta (C, D) -> standard normal numbers if theta is drawn from the prior, (C, D).
        names: of the coordinates.
        step_size: that suits its posteriors at a metric of `scale`.
        scale: typical posterior standard deviations, (D,).
    """

    name: str
    draw: Callable[[int, int], Tensor]
    data: Callable[[Tensor, int], Tensor]
    energy: Callable[[Tensor, Tensor], Tensor]
    scores: Callable[[Tensor], Tensor]
    names: tuple[str, ...]
    step_size: float
    scale: tuple[float, ...]

    def potential(self, data: Tensor) -> Callable[[Tensor], Tensor]:
        """U of positions (D + 1,) whose last coordinate chooses a row of the data."""

        def U(q: Tensor) -> Tensor:
            return self.energy(q[:-1], data.index_select(0, which(q)[None])[0]) + well(q)

        return U

    @property
    def inverse_mass(self) -> Tensor:
        """(D + 1, D + 1), of the typical scales, with some correlation so that a dense metric is one."""
        scale = torch.tensor([*self.scale, 1.0], dtype=torch.float64)
        correlation = 0.8 * torch.eye(len(scale), dtype=torch.float64) + 0.2
        # The last coordinate stays apart: its size is not one.
        correlation[-1, :-1] = correlation[:-1, -1] = 0.0
        correlation[-1, -1] = 1.0
        return scale[:, None] * correlation * scale


# Fewer data than coefficients: the prior matters.
POINTS, NOISE = 4, 0.7
DESIGN = standard_normal(POINTS, 5, 17)


def _regression() -> Joint:
    """Five coefficients ~ N(0, 1), four data ~ N(X b, 0.7)."""

    def energy(b: Tensor, y: Tensor) -> Tensor:
        return 0.5 * b.square().sum() + 0.5 * ((y - DESIGN @ b) / NOISE).square().sum()

    return Joint(
        "regression",
        lambda count, seed: standard_normal(count, 5, seed),
        lambda b, seed: b @ DESIGN.mT + NOISE * standard_normal(len(b), POINTS, seed),
        energy,
        lambda b: b,
        tuple(f"b{i}" for i in range(5)),
        0.4,
        (0.7,) * 5,
    )


def half_cauchy_score(log_x: Tensor, scale: float) -> Tensor:
    """The standard normal number at the same quantile as x = exp(log_x) has under a half-Cauchy distribution."""
    x = log_x.exp() / scale
    # The smaller tail, so that no digits are lost: P(X < x) = 2/pi atan(x), P(X > x) = 2/pi atan(1/x).
    lower = torch.special.ndtri(torch.atan(x) * (2 / math.pi))
    upper = -torch.special.ndtri(torch.atan(1 / x) * (2 / math.pi))
    return torch.where(x < 1, lower, upper)


def _schools() -> Joint:
    """Eight schools, non-centred: q = (t_1 ... t_8, mu, log tau)."""
    sigma = torch.tensor(read()["eight_schools_noncentered"]["data"]["sigma"], dtype=torch.float64)

    def draw(count: int, seed: int) -> Tensor:
        z = standard_normal(count, 10, seed)
        tail = torch.special.ndtr(-z[:, 9].abs())
        small = torch.tan(0.5 * math.pi * tail)
        tau = 5.0 * torch.where(z[:, 9] < 0, small, 1 / small)
        return torch.cat((z[:, :8], 5 * z[:, 8:9], tau.log()[:, None]), 1)

    def data(q: Tensor, seed: int) -> Tensor:
        theta = q[:, 8:9] + q[:, 9:].exp() * q[:, :8]
        return theta + sigma * standard_normal(len(q), 8, seed)

    def energy(q: Tensor, y: Tensor) -> Tensor:
        t, mu, log_tau = q[:8], q[8], q[9]
        theta = mu + log_tau.exp() * t
        prior = 0.5 * t.square().sum() + 0.5 * (mu / 5).square() + (log_tau.exp() / 5).square().log1p() - log_tau
        return prior + 0.5 * ((y - theta) / sigma).square().sum()

    def scores(q: Tensor) -> Tensor:
        return torch.cat((q[:, :8], q[:, 8:9] / 5, half_cauchy_score(q[:, 9:], 5.0)), 1)

    names = (*(f"t{i}" for i in range(8)), "mu", "log_tau")
    return Joint("eight schools", draw, data, energy, scores, names, 0.4, (1.0,) * 8 + (4.0, 1.2))


JOINTS = {joint.name: joint for joint in (_regression(), _schools())}
