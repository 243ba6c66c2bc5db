"""hnbayes: sampling the posteriors of Bayesian neural networks in PyTorch."""

from hnbayes._version import __version__
from hnbayes.inference_data import to_inference_data
from hnbayes.params import ParamSpec
from hnbayes.posterior import Posterior, load, sample
from hnbayes.potentials import Potential, log_prob_standard_normal_prior, nn_pot_energy
from hnbayes.sampling import HMC, MCMC, NUTS, Draws, MultiChainHMC, SamplingWarning, sample_potential

__all__ = [
    "HMC",
    "MCMC",
    "NUTS",
    "Draws",
    "MultiChainHMC",
    "ParamSpec",
    "Posterior",
    "Potential",
    "SamplingWarning",
    "__version__",
    "load",
    "log_prob_standard_normal_prior",
    "nn_pot_energy",
    "sample",
    "sample_potential",
    "to_inference_data",
]
