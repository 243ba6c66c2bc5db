"""A likelihood of the user's own: any function from outputs to a distribution."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Distribution

from hnbayes._checks import describe
from hnbayes._distributions import bare, own_shape, to_event, without_validation
from hnbayes.likelihoods.likelihood import Likelihood, Task, check_output


class FromDistribution(Likelihood):
    """The likelihood given by a function from outputs (*batch, N, ...) to a distribution of torch.

    Args:
        function: gives a distribution whose batch shape begins with (*batch, N); dimensions of the outputs are to be
            indexed from the last one (`output[..., 0]`), since draws of the weights may come before N.

    Raises:
        TypeError: if it can't be called.

    Example:
        >>> def waiting_times(output):
        ...     return torch.distributions.Exponential(output[..., 0].exp())
        >>> likelihood = hnbayes.likelihoods.FromDistribution(waiting_times)
        >>> likelihood.data_shape(torch.zeros(6, 1)), likelihood.task(torch.zeros(6, 1))
        ((6,), 'regression')
    """

    def __init__(self, function: Callable[[Tensor], Distribution]) -> None:
        if not callable(function) or isinstance(function, (Distribution, type)):
            raise TypeError(f"a function from outputs to a distribution is needed; received {describe(function)}.")
        self.function = function

    def __repr__(self) -> str:
        return f"FromDistribution({getattr(self.function, '__qualname__', type(self.function).__name__)})"

    def distribution(self, output: Tensor, batch: int = 0, **parameters: Tensor) -> Distribution:
        """What the function gives, checked; see `Likelihood.distribution`.

        Raises:
            TypeError: if it is no distribution.
            ValueError: if its batch shape is another.
        """
        with without_validation():
            result: Any = self.function(output)
        if not isinstance(result, Distribution):
            raise TypeError(f"the likelihood must return a distribution; received {describe(result)}.")
        wanted = tuple(output.shape[: batch + 1])
        if tuple(result.batch_shape[: batch + 1]) != wanted:
            raise ValueError(
                f"the likelihood's distribution must have a batch shape that begins with {wanted}, as the outputs of "
                f"shape {tuple(output.shape)}; received {tuple(result.batch_shape)}. Index dimensions from the last "
                "one (output[..., 0]): draws of the weights come before them."
            )
        return to_event(bare(result), len(result.batch_shape) - batch - 1)

    def data_shape(self, output: Tensor) -> tuple[int, ...]:
        """The shape of a draw."""
        check_output(output)
        return own_shape(self.distribution(output))

    def task(self, output: Tensor) -> Task:
        """What the data are, by the distribution's support."""
        distribution = _base(self.distribution(output))
        if isinstance(distribution, (Bernoulli, Categorical)):
            return "classification"
        return "counts" if distribution.support.is_discrete else "regression"

    def cast(self, y: Tensor, output: Tensor) -> Tensor:
        """Labels as int64, all else in the outputs' dtype."""
        return y.long() if isinstance(_base(self._at(output)), Categorical) else y.to(output.dtype)

    def _at(self, output: Tensor) -> Distribution:
        with without_validation():
            return self.function(output)

    def _check_dtype(self, y: Tensor) -> None:
        """The distribution's support says what is allowed."""

    def _check_values(self, output: Tensor, y: Tensor) -> None:
        distribution: Any = self.distribution(output)
        allowed = distribution.support.check(self.cast(y, output))
        if not bool(allowed.all()):
            first = tuple(torch.nonzero(~allowed)[0].tolist())
            raise ValueError(
                f"y must lie in the support of {distribution}; received a value outside of it at index {first}."
            )


def _base(distribution: Any) -> Any:
    while hasattr(distribution, "base_dist"):
        distribution = distribution.base_dist
    return distribution
