"""The distribution of the data, given a network's outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Distribution

from hnbayes._checks import check_choice, check_finite, check_positive, describe
from hnbayes.pyro.distributions import as_pyro, to_event
from hnbayes.pyro.priors import positive_prior

NAMES = ("gaussian", "categorical", "bernoulli", "poisson")
Likelihood: TypeAlias = str | Callable[[Tensor], Distribution]


class ObservationModel:
    """The distribution of the data given outputs of shape (*batch, N, ...), with independent data along N.

    Args:
        likelihood: one of the names above, or a function from the outputs to a distribution.
        sigma: for "gaussian", the standard deviation: a number, or a prior, of shape () or (K,), of the site "sigma".

    Raises:
        TypeError: if an argument is of another kind.
        ValueError: if the name is unknown, sigma isn't positive or given without need.
    """

    def __init__(self, likelihood: Likelihood, sigma: float | Distribution | None) -> None:
        if isinstance(likelihood, str):
            check_choice("likelihood", likelihood, NAMES)
        elif not callable(likelihood) or isinstance(likelihood, Distribution | type):
            raise TypeError(
                f"likelihood must be one of {', '.join(NAMES)}, or a function from the outputs to a distribution; "
                f"received {describe(likelihood)}."
            )
        if likelihood != "gaussian" and sigma is not None:
            raise ValueError(f"sigma belongs to likelihood='gaussian'; received it with {describe(likelihood)}.")
        self.likelihood = likelihood
        self.sigma: Any = None
        if likelihood == "gaussian":
            # By default learned: no fixed number suits the targets of every problem.
            sigma = dist.HalfNormal(1.0) if sigma is None else sigma
            learned = isinstance(sigma, Distribution)
            self.sigma = positive_prior("sigma", sigma) if learned else check_positive("sigma", sigma)

    @property
    def samples_sigma(self) -> bool:
        """Whether there is a site "sigma"."""
        return isinstance(self.sigma, Distribution)

    def __call__(self, output: Tensor, batch: int) -> dist.TorchDistribution:
        """The distribution, which may sample sites of its own; to be called outside the data plate.

        Args:
            output: shape (*batch, N, ...).
            batch: number of dimensions before N.

        Returns:
            A distribution of batch shape (*batch, N).

        Raises:
            TypeError, ValueError: if the outputs or the user's distribution have the wrong shape.
        """
        result: dist.TorchDistribution
        if self.likelihood == "gaussian":
            result = dist.Normal(output, self._sigma(output, batch))
        elif self.likelihood == "categorical":
            if output.ndim != batch + 2:
                raise ValueError(
                    f"categorical needs outputs (logits) of shape (N, classes); received {tuple(output.shape[batch:])}."
                )
            result = dist.Categorical(logits=output)
        elif self.likelihood == "bernoulli":
            result = dist.Bernoulli(logits=output)
        elif self.likelihood == "poisson":
            result = as_pyro(torch.distributions.Poisson(output.exp()))
        else:
            result = self._own(output, batch)
            return to_event(result, len(result.batch_shape) - batch - 1)
        return to_event(result, output.ndim - batch - (2 if self.likelihood == "categorical" else 1))

    def _sigma(self, output: Tensor, batch: int) -> Tensor | float:
        if not self.samples_sigma:
            return float(self.sigma)
        prior = as_pyro(self.sigma, torch.empty((), dtype=output.dtype, device=output.device))
        prior = to_event(prior, len(prior.batch_shape))
        sigma: Tensor = pyro.sample("sigma", prior)
        shape = tuple(prior.event_shape)
        if shape not in ((), tuple(output.shape[batch + 1 :])):
            raise ValueError(
                f"the prior of sigma must have shape () or that of one output; received {shape} with "
                f"outputs of shape {tuple(output.shape)}."
            )
        lead = without_data_dim(sigma.shape[: sigma.ndim - len(shape)])
        return sigma.reshape(lead + (1,) * (output.ndim - batch - len(shape)) + shape)

    def _own(self, output: Tensor, batch: int) -> dist.TorchDistribution:
        result = self.likelihood(output)  # type: ignore[operator]
        if not isinstance(result, Distribution):
            raise TypeError(f"the likelihood must return a distribution; received {describe(result)}.")
        wanted = tuple(output.shape[: batch + 1])
        if tuple(result.batch_shape[: batch + 1]) != wanted:
            raise ValueError(
                f"the likelihood's distribution must have a batch shape that begins with {wanted}, as the outputs of "
                f"shape {tuple(output.shape)}; received {tuple(result.batch_shape)}. Index dimensions from the last "
                "one (output[..., 0]): draws of the weights come before them."
            )
        return as_pyro(result)

    def check(self, y: Any, likelihood: dist.TorchDistribution, batch: int) -> None:
        """Raise unless y can be the data of this distribution.

        Args:
            y: what the user gave.
            likelihood: of batch shape (*batch, N).
            batch: number of dimensions before N.

        Raises:
            TypeError: if y is no tensor, or of the wrong dtype.
            ValueError: if its shape differs, or its values are NaN or out of range.
        """
        if not isinstance(y, Tensor):
            raise TypeError(f"y must be a tensor; received {describe(y)}. Use torch.as_tensor(...).")
        if y.is_complex() or (self.likelihood == "gaussian" and not y.is_floating_point()):
            raise TypeError(f"y must be floating-point; received {describe(y)}. Convert with .float().")
        if self.likelihood == "categorical" and (y.is_floating_point() or y.dtype == torch.bool):
            raise TypeError(f"y must hold integer labels; received {describe(y)}. Convert with .long().")
        wanted = tuple(likelihood.batch_shape + likelihood.event_shape)[batch:]
        if tuple(y.shape) != wanted:
            hint = "They would be broadcast against each other."
            if wanted == (*y.shape, 1):
                hint = "Use y.unsqueeze(-1)."
            elif tuple(y.shape) == (*wanted, 1):
                hint = "Use y.squeeze(-1)."
            raise ValueError(f"y must have shape {wanted}, as the likelihood has; received {tuple(y.shape)}. {hint}")
        if y.is_floating_point():
            check_finite("y", y)
        if self.likelihood == "categorical":
            low, high, classes = int(y.min()), int(y.max()), likelihood.logits.shape[-1]
            if low < 0 or high >= classes:
                raise ValueError(
                    f"labels must lie in 0..{classes - 1}, as the network has {classes} outputs; received labels "
                    f"from {low} to {high}."
                )
        elif self.likelihood in ("bernoulli", "poisson"):
            allowed = (y == 0) | (y == 1) if self.likelihood == "bernoulli" else (y >= 0) & (y == y.round())
            if not allowed.all():
                what = "0 or 1" if self.likelihood == "bernoulli" else "non-negative whole numbers"
                raise ValueError(f"y must be {what}; received {y[~allowed][0].item()}.")

    def cast(self, y: Tensor, output: Tensor) -> Tensor:
        """The data in the dtype in which the distribution takes them."""
        return y.to(output.dtype) if self.likelihood in ("bernoulli", "poisson") else y


def without_data_dim(lead: tuple[int, ...]) -> tuple[int, ...]:
    """The leading dimensions of a site outside the data plate, without the place of that plate.

    Plates number dimensions from the right: draws (S,) of a site outside the data plate have leading dimensions
    (S, 1). `Predictive` leaves the 1 out for sites with an event shape.
    """
    return tuple(lead[:-1]) if lead and lead[-1] == 1 else tuple(lead)
