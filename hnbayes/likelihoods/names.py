"""What a user may give as a likelihood."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.distributions import Distribution

from hnbayes._checks import check_choice, describe
from hnbayes.likelihoods.counts import NegativeBinomial, Poisson
from hnbayes.likelihoods.gaussian import Gaussian, HeteroscedasticGaussian
from hnbayes.likelihoods.labels import Bernoulli, Categorical
from hnbayes.likelihoods.likelihood import Likelihood
from hnbayes.likelihoods.own import FromDistribution
from hnbayes.likelihoods.student_t import StudentT

NAMED: dict[str, Callable[[], Likelihood]] = {
    "gaussian": Gaussian,
    "heteroscedastic": HeteroscedasticGaussian,
    "student_t": StudentT,
    "categorical": Categorical,
    "bernoulli": Bernoulli,
    "poisson": Poisson,
    "negative_binomial": NegativeBinomial,
}


def as_likelihood(likelihood: Any) -> Likelihood:
    """A likelihood from what a user gives.

    Args:
        likelihood: a `Likelihood`; one of the names "gaussian", "heteroscedastic", "student_t", "categorical",
            "bernoulli", "poisson", "negative_binomial", which mean those classes with their defaults; or a function
            from outputs to a distribution.

    Raises:
        TypeError: if it is none of them.
        ValueError: if the name is unknown.

    Example:
        >>> hnbayes.likelihoods.as_likelihood("student_t")
        StudentT(df=4.0, scale=HalfNormal())
        >>> own = hnbayes.likelihoods.as_likelihood(lambda output: torch.distributions.Gumbel(output, 1.0))
        >>> own.task(torch.zeros(3, 1))
        'regression'
    """
    if isinstance(likelihood, Likelihood):
        return likelihood
    if isinstance(likelihood, str):
        return NAMED[check_choice("likelihood", likelihood, tuple(NAMED))]()
    if isinstance(likelihood, type) and issubclass(likelihood, Likelihood):
        raise TypeError(f"likelihood must be an object; received the class. Use {likelihood.__name__}().")
    if not callable(likelihood) or isinstance(likelihood, (Distribution, type)):
        raise TypeError(
            f"likelihood must be one of {', '.join(NAMED)}, a Likelihood, or a function from the outputs to a "
            f"distribution; received {describe(likelihood)}."
        )
    return FromDistribution(likelihood)
