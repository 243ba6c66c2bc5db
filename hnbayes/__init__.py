"""hnbayes: sampling the posteriors of Bayesian neural networks in PyTorch, natively and for Pyro."""

from typing import Any

from hnbayes._version import __version__
from hnbayes.inference_data import to_inference_data
from hnbayes.params import ParamSpec
from hnbayes.potentials import Potential, log_prob_standard_normal_prior, nn_pot_energy
from hnbayes.sampling import HMC, MCMC, NUTS, Draws, MultiChainHMC, SamplingWarning, sample_potential

__all__ = [
    "HMC",
    "MCMC",
    "NUTS",
    "Draws",
    "MultiChainHMC",
    "ParamSpec",
    "Potential",
    "SamplingWarning",
    "__version__",
    "log_prob_standard_normal_prior",
    "nn_pot_energy",
    "sample_potential",
    "to_inference_data",
]


def __getattr__(name: str) -> Any:
    """`hnbayes.pyro` is imported when it is first asked for, because it imports Pyro."""
    if name == "pyro":
        import importlib

        return importlib.import_module("hnbayes.pyro")
    raise AttributeError(f"module 'hnbayes' has no attribute {name!r}")
