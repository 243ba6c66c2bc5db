"""Forward passes of all draws over many inputs, a block of inputs at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from hnbayes.posterior.model import Model

# How many tensors of the outputs' size are there at once: outputs, moments, densities, draws.
TENSORS_AT_ONCE = 8
DRAWS_AT_ONCE = 128


class Forward:
    """The outputs and predictive distributions of M draws.

    Args:
        model: the model.
        positions: (M, D).
        memory_limit: bytes that a block of inputs may take.

    Attributes:
        parameters: the likelihood's learned parameters, name -> (M, *shape).
    """

    def __init__(self, model: Model, positions: Tensor, memory_limit: int) -> None:
        self.model = model
        self.positions = positions
        self.memory_limit = memory_limit
        pieces = [model.values(part) for part in torch.split(positions, DRAWS_AT_ONCE)]
        self.parameters = {name: torch.cat([piece[name] for piece in pieces]) for name in model.learned}

    @torch.no_grad()
    def outputs(self, X: Tensor) -> Tensor:
        """The outputs for all inputs at once, (M, N, ...)."""
        parts = torch.split(self.positions, DRAWS_AT_ONCE)
        return torch.cat([self.model.outputs(self.model.values(part), X) for part in parts])

    def blocks(self, X: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Which inputs, and the outputs for these (M, B, ...)."""
        one = self.model.outputs_at_present(X[:1])
        size = math.prod(one.shape[1:]) * one.element_size() * len(self.positions) * TENSORS_AT_ONCE
        rows = max(1, self.memory_limit // size)
        for begin in range(0, len(X), rows):
            block = slice(begin, min(begin + rows, len(X)))
            yield block, self.outputs(X[block])

    def distribution(self, outputs: Tensor) -> Distribution:
        """The distribution of the data given outputs (M, B, ...): batch shape (M, B)."""
        return self.model.likelihood.distribution(outputs, 1, **self.parameters)

    def log_prob(self, outputs: Tensor, y: Tensor) -> Tensor:
        """The log densities (M, B) of data (B, ...)."""
        return self.model.likelihood.log_prob(outputs, y, 1, **self.parameters)


def base_of(distribution: Any) -> Any:
    """The distribution of single numbers that an `Independent` one is made of."""
    while isinstance(distribution, torch.distributions.Independent):
        distribution = distribution.base_dist
    return distribution
