"""The documented chains, made and looked at as their tests do."""

from __future__ import annotations

import math
import warnings

import torch

from hnbayes import HMC, MCMC, NUTS, MultiChainHMC, Potential

CLASSES = {"hmc": HMC, "nuts": NUTS, "mcmc": MCMC}
TUNED = {"hmc": {"stepsize": 0.5, "num_steps": 3}, "nuts": {"stepsize": 0.5}, "mcmc": {"proposal_std": 1.0}}
KINDS = list(CLASSES)


def standard(q):
    return 0.5 * q.square().sum()


# One for all tests, so that its graph is captured once.
STANDARD = Potential(standard, on_error="raise")


def make(kind, start=None, U=STANDARD, **options):
    """A chain that is well tuned for a standard normal target."""
    start = torch.zeros(2, dtype=torch.float64) if start is None else start
    return CLASSES[kind](start, U, **{"seed": 0, **TUNED[kind], **options})


def make_all(kind, starts=None, U=STANDARD, **options):
    starts = starts_for(3) if starts is None else starts
    return MultiChainHMC(starts, U, kind, **{"seed": 0, **TUNED[kind], **options})


def starts_for(chains, dimension=2, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return list(torch.randn(chains, dimension, generator=generator, dtype=torch.float64).to(dtype))


def path(chain):
    return torch.stack(chain.position_trajectory)


def paths(chains):
    return torch.stack([path(chain) for chain in chains.chains])


def import_arviz():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ArviZ 0.23 announces 1.0 once a day
        import arviz
    return arviz


class Fuse:
    """A potential that raises at a call to come; `.item()` keeps it from being captured."""

    def __init__(self, error):
        self.error = error
        self.left = math.inf

    def __call__(self, q):
        self.left -= 1
        if self.left < 0:
            self.left = math.inf
            raise self.error
        return standard(q) * (1.0 if q[0].item() < 1e9 else 0.0)
