"""Gradients by plain autograd.

`torch.func.grad` gives the same, but its first use imports torch's compiler, for seconds.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def with_gradient(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """A function with the gradient of its results' sum: q -> (gradient, results).

    Of a batch (C, D) that is each chain's own gradient, as chains don't see each other.
    """

    def both(q: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            q = q.detach().requires_grad_()
            results = function(q)
            (gradient,) = torch.autograd.grad(results.sum(), q)
        return gradient, results.detach()

    return both
