"""Markov kernels over all chains at once, and their adaptation."""

from hnbayes.kernels.chees import ChEES
from hnbayes.kernels.hmc import HMC
from hnbayes.kernels.integrators import leapfrog
from hnbayes.kernels.kernel import Finished, Kernel, State
from hnbayes.kernels.mclmc import MAMCLMC, MCLMC
from hnbayes.kernels.metropolis import RandomWalkMetropolis
from hnbayes.kernels.nuts import NUTS

__all__ = [
    "HMC",
    "MAMCLMC",
    "MCLMC",
    "NUTS",
    "ChEES",
    "Finished",
    "Kernel",
    "RandomWalkMetropolis",
    "State",
    "leapfrog",
]
