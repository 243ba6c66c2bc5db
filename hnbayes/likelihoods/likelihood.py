"""Likelihood: the distribution of the data, given a network's outputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.distributions import Distribution

from hnbayes._checks import check_finite, describe

Task = Literal["regression", "classification", "counts"]


class Likelihood(ABC):
    r"""p(y | f(x), \(\theta\)): the data are independent given the outputs f(x) and learned parameters \(\theta\).

    In the shapes below N is the number of data points, and `batch` any dimensions of draws or chains before it. Under
    `torch.func.vmap` there are none.

    Example:
        >>> likelihood = hnbayes.likelihoods.as_likelihood("gaussian")
        >>> output = torch.zeros(7, 2)  # 7 data points of 2 numbers
        >>> theta = {name: prior.sample() for name, prior in likelihood.parameters(output).items()}
        >>> noise = likelihood.distribution(output, **theta)
        >>> noise.batch_shape, noise.event_shape
        (torch.Size([7]), torch.Size([2]))
    """

    _task: ClassVar[Task] = "regression"

    def task(self, output: Tensor) -> Task:
        """What the data are: "regression" (real numbers), "classification" (labels) or "counts".

        Args:
            output: the outputs of one forward pass, (N, ...).
        """
        return self._task

    def parameters(self, output: Tensor) -> dict[str, Distribution]:
        """The priors of the parameters that are learned beside the weights.

        Args:
            output: the outputs of one forward pass, (N, ...).

        Returns:
            Name -> distribution in the outputs' dtype, on their device, whose own shape (batch and event) is that of
            the parameter; empty if nothing is learned.
        """
        return {}

    @abstractmethod
    def distribution(self, output: Tensor, batch: int = 0, **parameters: Tensor) -> Distribution:
        """The distribution of the data.

        Args:
            output: (*batch, N, ...).
            batch: how many dimensions `batch` has, which can't be told from the outputs alone.
            **parameters: the learned parameters, (*batch, *own shape).

        Returns:
            A distribution of batch shape (*batch, N) whose event shape is that of one datum, without validation.
        """

    @abstractmethod
    def data_shape(self, output: Tensor) -> tuple[int, ...]:
        """The shape that the data must have.

        Args:
            output: the outputs of one forward pass, (N, ...).

        Raises:
            ValueError: if the likelihood can't take outputs of this shape.
        """

    def check(self, output: Tensor, y: Tensor) -> None:
        """Raise unless y can be the data for these outputs.

        Args:
            output: the outputs of one forward pass, (N, ...).
            y: the data.

        Raises:
            TypeError: if y is no tensor, or of the wrong dtype.
            ValueError: if shapes or devices differ, or values are NaN or out of range.
        """
        wanted = self.data_shape(output)
        if not isinstance(y, Tensor):
            raise TypeError(f"y must be a tensor; received {describe(y)}. Use torch.as_tensor(...).")
        if y.is_complex():
            raise TypeError(f"y must be real; received {describe(y)}.")
        self._check_dtype(y)
        if tuple(y.shape) != wanted:
            hint = "They would be broadcast against each other."
            if wanted == (*y.shape, 1):
                hint = "Use y.unsqueeze(-1)."
            elif tuple(y.shape) == (*wanted, 1):
                hint = "Use y.squeeze(-1)."
            raise ValueError(f"y must have shape {wanted}, as the likelihood has; received {tuple(y.shape)}. {hint}")
        if y.numel() == 0:
            raise ValueError(f"y must hold at least one data point; received {describe(y)}.")
        if y.device != output.device:
            raise ValueError(f"y must be on {output.device}, as the outputs; received {y.device}. Move one of them.")
        if y.is_floating_point():
            check_finite("y", y)
        self._check_values(output, y)

    def cast(self, y: Tensor, output: Tensor) -> Tensor:
        """The data in the dtype in which the distribution takes them."""
        return y.to(output.dtype)

    def log_prob(self, output: Tensor, y: Tensor, batch: int = 0, **parameters: Tensor) -> Tensor:
        """The log density of each data point, normalised.

        Args:
            output: (*batch, N, ...).
            y: what `cast` gives of the data.
            batch: how many dimensions `batch` has.
            **parameters: the learned parameters, (*batch, *own shape).

        Returns:
            Tensor of shape (*batch, N).
        """
        value: Tensor = self.distribution(output, batch, **parameters).log_prob(y)
        return value

    def total_log_prob(self, output: Tensor, y: Tensor, **parameters: Tensor) -> Tensor:
        """The sum of `log_prob` over the data, in as few operations as it takes, of one forward pass.

        Args:
            output: (N, ...).
            y: what `cast` gives of the data.
            **parameters: the learned parameters, without leading dimensions.

        Returns:
            0-dimensional tensor.
        """
        return self.log_prob(output, y, 0, **parameters).sum()

    def _check_dtype(self, y: Tensor) -> None:
        if not y.is_floating_point():
            raise TypeError(f"y must be floating-point; received {describe(y)}. Convert with .float().")

    def _check_values(self, output: Tensor, y: Tensor) -> None:  # noqa: B027 - real numbers may have any value
        """Raise ValueError if a value is out of the distribution's range."""


class PerOutput(Likelihood):
    """A likelihood in which each datum has the shape of its output."""

    def data_shape(self, output: Tensor) -> tuple[int, ...]:
        """The outputs' shape."""
        check_output(output)
        return tuple(output.shape)


def check_labels(y: Tensor, classes: int) -> None:
    """Raise ValueError unless integer labels lie in 0..classes - 1."""
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= classes:
        raise ValueError(
            f"labels must lie in 0..{classes - 1}, as the network has {classes} outputs; received labels "
            f"from {low} to {high}."
        )


def refuse_values(y: Tensor, allowed: Tensor, what: str) -> None:
    """Raise ValueError that names the first value that isn't allowed, if there is one."""
    if not allowed.all():
        first = tuple(torch.nonzero(~allowed)[0].tolist())
        raise ValueError(f"y must be {what}; received {y[first].item()} at index {first}.")


def check_output(output: Tensor, least: int = 1) -> None:
    """Raise unless outputs are a tensor of at least so many dimensions."""
    if not isinstance(output, Tensor):
        raise TypeError(f"the network must return one tensor; received {describe(output)}.")
    if output.ndim < least:
        raise ValueError(f"the network must give one output for each input; received shape {tuple(output.shape)}.")
