"""Distributions as Pyro's sites need them: torch's own ones fail there."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor
from torch.distributions.utils import _standard_normal

from hnbayes._checks import describe
from hnbayes.laplace.gaussian import DiagGaussian
from hnbayes.laplace.precision_normal import PrecisionNormal as TorchPrecisionNormal


class PrecisionNormal(TorchPrecisionNormal, TorchDistributionMixin):  # type: ignore[misc]
    """`hnbayes.laplace.PrecisionNormal` for `pyro.sample` and `PyroSample`.

    It differs in one respect. Before any inference Pyro draws from each site to learn its shape (`initialize_model`,
    the autoguides, `Predictive`, `az.from_pyro`), so an error in `sample` would bar improper priors from all of them.
    Here an element whose precision is 0 is "drawn" as its mean. It follows that prior predictive draws say nothing
    of such elements; `is_improper` tells which they are.

    Example:
        >>> import pyro
        >>> flat = hnbayes.pyro.PrecisionNormal(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 1e6]))
        >>> pyro.sample("w", flat.to_event(1)).round()  # where the precision is 0 it gives the mean
        tensor([1., 2.])
    """

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Differentiable draws where the precision is positive, the mean where it is 0.

        Args:
            sample_shape: how many.

        Returns:
            Tensor of shape `(*sample_shape, *batch_shape)`.
        """
        shape = self._extended_shape(torch.Size(sample_shape))
        noise = _standard_normal(shape, dtype=self.loc.dtype, device=self.loc.device)
        # Ones under the root: the gradient of rsqrt at 0 is infinite, and 0 times infinity is NaN.
        scale = torch.where(self.is_improper, 0.0, torch.where(self.is_improper, 1.0, self.precision).rsqrt())
        return self.loc + noise * scale


def flat_distribution(gaussian: DiagGaussian) -> dist.Independent:
    """The distribution of one site that holds all weights.

    Args:
        gaussian: over D numbers.

    Returns:
        A Pyro distribution with event shape (D,).

    Raises:
        TypeError: if it is no `DiagGaussian`.

    Example:
        >>> gaussian = hnbayes.laplace.DiagGaussian(torch.zeros(5), torch.ones(5))
        >>> hnbayes.pyro.flat_distribution(gaussian).event_shape
        torch.Size([5])
    """
    _check_gaussian(gaussian)
    return to_event(PrecisionNormal(gaussian.mean, gaussian.precision), 1)


def site_distributions(gaussian: DiagGaussian) -> dict[str, dist.Independent]:
    """The distribution of one site for each parameter.

    Args:
        gaussian: with a spec, which says where each parameter stands.

    Returns:
        Name of a parameter -> Pyro distribution whose event shape is the parameter's.

    Raises:
        TypeError: if it is no `DiagGaussian`.
        ValueError: if it has no spec.

    Example:
        >>> spec = hnbayes.ParamSpec.from_module(torch.nn.Linear(2, 1))
        >>> gaussian = hnbayes.laplace.DiagGaussian(torch.zeros(3), torch.ones(3), spec)
        >>> {name: tuple(d.event_shape) for name, d in hnbayes.pyro.site_distributions(gaussian).items()}
        {'weight': (1, 2), 'bias': (1,)}
    """
    _check_gaussian(gaussian)
    if gaussian.spec is None:
        raise ValueError(
            "a Gaussian without a spec doesn't say which numbers make up which parameter. "
            "Give DiagGaussian(mean, precision, spec), or use flat_distribution."
        )
    means, precisions = gaussian.spec.unflatten(gaussian.mean), gaussian.spec.unflatten(gaussian.precision)
    return {name: to_event(PrecisionNormal(mean, precisions[name]), mean.ndim) for name, mean in means.items()}


def as_pyro(distribution: torch.distributions.Distribution, like: Tensor | None = None) -> dist.TorchDistribution:
    """The same distribution as a class of Pyro.

    Args:
        distribution: of torch, of Pyro, or of this package.
        like: the dtype and device that the distribution's numbers shall have; None leaves them.

    Returns:
        A new object that shares the tensors that need no conversion.

    Raises:
        TypeError: if it is no distribution, or of a class that Pyro has no counterpart of.

    Example:
        >>> double = torch.zeros(1, dtype=torch.float64)
        >>> gamma = hnbayes.pyro.as_pyro(torch.distributions.Gamma(2.0, 1.0), like=double)
        >>> gamma.expand([3]).to_event(1).mean
        tensor([2., 2., 2.], dtype=torch.float64)
    """
    if not isinstance(distribution, torch.distributions.Distribution):
        raise TypeError(f"a distribution is needed, of torch or Pyro; received {describe(distribution)}.")
    new: Any = copy.copy(distribution)
    if not isinstance(new, TorchDistributionMixin):
        new = _counterpart(new)
    for name, value in list(vars(new).items()):
        if isinstance(value, torch.distributions.Distribution):
            new.__dict__[name] = as_pyro(value, like)
        elif isinstance(value, Tensor) and value.is_floating_point() and like is not None:
            new.__dict__[name] = value.to(like)
    # `expand` notes whether validation is on. Without the note a distribution that is kept follows Pyro's setting of
    # the moment, which has to be off under vmap.
    if new.__dict__.get("_validate_args"):
        del new.__dict__["_validate_args"]
    return new


def to_event(distribution: Any, dims: int) -> dist.TorchDistribution:
    """`distribution.to_event(dims)`, which Pyro leaves untyped."""
    return distribution.to_event(dims)


def _counterpart(distribution: Any) -> Any:
    name = type(distribution).__name__
    cls: Any = PrecisionNormal if name == "PrecisionNormal" else getattr(dist, name, None)
    if cls is None or type(distribution) not in cls.__mro__:
        raise TypeError(
            f"{type(distribution).__module__}.{name} has no counterpart among Pyro's distributions. Derive a class "
            "from it and pyro.distributions.TorchDistributionMixin."
        )
    # These two hold more in Pyro than in torch, so that their attributes don't suffice.
    if name == "Uniform":
        return cls(distribution.low, distribution.high)
    if name == "Poisson":
        return cls(distribution.rate)
    new = cls.__new__(cls)
    new.__dict__.update(vars(distribution))
    return new


def _check_gaussian(gaussian: DiagGaussian) -> None:
    if not isinstance(gaussian, DiagGaussian):
        raise TypeError(f"a DiagGaussian is needed; received {describe(gaussian)}.")
