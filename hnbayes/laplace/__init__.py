"""Gaussians over weights, as Laplace approximations and continual-learning regularisers give them."""

from hnbayes.laplace.buffers import restore_buffers
from hnbayes.laplace.constructors import from_draws, from_ewc, from_fisher, from_hessian, from_si
from hnbayes.laplace.ewc import context_mod_forward, ewc_regularizer
from hnbayes.laplace.fisher import FisherDiagonal, compute_fisher, diagonal_fisher
from hnbayes.laplace.gaussian import DiagGaussian
from hnbayes.laplace.precision_normal import PrecisionNormal
from hnbayes.laplace.si import si_compute_importance, si_post_optim_step, si_pre_optim_step, si_regularizer

__all__ = [
    "DiagGaussian",
    "FisherDiagonal",
    "PrecisionNormal",
    "compute_fisher",
    "context_mod_forward",
    "diagonal_fisher",
    "ewc_regularizer",
    "from_draws",
    "from_ewc",
    "from_fisher",
    "from_hessian",
    "from_si",
    "restore_buffers",
    "si_compute_importance",
    "si_post_optim_step",
    "si_pre_optim_step",
    "si_regularizer",
]
