"""Initialisation of weights: fans, Xavier by fan-in alone, and torch's default for linear and convolutional layers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from hnbayes._checks import check_count, check_floating, describe


def calc_fan_in_and_out(shapes: Sequence[int]) -> tuple[int, int]:
    """Inputs and outputs of a unit, from the shape of a weight tensor (out, in, *kernel).

    Args:
        shapes: the shape, at least two numbers.

    Returns:
        fan-in, in times the kernel's size, and fan-out, out times the kernel's size.

    Raises:
        TypeError: if an entry is not an integer.
        ValueError: if there are fewer than two numbers, or one is below 1.

    Example:
        >>> hnbayes.layers.calc_fan_in_and_out((8, 3, 5, 5))  # a convolution of 3 to 8 channels
        (75, 200)
    """
    sizes = [check_count("each entry of shapes", size) for size in shapes]
    if len(sizes) < 2:
        raise ValueError(
            f"shapes must have at least 2 entries (out, in, ...); received {describe(list(shapes))}. "
            "Fans of a bias or a gain are not defined."
        )
    kernel = math.prod(sizes[2:])
    return sizes[1] * kernel, sizes[0] * kernel


@torch.no_grad()
def xavier_fan_in_(tensor: Tensor) -> Tensor:
    r"""Fill a weight tensor from \(U(-a, a)\) with \(a = \sqrt{3 / \text{fan-in}}\), a variance of 1 / fan-in.

    `torch.nn.init.xavier_uniform_` takes the mean of fan-in and fan-out instead (Glorot and Bengio 2010, eq. 16).

    Args:
        tensor: floating point, at least two dimensions; changed in place.

    Returns:
        The tensor.

    Raises:
        TypeError: if it is not a floating-point tensor.
        ValueError: if it has fewer than two dimensions, or is empty.

    Example:
        >>> w = hnbayes.layers.xavier_fan_in_(torch.empty(1000, 100))
        >>> round(w.std().item(), 2)  # 1 / sqrt(100)
        0.1
    """
    _check_weights("tensor", tensor)
    bound = math.sqrt(3 / calc_fan_in_and_out(tensor.shape)[0])
    return tensor.uniform_(-bound, bound)


@torch.no_grad()
def init_params(weights: Tensor, bias: Tensor | None = None) -> None:
    r"""Fill weights, and a bias, as a new `torch.nn.Linear`, `Conv2d` or `ConvTranspose2d` would.

    Both are drawn from \(U(-a, a)\), \(a = 1/\sqrt{\text{fan-in}}\), the fan-in taken from the weights' shape.

    Args:
        weights: floating point, at least two dimensions; changed in place.
        bias: floating point, any shape; changed in place.

    Raises:
        TypeError: if one is not a floating-point tensor.
        ValueError: if the weights have fewer than two dimensions, or are empty.

    Example:
        >>> weights, bias = torch.empty(10, 4), torch.empty(10)
        >>> hnbayes.layers.init_params(weights, bias)
        >>> bool(weights.abs().max() <= 0.5), bool(bias.abs().max() <= 0.5)  # 1 / sqrt(4)
        (True, True)
    """
    _check_weights("weights", weights)
    bound = 1 / math.sqrt(calc_fan_in_and_out(weights.shape)[0])
    if bias is not None:
        if not isinstance(bias, Tensor) or not bias.is_floating_point():
            raise TypeError(f"bias must be a floating-point tensor or None; received {describe(bias)}.")
        bias.uniform_(-bound, bound)
    weights.uniform_(-bound, bound)


def _check_weights(name: str, value: Tensor) -> None:
    check_floating(name, value)
    if value.ndim < 2 or value.numel() == 0:
        raise ValueError(f"{name} must have at least two dimensions and not be empty; received {describe(value)}.")
