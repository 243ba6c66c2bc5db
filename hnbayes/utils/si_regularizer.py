"""The documented module `si_regularizer`: synaptic intelligence."""

from hnbayes.laplace.si import si_compute_importance, si_post_optim_step, si_pre_optim_step, si_regularizer

__all__ = ["si_compute_importance", "si_post_optim_step", "si_pre_optim_step", "si_regularizer"]
