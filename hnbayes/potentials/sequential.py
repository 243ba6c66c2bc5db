"""U evaluated one row after another, by plain autograd: the reference, and the way of last resort."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hnbayes._checks import describe

Function = Callable[[Tensor], Tensor]

# What a function may raise for one bad position (a failed Cholesky factorisation, a distribution's argument check)
# as opposed to a fault of the program, which must surface.
POSITION_ERRORS = (ArithmeticError, ValueError, RuntimeError)


def out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory has run out, which torch tells on a CPU in words only."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def usable_rows(function: Function, positions: Tensor, differentiable: bool) -> Tensor:
    """A batch of the same shape, made of the rows for which the function doesn't fail; the same one if none does.

    Raises:
        TypeError, ValueError: if U doesn't return a (differentiable) scalar.
        Exception: what the function raises, if it fails for every row.
    """
    evaluate = sequential_value_and_grad if differentiable else sequential_value
    good, first_error = [], None
    for row in range(len(positions)):
        try:
            evaluate(function, positions[row : row + 1], check=True)
            good.append(row)
        except POSITION_ERRORS as error:
            if out_of_memory(error):
                raise
            first_error = first_error or error
    if first_error is None:
        return positions
    if not good:
        raise first_error
    return positions[[good[row % len(good)] for row in range(len(positions))]]


def sequential_value_and_grad(function: Function, positions: Tensor, check: bool = False) -> tuple[Tensor, Tensor]:
    """U and its gradient by plain autograd, one row after another.

    Args:
        function: U.
        positions: shape (C, D).
        check: say clearly what is wrong if U is not a differentiable scalar.

    Returns:
        Values (C,) and gradients (C, D).
    """
    values, gradients = [], []
    with torch.enable_grad():
        for position in positions:
            q = position.detach().clone().requires_grad_()
            value = function(q)
            if check:
                check_scalar(value)
                if not value.requires_grad:
                    raise ValueError(
                        "the potential must depend on the position through differentiable torch operations; "
                        "received a value without a gradient. Avoid .item(), .detach(), NumPy and no_grad inside it."
                    )
            (gradient,) = torch.autograd.grad(value, q, allow_unused=True)
            gradients.append(torch.zeros_like(q) if gradient is None else gradient)
            values.append(value.detach())
    return torch.stack(values), torch.stack(gradients)


def sequential_value(function: Function, positions: Tensor, check: bool = False) -> tuple[Tensor, Tensor]:
    """U one row after another; the second result is the positions, in a gradient's place."""
    with torch.no_grad():
        values = [function(position.detach().clone()) for position in positions]
    if check:
        check_scalar(values[0])
    return torch.stack(values), positions


def check_scalar(value: Any) -> Tensor:
    """A potential's value, if it is a floating-point tensor without dimensions.

    Raises:
        TypeError, ValueError: if it is not.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"the potential must return a 0-dimensional tensor; received {describe(value)}.")
    if value.ndim != 0:
        raise ValueError(
            f"the potential must return a scalar (a 0-dimensional tensor); received {describe(value)}. "
            "Sum the terms, or take log_prob(...).sum()."
        )
    if not value.is_floating_point():
        raise TypeError(f"the potential must return a floating-point value; received {describe(value)}.")
    return value
