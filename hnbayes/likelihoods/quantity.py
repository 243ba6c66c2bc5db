"""Quantity: a positive number of a likelihood, such as the noise's scale, that is fixed or learned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from hnbayes._checks import check_finite, check_positive, describe
from hnbayes._distributions import bare, own_shape, positive_distribution


class Quantity:
    """A positive number, or one for each of a datum's last dimensions, that is fixed or learned.

    Args:
        name: what it is called in the posterior.
        value: a number or a tensor, which is fixed; "learned", with the prior `default`; or a distribution of positive
            numbers.
        default: the prior meant by "learned".

    Raises:
        TypeError: if the value is of another kind.
        ValueError: if it isn't positive.
    """

    def __init__(self, name: str, value: Any, default: Distribution | float) -> None:
        self.name = name
        self.fixed: float | Tensor | None = None
        self.prior: Distribution | None = None
        self.shape: tuple[int, ...] = ()
        if isinstance(value, str):
            if value != "learned":
                raise ValueError(
                    f"{name} must be a positive number, 'learned' or a distribution; received {describe(value)}."
                )
            value = positive_distribution(name, default)
        if isinstance(value, Distribution):
            self.prior = positive_distribution(name, value)
            self.shape = own_shape(self.prior)
        elif isinstance(value, Tensor) and value.ndim > 0:
            check_finite(name, value)
            if not (value > 0).all():
                raise ValueError(f"{name} must be greater than 0; received {value.min().item()}.")
            self.fixed = value.detach().clone()
            self.shape = tuple(value.shape)
        else:
            try:
                self.fixed = check_positive(name, value)
            except TypeError as error:
                raise TypeError(f"{error} 'learned' or a distribution will do too.") from None

    @property
    def argument(self) -> float | Tensor | Distribution:
        """What may be given as `value` to make an equal one."""
        return self.fixed if self.prior is None else self.prior  # type: ignore[return-value]

    @property
    def learned(self) -> bool:
        """Whether it is a parameter."""
        return self.prior is not None

    def __repr__(self) -> str:
        if self.prior is None:
            return repr(self.fixed)
        return f"{type(self.prior).__name__}()"

    def parameters(self, output: Tensor) -> dict[str, Distribution]:
        """Its prior by its name, in the outputs' dtype; empty if it is fixed."""
        return {} if self.prior is None else {self.name: bare(self.prior, output)}

    def value(self, parameters: Mapping[str, Tensor], output: Tensor) -> Tensor:
        """Its value, shaped so that it broadcasts against tensors of the shape of the outputs.

        Args:
            parameters: the learned parameters, (*batch, *shape).
            output: (*batch, N, ...), whose last dimensions are those of `shape`.
        """
        if self.prior is None:
            return torch.as_tensor(self.fixed, dtype=output.dtype, device=output.device)
        try:
            learned = parameters[self.name]
        except KeyError:
            raise ValueError(
                f"{self.name} is learned, so its value is needed; received {', '.join(parameters) or 'no parameters'}."
            ) from None
        batch = tuple(learned.shape[: learned.ndim - len(self.shape)])
        if not batch:
            return learned
        return learned.reshape(batch + (1,) * (output.ndim - len(batch) - len(self.shape)) + self.shape)

    def check(self, datum: tuple[int, ...]) -> None:
        """Raise ValueError unless its shape is () or that of one datum."""
        if self.shape not in ((), datum):
            raise ValueError(
                f"{self.name} must have shape () or that of one datum, {datum}; received {self.shape}. "
                "Give one number, or as many as there are outputs."
            )
