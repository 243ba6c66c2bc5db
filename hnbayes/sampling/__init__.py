"""Runs of several chains: the loop, what it keeps, and who may watch."""

from hnbayes.sampling.chains import HMC, MCMC, NUTS
from hnbayes.sampling.draws import Draws
from hnbayes.sampling.multichain import MultiChainHMC
from hnbayes.sampling.resume import read_draws, resume_potential
from hnbayes.sampling.sample import sample_potential
from hnbayes.sampling.verdict import SamplingWarning

__all__ = [
    "HMC",
    "MCMC",
    "NUTS",
    "Draws",
    "MultiChainHMC",
    "SamplingWarning",
    "read_draws",
    "resume_potential",
    "sample_potential",
]
