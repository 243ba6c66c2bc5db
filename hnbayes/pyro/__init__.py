"""The samplers as kernels of Pyro, all chains of a Pyro model in one batch, networks and Gaussians as its sites."""

from hnbayes.pyro.checks import ModelError
from hnbayes.pyro.distributions import PrecisionNormal, as_pyro, flat_distribution, site_distributions
from hnbayes.pyro.inference_data import to_inference_data
from hnbayes.pyro.kernels import HMC, NUTS, RandomWalkMetropolis
from hnbayes.pyro.model_potential import ModelPotential, potential
from hnbayes.pyro.models import BayesianNetwork
from hnbayes.pyro.potentials import as_potential_fn
from hnbayes.pyro.runner import VectorizedMCMC

RandomWalkKernel = RandomWalkMetropolis  # Pyro's name for it

__all__ = [
    "HMC",
    "NUTS",
    "BayesianNetwork",
    "ModelError",
    "ModelPotential",
    "PrecisionNormal",
    "RandomWalkKernel",
    "RandomWalkMetropolis",
    "VectorizedMCMC",
    "as_potential_fn",
    "as_pyro",
    "flat_distribution",
    "potential",
    "site_distributions",
    "to_inference_data",
]
