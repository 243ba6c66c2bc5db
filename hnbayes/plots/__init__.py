"""Pictures of functions, predictions and chains; each draws in the axes that it is given, and returns them."""

from hnbayes.plots.chains import plot_energy, plot_lppd, plot_ranks, plot_trace, plot_tree_depth
from hnbayes.plots.functions import plot_band, plot_prior_posterior
from hnbayes.plots.predictions import plot_coverage, plot_predicted, plot_reliability

__all__ = [
    "plot_band",
    "plot_coverage",
    "plot_energy",
    "plot_lppd",
    "plot_predicted",
    "plot_prior_posterior",
    "plot_ranks",
    "plot_reliability",
    "plot_trace",
    "plot_tree_depth",
]
