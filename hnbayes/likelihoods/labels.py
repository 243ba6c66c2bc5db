"""Classification: one of several classes, or yes and no."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Bernoulli as TorchBernoulli
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import Distribution
from torch.nn.functional import cross_entropy

from hnbayes._checks import describe
from hnbayes._distributions import to_event
from hnbayes.likelihoods.likelihood import Likelihood, PerOutput, Task, check_labels, check_output, refuse_values


class Categorical(Likelihood):
    """Labels (N,) of 0..K - 1 whose logits are the outputs (N, K).

    Example:
        >>> likelihood = hnbayes.likelihoods.Categorical()
        >>> logits = torch.zeros(5, 4)  # four classes, equally likely
        >>> y = torch.tensor([0, 3, 1, 1, 2])
        >>> likelihood.check(logits, y)
        >>> likelihood.log_prob(logits, y).exp()
        tensor([0.2500, 0.2500, 0.2500, 0.2500, 0.2500])
    """

    _task: ClassVar[Task] = "classification"

    def __repr__(self) -> str:
        return "Categorical()"

    def data_shape(self, output: Tensor) -> tuple[int, ...]:
        """One label for each row of logits."""
        check_output(output)
        if output.ndim != 2 or output.shape[1] < 2:
            raise ValueError(
                "categorical needs outputs (logits) of shape (N, classes), at least two classes; received "
                f"{tuple(output.shape)}. For a single logit use Bernoulli()."
            )
        return tuple(output.shape[:1])

    def distribution(self, output: Tensor, batch: int = 0, **parameters: Tensor) -> Distribution:
        """Categorical with these logits; see `Likelihood.distribution`."""
        return TorchCategorical(logits=output, validate_args=False)

    def total_log_prob(self, output: Tensor, y: Tensor, **parameters: Tensor) -> Tensor:
        """Torch's cross-entropy, negative."""
        return -cross_entropy(output, y, reduction="sum")

    def cast(self, y: Tensor, output: Tensor) -> Tensor:
        """Labels as int64."""
        return y.long()

    def _check_dtype(self, y: Tensor) -> None:
        if y.is_floating_point() or y.dtype == torch.bool:
            raise TypeError(f"y must hold integer labels; received {describe(y)}. Convert with .long().")

    def _check_values(self, output: Tensor, y: Tensor) -> None:
        check_labels(y, output.shape[1])


class Bernoulli(PerOutput):
    """0 or 1 for each output, which is the logit of 1; the data have the outputs' shape, of any dtype.

    Example:
        >>> likelihood = hnbayes.likelihoods.Bernoulli()
        >>> logits = torch.zeros(2, 1)
        >>> likelihood.distribution(logits).mean
        tensor([[0.5000],
                [0.5000]])
        >>> likelihood.log_prob(logits, torch.tensor([[0.0], [1.0]])).exp()
        tensor([0.5000, 0.5000])
    """

    _task: ClassVar[Task] = "classification"

    def __repr__(self) -> str:
        return "Bernoulli()"

    def distribution(self, output: Tensor, batch: int = 0, **parameters: Tensor) -> Distribution:
        """Bernoulli with these logits; see `Likelihood.distribution`."""
        flips = TorchBernoulli(logits=output, validate_args=False)
        return to_event(flips, output.ndim - batch - 1)

    def _check_dtype(self, y: Tensor) -> None:
        """Any dtype holds 0 and 1."""

    def _check_values(self, output: Tensor, y: Tensor) -> None:
        refuse_values(y, (y == 0) | (y == 1), "0 or 1")
