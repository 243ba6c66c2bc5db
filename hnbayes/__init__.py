"""hnbayes: sampling the posteriors of Bayesian neural networks in PyTorch, natively and for Pyro."""

import importlib
from typing import Any

from hnbayes import laplace, likelihoods, priors
from hnbayes._version import __version__
from hnbayes.inference_data import to_inference_data
from hnbayes.minibatch import sample_minibatch
from hnbayes.params import ParamSpec
from hnbayes.posterior import EnsembleTraining, Posterior, deep_ensemble, load, resume, sample
from hnbayes.potentials import Potential, log_prob_standard_normal_prior, nn_pot_energy
from hnbayes.sampling import HMC, MCMC, NUTS, Draws, MultiChainHMC, SamplingWarning, read_draws, sample_potential

__all__ = [
    "HMC",
    "MCMC",
    "NUTS",
    "Draws",
    "EnsembleTraining",
    "MultiChainHMC",
    "ParamSpec",
    "Posterior",
    "Potential",
    "SamplingWarning",
    "__version__",
    "deep_ensemble",
    "laplace",
    "likelihoods",
    "load",
    "log_prob_standard_normal_prior",
    "nn_pot_energy",
    "priors",
    "read_draws",
    "resume",
    "sample",
    "sample_minibatch",
    "sample_potential",
    "to_inference_data",
]

# Rooms that import libraries which not everybody needs, opened when they are first asked for.
_LAZY = (
    "data",
    "diagnostics",
    "distributed",
    "hnets",
    "layers",
    "mnets",
    "plots",
    "pyro",
    "sklearn",
    "training",
    "utils",
)


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return importlib.import_module(f"hnbayes.{name}")
    raise AttributeError(f"module 'hnbayes' has no attribute {name!r}")
