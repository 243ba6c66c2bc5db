"""Checks at the door: each error says what must hold, what was received and what to do."""

from __future__ import annotations

import contextlib
import math
import numbers
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution


def describe(value: Any) -> str:
    """A short account of a received value, for error messages."""
    if isinstance(value, Tensor):
        return f"a {value.dtype} tensor of shape {tuple(value.shape)} on {value.device}"
    text = " ".join(repr(value).split())
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"


def first_line(error: BaseException) -> str:
    """The first line of an error's message; empty if it has none."""
    return next(iter(str(error).strip().splitlines()), "")


def brief(error: BaseException) -> str:
    """What an error is and the first line of what it says."""
    return f"{type(error).__name__}: {first_line(error)}"


def check_count(name: str, value: Any, minimum: int = 1) -> int:
    """Return `value` as an int of at least `minimum`.

    Raises:
        TypeError: if it is not an integer.
        ValueError: if it is too small.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be an integer; received {describe(value)}.")
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}; received {value}.")
    return int(value)


def check_positive(name: str, value: Any) -> float:
    """Return `value` as a finite positive float.

    Raises:
        TypeError: if it is not a number.
        ValueError: if it is not finite and positive.
    """
    if isinstance(value, Tensor) and value.ndim == 0:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a positive number; received {describe(value)}.")
    number = float(value)
    if not (math.isfinite(number) and number > 0):
        raise ValueError(f"{name} must be finite and greater than 0; received {number}.")
    return number


def check_fraction(name: str, value: Any) -> float:
    """Return `value` as a float strictly between 0 and 1."""
    number = check_positive(name, value)
    if number >= 1:
        raise ValueError(f"{name} must lie strictly between 0 and 1; received {number}.")
    return number


def check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> Any:
    """Return `value` if it is one of `choices`.

    Raises:
        ValueError: naming the choices otherwise.
    """
    for choice in choices:
        if type(value) is type(choice) and value == choice:
            return value
    raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}; received {describe(value)}.")


def check_floating(name: str, value: Any) -> Tensor:
    """Return `value` if it is a floating-point tensor.

    Raises:
        TypeError: if it is not.
    """
    if not isinstance(value, Tensor) or not value.is_floating_point():
        raise TypeError(f"{name} must be a floating-point tensor; received {describe(value)}.")
    return value


def check_tensors(name: str, value: Any, shapes: Sequence[Sequence[int]]) -> list[Tensor]:
    """Return a list of tensors of these shapes.

    Raises:
        ValueError: if it is no list, or number or shapes don't fit.
    """
    if not isinstance(value, (list, tuple, nn.ParameterList)) or len(value) != len(shapes):
        raise ValueError(f"{name} must be a list of {len(shapes)} tensors; received {describe(value)}.")
    for tensor, shape in zip(value, shapes, strict=True):
        if not isinstance(tensor, Tensor) or list(tensor.shape) != list(shape):
            raise ValueError(f"{name} must have the shapes {shapes}; received {describe(tensor)}.")
    return list(value)


def check_finite(name: str, tensor: Tensor) -> None:
    """Raise ValueError if a tensor holds NaN or infinity, saying how many and where the first is."""
    bad = ~torch.isfinite(tensor)
    if bad.any():
        first = tuple(torch.nonzero(bad)[0].tolist())
        raise ValueError(
            f"{name} must be finite; received {int(bad.sum())} NaN or infinite of {tensor.numel()} values, "
            f"the first at index {first}. Remove or impute them."
        )


@contextlib.contextmanager
def validation(on: bool | None) -> Iterator[bool]:
    """Whether distributions that are made inside, by whatever code, check their arguments and values.

    Args:
        on: None leaves that as it is. In any case it is afterwards what it was before, whatever code inside has done.

    Yields:
        What it was before.
    """
    before: bool = Distribution._validate_args
    if on is not None:
        Distribution.set_default_validate_args(on)
    try:
        yield before
    finally:
        Distribution.set_default_validate_args(before)
