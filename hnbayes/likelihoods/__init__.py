"""Likelihoods: the distribution of the data, given a network's outputs."""

from hnbayes.likelihoods.counts import NegativeBinomial, Poisson
from hnbayes.likelihoods.gaussian import Gaussian, HeteroscedasticGaussian
from hnbayes.likelihoods.labels import Bernoulli, Categorical
from hnbayes.likelihoods.likelihood import Likelihood
from hnbayes.likelihoods.names import as_likelihood
from hnbayes.likelihoods.own import FromDistribution
from hnbayes.likelihoods.student_t import StudentT

__all__ = [
    "Bernoulli",
    "Categorical",
    "FromDistribution",
    "Gaussian",
    "HeteroscedasticGaussian",
    "Likelihood",
    "NegativeBinomial",
    "Poisson",
    "StudentT",
    "as_likelihood",
]
