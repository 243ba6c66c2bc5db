"""Distributions of torch as models need them: of one dtype and device, without checks that read numbers."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, HalfNormal, Independent
from torch.distributions.transforms import Transform, _InverseTransform

from hnbayes._checks import check_positive, describe, validation


def bare(distribution: Distribution, like: Tensor | None = None) -> Any:
    """The same distribution without validation of its arguments and values, which `vmap` can't follow.

    Args:
        distribution: of torch, or derived from its classes.
        like: the dtype and device that the distribution's numbers shall have; None leaves them.

    Returns:
        A new object that shares the tensors that need no conversion.
    """
    return _converted(distribution, like)


def _converted(value: Any, like: Tensor | None) -> Any:
    if isinstance(value, Tensor):
        return value.to(like) if like is not None and value.is_floating_point() else value
    if isinstance(value, (list, tuple)) and any(isinstance(item, (Transform, Distribution)) for item in value):
        return type(value)(_converted(item, like) for item in value)
    if not isinstance(value, (Distribution, Transform)):
        return value
    if isinstance(value, _InverseTransform):
        # Such a transform is nothing but its partner, which makes it anew.
        return _converted(value.inv, like).inv
    new = copy.copy(value)
    for name, attribute in list(vars(new).items()):
        # A transform remembers its inverse, which remembers it.
        if name != "_inv":
            new.__dict__[name] = _converted(attribute, like)
    if isinstance(new, Transform):
        new.__dict__["_inv"] = None
    else:
        new.__dict__["_validate_args"] = False
    return new


def without_validation() -> AbstractContextManager[bool]:
    """Distributions that are made inside don't check their arguments and values."""
    return validation(False)


def to_event(distribution: Distribution, dims: int) -> Distribution:
    """The distribution with its last `dims` batch dimensions as event dimensions."""
    if dims == 0:
        return distribution
    return Independent(distribution, dims, validate_args=False)


def filled(distribution: Any, shape: Sequence[int]) -> Distribution:
    """Independent numbers of one scalar distribution, with `shape` as event shape."""
    return to_event(distribution.expand(torch.Size(shape)), len(shape))


def own_shape(distribution: Distribution) -> tuple[int, ...]:
    """The shape of one draw."""
    return tuple(distribution.batch_shape + distribution.event_shape)


def positive_distribution(what: str, prior: Any) -> Distribution:
    """The prior of a positive quantity; a number s means HalfNormal(s).

    Args:
        what: the argument's name, for messages.
        prior: a number or a distribution.

    Raises:
        TypeError: if it is neither a number nor a distribution.
        ValueError: if it is a distribution of anything but positive numbers.
    """
    if not isinstance(prior, Distribution):
        try:
            scale = check_positive(what, prior)
        except TypeError as error:
            raise TypeError(f"{error} A distribution of positive numbers will do too.") from None
        # float64, so that no digit is lost before the dtype of the model is known.
        return HalfNormal(torch.tensor(scale, dtype=torch.float64))
    support: Any = prior.support
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    bound = getattr(support, "lower_bound", -1.0)
    if float(bound.min() if isinstance(bound, Tensor) else bound) < 0 or support.is_discrete:
        raise ValueError(
            f"{what} must be a distribution of positive numbers; received {describe(prior)}. Use HalfNormal(1.0)."
        )
    return prior
