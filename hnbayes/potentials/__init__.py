"""Potential energies: any U(q), and that of a neural network's posterior."""

from hnbayes.potentials.base import Potential, as_potential
from hnbayes.potentials.nn import log_prob_standard_normal_prior, nn_pot_energy

__all__ = ["Potential", "as_potential", "log_prob_standard_normal_prior", "nn_pot_energy"]
