"""The documented module `ewc_regularizer`: elastic weight consolidation."""

from hnbayes.laplace.ewc import context_mod_forward, ewc_regularizer
from hnbayes.laplace.fisher import compute_fisher

__all__ = ["compute_fisher", "context_mod_forward", "ewc_regularizer"]
