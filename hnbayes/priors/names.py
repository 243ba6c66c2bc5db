"""What a user may give as a prior."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.distributions import Distribution

from hnbayes._checks import check_positive, describe
from hnbayes.laplace.gaussian import DiagGaussian
from hnbayes.priors.combined import FromFunction, FromGaussian, Patterns
from hnbayes.priors.independent import FromDistribution, Normal
from hnbayes.priors.prior import Prior


def as_prior(prior: Any) -> Prior:
    """A prior from what a user gives.

    Args:
        prior: a `Prior`; a number s, which means Normal(0, s); a distribution of torch, scalar or of each parameter's
            shape; a dict from patterns of parameters' names ("*.weight") to these, where the first match counts; a
            `DiagGaussian` over all weights; or a function of the flat weights (D,) that gives their log density.

    Raises:
        TypeError: if it is none of them.
        ValueError: if a number isn't positive.

    Example:
        >>> hnbayes.priors.as_prior(0.5)
        Normal(0.0, 0.5)
        >>> hnbayes.priors.as_prior({"*.bias": 0.1, "*": hnbayes.priors.FanInNormal(1.0)})
        Patterns({'*.bias': Normal(0.0, 0.1), '*': FanInNormal(1.0, bias_scale=1.0)})
    """
    if isinstance(prior, Prior):
        return prior
    if isinstance(prior, DiagGaussian):
        return FromGaussian(prior)
    if isinstance(prior, Distribution):
        return FromDistribution(prior)
    if isinstance(prior, Mapping):
        return Patterns({pattern: as_prior(value) for pattern, value in prior.items()})
    if isinstance(prior, type):
        raise TypeError(f"prior must be an object; received the class {prior.__name__}. Use {prior.__name__}().")
    if callable(prior):
        return FromFunction(prior)
    try:
        return Normal(0.0, check_positive("the prior's standard deviation", prior))
    except TypeError:
        raise TypeError(
            "prior must be a number (a standard deviation), a distribution, a dict of patterns, a DiagGaussian, a "
            f"Prior or a function of the flat weights; received {describe(prior)}."
        ) from None
