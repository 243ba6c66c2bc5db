"""From a network and data to the posterior of its weights, and what that says."""

from hnbayes.posterior.files import load
from hnbayes.posterior.model import Model
from hnbayes.posterior.posterior import Posterior
from hnbayes.posterior.resume import resume
from hnbayes.posterior.sample import sample

__all__ = ["Model", "Posterior", "load", "resume", "sample"]
