"""Function-space diagnostics: what a network computes is identified where its weights are not."""

from hnbayes.diagnostics.checks import Check
from hnbayes.diagnostics.energy import bfmi
from hnbayes.diagnostics.lppd import CumulativeLPPD, cumulative_lppd, loo, lppd, relative_efficiency
from hnbayes.diagnostics.report import Report, diagnose
from hnbayes.diagnostics.stacking import best_mixture, stacking_weights
from hnbayes.diagnostics.statistics import Convergence, convergence, ess, mcse, nested_rhat, rhat, within_chain_rhat
from hnbayes.diagnostics.units import dead_units

__all__ = [
    "Check",
    "Convergence",
    "CumulativeLPPD",
    "Report",
    "best_mixture",
    "bfmi",
    "convergence",
    "cumulative_lppd",
    "dead_units",
    "diagnose",
    "ess",
    "loo",
    "lppd",
    "mcse",
    "nested_rhat",
    "relative_efficiency",
    "rhat",
    "stacking_weights",
    "within_chain_rhat",
]
