"""From a network and data to the posterior of its weights, and what that says."""

from hnbayes.posterior.ensemble import EnsembleTraining, deep_ensemble
from hnbayes.posterior.files import load
from hnbayes.posterior.model import Model
from hnbayes.posterior.posterior import Posterior
from hnbayes.posterior.resume import resume
from hnbayes.posterior.sample import sample

__all__ = ["EnsembleTraining", "Model", "Posterior", "deep_ensemble", "load", "resume", "sample"]
