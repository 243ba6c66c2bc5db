"""Counts: Poisson, and negative binomial where they vary more than that."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, Gamma
from torch.distributions import NegativeBinomial as TorchNegativeBinomial
from torch.distributions import Poisson as TorchPoisson

from hnbayes._checks import describe
from hnbayes._distributions import to_event
from hnbayes.likelihoods.likelihood import PerOutput, Task, refuse_values
from hnbayes.likelihoods.quantity import Quantity


class _Counts(PerOutput):
    """Data of the outputs' shape that are 0, 1, 2, ..., of any dtype."""

    _task: ClassVar[Task] = "counts"

    def _check_dtype(self, y: Tensor) -> None:
        if y.dtype == torch.bool:
            raise TypeError(f"y must hold counts; received {describe(y)}. Convert with .long().")

    def _check_values(self, output: Tensor, y: Tensor) -> None:
        refuse_values(y, (y >= 0) & (y == y.round()), "non-negative whole numbers")


class Poisson(_Counts):
    r"""\(y_n \sim \text{Poisson}(\exp f(x_n))\): the outputs are logarithms of rates.

    Example:
        >>> log_rates = torch.tensor([[3.0], [7.0]]).log()
        >>> hnbayes.likelihoods.Poisson().distribution(log_rates).mean.round()
        tensor([[3.],
                [7.]])
    """

    def __repr__(self) -> str:
        return "Poisson()"

    def distribution(self, output: Tensor, batch: int = 0, **parameters: Tensor) -> Distribution:
        """Poisson with these log rates; see `Likelihood.distribution`."""
        counts = TorchPoisson(output.exp(), validate_args=False)
        return to_event(counts, output.ndim - batch - 1)

    def log_prob(self, output: Tensor, y: Tensor, batch: int = 0, **parameters: Tensor) -> Tensor:
        r"""\(y \eta - e^\eta - \log y!\): no logarithm of a rate that has underflowed."""
        value = y * output - output.exp() - (y + 1).lgamma()
        return value.flatten(batch + 1).sum(-1) if value.ndim > batch + 1 else value


class NegativeBinomial(_Counts):
    r"""Counts of mean \(\mu = \exp f(x_n)\) and variance \(\mu + \mu^2 / \kappa\).

    Args:
        concentration: \(\kappa\): a positive number; "learned", with the prior Gamma(2, rate 0.1), or its prior. Small
            values mean counts that vary much. What is learned is called "concentration".

    Raises:
        TypeError: if it is of another kind.
        ValueError: if it isn't positive.

    Example:
        >>> likelihood = hnbayes.likelihoods.NegativeBinomial(concentration=5.0)
        >>> counts = likelihood.distribution(torch.tensor([[10.0]]).log())
        >>> counts.mean.round(), counts.variance.round()  # 10 and 10 + 10^2 / 5
        (tensor([[10.]]), tensor([[30.]]))
    """

    def __init__(self, concentration: float | Tensor | Distribution | str = "learned") -> None:
        gamma = Gamma(torch.tensor(2.0, dtype=torch.float64), torch.tensor(0.1, dtype=torch.float64))
        self.concentration = Quantity("concentration", concentration, gamma)

    def __repr__(self) -> str:
        return f"NegativeBinomial(concentration={self.concentration!r})"

    def parameters(self, output: Tensor) -> dict[str, Distribution]:
        """The prior of "concentration" if it is learned."""
        return self.concentration.parameters(output)

    def data_shape(self, output: Tensor) -> tuple[int, ...]:
        """The outputs' shape."""
        shape = super().data_shape(output)
        self.concentration.check(shape[1:])
        return shape

    def distribution(self, output: Tensor, batch: int = 0, **parameters: Tensor) -> Distribution:
        """Negative binomial with these log means; see `Likelihood.distribution`."""
        concentration = self.concentration.value(parameters, output)
        logits = output - concentration.log()
        counts = TorchNegativeBinomial(concentration, logits=logits, validate_args=False)
        return to_event(counts, output.ndim - batch - 1)
