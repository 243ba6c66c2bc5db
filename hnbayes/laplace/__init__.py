"""Gaussians over weights, as Laplace approximations and continual-learning regularisers give them."""

from hnbayes.laplace.gaussian import DiagGaussian
from hnbayes.laplace.precision_normal import PrecisionNormal

__all__ = ["DiagGaussian", "PrecisionNormal"]
