"""Priors over the weights of networks."""

from hnbayes.priors.combined import FromFunction, FromGaussian, Patterns
from hnbayes.priors.hierarchical import HierarchicalNormal
from hnbayes.priors.horseshoe import Horseshoe
from hnbayes.priors.independent import FanInNormal, FromDistribution, Laplace, Normal, StudentT
from hnbayes.priors.names import as_prior
from hnbayes.priors.prior import BoundPrior, Latent, Prior

__all__ = [
    "BoundPrior",
    "FanInNormal",
    "FromDistribution",
    "FromFunction",
    "FromGaussian",
    "HierarchicalNormal",
    "Horseshoe",
    "Laplace",
    "Latent",
    "Normal",
    "Patterns",
    "Prior",
    "StudentT",
    "as_prior",
]
