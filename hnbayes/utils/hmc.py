"""The documented module `hmc`: chains, the leapfrog integrator, potentials of networks."""

from hnbayes.kernels.integrators import leapfrog
from hnbayes.potentials.nn import log_prob_standard_normal_prior, nn_pot_energy
from hnbayes.sampling.chains import HMC, MCMC, NUTS
from hnbayes.sampling.multichain import MultiChainHMC

__all__ = [
    "HMC",
    "MCMC",
    "NUTS",
    "MultiChainHMC",
    "leapfrog",
    "log_prob_standard_normal_prior",
    "nn_pot_energy",
]
