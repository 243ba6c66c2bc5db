"""Vectors kept as tensors, as on a GPU, give the draws that NumPy views give; here on the CPU."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from targets import gaussian

import hnbayes
from hnbayes.kernels import HMC
from hnbayes.kernels.adaptation import find_step_size
from hnbayes.kernels.arrays import DeviceVectors
from hnbayes.potentials import Potential
from hnbayes.rng import chain_streams

# On a Gaussian, trajectories from neighbouring points stay together, so rounding errors don't grow.
TARGET = gaussian([[1.0, 0.6, 0.0], [0.6, 2.0, -0.3], [0.0, -0.3, 0.5]])
every_kernel = pytest.mark.parametrize("kernel", ["nuts", "hmc", "metropolis"])


class CountingVectors(DeviceVectors):
    """Tells that it was used."""

    used = 0

    def index(self, rows):
        CountingVectors.used += 1
        return super().index(rows)


class SinglePrecision(DeviceVectors):
    """Mutant: host numbers lose half their digits on the way to the device."""

    def from_host(self, values):
        return super().from_host(values).float().to(self.dtype)


@contextmanager
def using(vectors):
    """Has all states made with vectors of a kind; None for those of the device."""
    with pytest.MonkeyPatch.context() as patch:
        if vectors is not None:
            for module in ("hnbayes.kernels.kernel", "hnbayes.sampling.sample"):
                patch.setattr(f"{module}.vectors_like", lambda q: vectors(q.dtype, q.device))
        yield


def run(kernel, metric, vectors=None):
    """30 transitions of warm-up and 20 draws of three chains."""
    with using(vectors):
        return hnbayes.sample_potential(
            TARGET.potential,
            TARGET.draw(3, 0),
            kernel=kernel,
            metric=metric,
            warmup=30,
            draws=20,
            seed=1,
            progress=False,
            save_warmup=True,
            # Steps well below the stable limit, beyond which trajectories would multiply rounding errors.
            step_size=0.05,
            target_accept=0.95,
        )


def largest_difference(a, b):
    """The largest difference in what two runs leave behind; of numbers above 1, the relative one."""
    pairs = [
        (a.positions, b.positions),
        (a.warmup_positions, b.warmup_positions),
        (a.step_size, b.step_size),
        (a.inverse_metric, b.inverse_metric),
        *((a.stats[name], b.stats[name]) for name in a.stats),
        *((a.warmup_stats[name], b.warmup_stats[name]) for name in a.stats),
    ]
    return max(float(((x.double() - y.double()).abs() / x.double().abs().clamp(min=1)).max()) for x, y in pairs)


@every_kernel
@pytest.mark.parametrize("metric", ["diag", "dense"])
def test_tensors_give_the_draws_of_arrays(kernel, metric):
    CountingVectors.used = 0
    difference = largest_difference(run(kernel, metric), run(kernel, metric, CountingVectors))
    assert CountingVectors.used > 50
    assert difference < 1e-10


@every_kernel
def test_comparison_rejects_lost_precision(kernel):
    assert largest_difference(run(kernel, "dense"), run(kernel, "dense", SinglePrecision)) > 1e-8


@pytest.mark.parametrize("inverse_mass", [torch.tensor(0.8), torch.tensor([1.0, 2.0, 0.5]), TARGET.covariance])
def test_fixed_metrics_give_the_same_draws(inverse_mass):
    """A metric that all chains share and no adaptation changes."""
    assert largest_difference(run("nuts", inverse_mass), run("nuts", inverse_mass, DeviceVectors)) < 1e-10


def test_search_finds_the_same_step_sizes():
    found = []
    for vectors in (None, CountingVectors):
        with using(vectors):
            kernel = HMC(1)
            state = kernel.init(Potential(TARGET.potential), TARGET.draw(8, 2), chain_streams(3, range(8)), 0.01)
            found.append(find_step_size(kernel, state).tolist())
    assert found[0] == found[1]
    assert len(set(found[0])) > 1
