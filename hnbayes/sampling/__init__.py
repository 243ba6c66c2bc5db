"""Runs of several chains: the loop, what it keeps, and who may watch."""

from hnbayes.sampling.draws import Draws
from hnbayes.sampling.sample import sample_potential
from hnbayes.sampling.verdict import SamplingWarning

__all__ = ["Draws", "SamplingWarning", "sample_potential"]
