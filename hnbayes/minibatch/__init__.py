"""Samplers that look at a minibatch a step, for data too many to look at all of them: fast, and biased."""

from hnbayes.minibatch.kernels import PSGLD, SGHMC, SGLD, MinibatchKernel, StepTerms
from hnbayes.minibatch.sample import sample_minibatch
from hnbayes.minibatch.schedules import Constant, Custom, Cyclical, Schedule, Stage

__all__ = [
    "PSGLD",
    "SGHMC",
    "SGLD",
    "Constant",
    "Custom",
    "Cyclical",
    "MinibatchKernel",
    "Schedule",
    "Stage",
    "StepTerms",
    "sample_minibatch",
]
