"""Gaussians over weights, as Laplace approximations and continual-learning regularisers give them."""

from hnbayes.laplace.buffers import restore_buffers
from hnbayes.laplace.ewc import context_mod_forward, ewc_regularizer
from hnbayes.laplace.fisher import FisherDiagonal, compute_fisher, diagonal_fisher
from hnbayes.laplace.gaussian import DiagGaussian
from hnbayes.laplace.precision_normal import PrecisionNormal

__all__ = [
    "DiagGaussian",
    "FisherDiagonal",
    "PrecisionNormal",
    "compute_fisher",
    "context_mod_forward",
    "diagonal_fisher",
    "ewc_regularizer",
    "restore_buffers",
]
