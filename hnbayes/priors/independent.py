"""Priors in which each weight has a fixed distribution of its own."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.distributions import Laplace as TorchLaplace
from torch.distributions import Normal as TorchNormal
from torch.distributions import StudentT as TorchStudentT

from hnbayes._checks import check_positive, describe
from hnbayes._distributions import bare, own_shape, to_event
from hnbayes.priors.prior import BoundPrior, Latent, Prior, Shape, Values, check_like

Map: TypeAlias = Callable[[Values], dict[str, Tensor]]


class IndependentPrior(Prior):
    """A prior with one latent a parameter, which is the parameter itself."""

    @abstractmethod
    def of(self, name: str, like: Tensor) -> Distribution:
        """The distribution of a parameter.

        Args:
            name: the parameter's.
            like: a tensor of its shape, dtype and device.

        Returns:
            A distribution that is scalar, or has the parameter's shape.
        """

    def bind(self, like: Values) -> BoundPrior:
        """See `Prior.bind`."""
        check_like(like)
        latents = tuple(
            Latent.fixed(name, spread(name, self.of(name, tensor), tensor)) for name, tensor in like.items()
        )
        shapes = {name: tuple(tensor.shape) for name, tensor in like.items()}
        return BoundPrior(shapes, latents, *themselves(shapes))


class Normal(IndependentPrior):
    r"""Each weight \(w \sim N(\mu, \sigma^2)\).

    Args:
        loc: \(\mu\), a number.
        scale: \(\sigma > 0\).

    Raises:
        TypeError, ValueError: if an argument is no such number.

    Example:
        >>> prior = hnbayes.priors.Normal(0.0, 0.1)
        >>> prior.sample(torch.nn.Linear(3, 2), 100, seed=0)["weight"].shape
        torch.Size([100, 2, 3])
    """

    def __init__(self, loc: float = 0.0, scale: float = 1.0) -> None:
        self.loc, self.scale = check_number("loc", loc), check_positive("scale", scale)

    def __repr__(self) -> str:
        return f"Normal({self.loc}, {self.scale})"

    def of(self, name: str, like: Tensor) -> Distribution:
        """See `IndependentPrior.of`."""
        return TorchNormal(number(self.loc, like), number(self.scale, like), validate_args=False)


class FanInNormal(IndependentPrior):
    r"""\(w \sim N(0, \sigma^2 / n)\) for a weight among n inputs of its unit, \(N(0, \sigma_b^2)\) for biases.

    With it the size of the functions doesn't depend on the width (Neal 1996, Priors for Infinite Networks). A tensor of
    two or more dimensions (outputs, inputs, ...) has n = inputs x ...; those of fewer count as biases.

    Args:
        scale: \(\sigma > 0\).
        bias_scale: \(\sigma_b > 0\); None takes `scale`.

    Raises:
        TypeError, ValueError: if an argument is no such number.

    Example:
        >>> wide = torch.nn.Linear(100, 1)
        >>> w = hnbayes.priors.FanInNormal(scale=2.0).sample(wide, 500, seed=0)["weight"]
        >>> round(w.std().item(), 1)  # 2 / sqrt(100)
        0.2
    """

    def __init__(self, scale: float = 1.0, bias_scale: float | None = None) -> None:
        self.scale = check_positive("scale", scale)
        self.bias_scale = self.scale if bias_scale is None else check_positive("bias_scale", bias_scale)

    def __repr__(self) -> str:
        return f"FanInNormal({self.scale}, bias_scale={self.bias_scale})"

    def of(self, name: str, like: Tensor) -> Distribution:
        """See `IndependentPrior.of`."""
        shape = tuple(like.shape)
        scale = self.bias_scale if len(shape) < 2 else self.scale / math.sqrt(fan_in(shape))
        return TorchNormal(number(0.0, like), number(scale, like), validate_args=False)


class Laplace(IndependentPrior):
    r"""Each weight has the density \(\exp(-|w - \mu| / b) / 2b\).

    Args:
        loc: \(\mu\), a number.
        scale: \(b > 0\).

    Raises:
        TypeError, ValueError: if an argument is no such number.

    Example:
        >>> bound = hnbayes.priors.Laplace(scale=0.5).bind({"w": torch.zeros(3)})
        >>> bound.log_prob({"w": torch.zeros(3)}).exp()  # three times the density 1 / (2 scale)
        tensor(1.)
    """

    def __init__(self, loc: float = 0.0, scale: float = 1.0) -> None:
        self.loc, self.scale = check_number("loc", loc), check_positive("scale", scale)

    def __repr__(self) -> str:
        return f"Laplace({self.loc}, {self.scale})"

    def of(self, name: str, like: Tensor) -> Distribution:
        """See `IndependentPrior.of`."""
        return TorchLaplace(number(self.loc, like), number(self.scale, like), validate_args=False)


class StudentT(IndependentPrior):
    r"""Each weight has Student's t distribution.

    Args:
        df: degrees of freedom, greater than 0.
        loc: the centre, a number.
        scale: greater than 0.

    Raises:
        TypeError, ValueError: if an argument is no such number.

    Example:
        >>> prior = hnbayes.priors.StudentT(df=3.0, scale=0.5)
        >>> bool(prior.sample(torch.nn.Linear(10, 10), 50, seed=0)["weight"].abs().max() > 4)  # heavy tails
        True
    """

    def __init__(self, df: float = 3.0, loc: float = 0.0, scale: float = 1.0) -> None:
        self.df, self.loc = check_positive("df", df), check_number("loc", loc)
        self.scale = check_positive("scale", scale)

    def __repr__(self) -> str:
        return f"StudentT({self.df}, {self.loc}, {self.scale})"

    def of(self, name: str, like: Tensor) -> Distribution:
        """See `IndependentPrior.of`."""
        return TorchStudentT(
            number(self.df, like), number(self.loc, like), number(self.scale, like), validate_args=False
        )


class FromDistribution(IndependentPrior):
    """Each parameter has the same distribution of torch, scalar or of the parameter's shape.

    Args:
        distribution: continuous.

    Raises:
        TypeError: if it is no distribution.
        ValueError: if it is discrete.

    Example:
        >>> prior = hnbayes.priors.FromDistribution(torch.distributions.Cauchy(0.0, 1.0))
        >>> prior.sample(torch.nn.Linear(3, 2), 4, seed=0)["bias"].shape
        torch.Size([4, 2])
    """

    def __init__(self, distribution: Distribution) -> None:
        if not isinstance(distribution, Distribution):
            raise TypeError(f"a distribution of torch is needed; received {describe(distribution)}.")
        support: Any = distribution.support
        if support.is_discrete:
            raise ValueError(f"the prior of weights must be continuous; received {describe(distribution)}.")
        self.distribution = distribution

    def __repr__(self) -> str:
        return f"FromDistribution({self.distribution})"

    def of(self, name: str, like: Tensor) -> Distribution:
        """See `IndependentPrior.of`."""
        return self.distribution


def themselves(shapes: Mapping[str, Shape]) -> tuple[Map, Map]:
    """Weights from latents and latents from weights, where they are the same."""

    def same(values: Values) -> dict[str, Tensor]:
        return {name: values[name] for name in shapes}

    return same, same


def spread(name: str, distribution: Distribution, like: Tensor) -> Distribution:
    """A parameter's prior with the parameter's shape as event shape, in its dtype, without validation.

    Args:
        name: the parameter's.
        distribution: scalar, or of the parameter's shape, in which dimensions of 1 are expanded.
        like: a tensor of the parameter's shape, dtype and device.

    Raises:
        ValueError: if the distribution has another shape.
    """
    shape, given = tuple(like.shape), own_shape(distribution)
    kept = len(shape) - len(distribution.event_shape)
    # One number for all or one for each: to broadcast (50,) against (50, 50) would be a guess of what was meant.
    fits = not given or (
        len(given) == len(shape)
        and given[kept:] == shape[kept:]
        and all(a in (1, b) for a, b in zip(given, shape, strict=True))
    )
    if not fits:
        raise ValueError(
            f"the prior of {name!r} must be scalar or have the parameter's shape, {shape}; received {given}. "
            "Reshape its arguments; dimensions of 1 are expanded."
        )
    return to_event(bare(distribution, like).expand(torch.Size(shape[:kept])), kept)


def fan_in(shape: Shape) -> int:
    """How many inputs a unit has whose weights have the shape (outputs, inputs, ...)."""
    return math.prod(shape[1:])


def number(value: float, like: Tensor) -> Tensor:
    """A number in the dtype and on the device of a tensor."""
    return torch.tensor(value, dtype=like.dtype, device=like.device)


def check_number(name: str, value: Any) -> float:
    """Return `value` as a finite float.

    Raises:
        TypeError: if it is no number.
        ValueError: if it isn't finite.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number; received {describe(value)}.")
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite; received {value}.")
    return float(value)
