"""Vectors kept as tensors, as on a GPU, give the draws that NumPy views give; here on the CPU."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from targets import gaussian

import hnbayes
from hnbayes.kernels import HMC, NUTS
from hnbayes.kernels.adaptation import find_step_size
from hnbayes.kernels.arrays import DeviceVectors
from hnbayes.potentials import Potential
from hnbayes.rng import chain_streams

# On a Gaussian, trajectories from neighbouring points stay together, so rounding errors don't grow.
TARGET = gaussian([[1.0, 0.6, 0.0], [0.6, 2.0, -0.3], [0.0, -0.3, 0.5]])
every_kernel = pytest.mark.parametrize("kernel", ["nuts", "hmc", "metropolis", "mclmc", "mamclmc", "chees"])


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


class CountingReads(DeviceVectors):
    """Counts how often the host would wait for a device: all reading goes through `to_host`."""

    reads = 0

    def to_host(self, array):
        CountingReads.reads += 1
        return super().to_host(array)


class ProductsApart(CountingReads):
    """Mutant: dot products are read one by one."""

    def rowdots(self, a, *others):
        return [self.rowdot(a, b) for b in others]


@contextmanager
def using(vectors):
    """Has all states made with vectors of a kind; None for those of the device."""
    with pytest.MonkeyPatch.context() as patch:
        if vectors is not None:
            for module in ("hnbayes.kernels.kernel", "hnbayes.sampling.arguments"):
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
    # Step sizes that follow from squared energy errors, small differences of large numbers, lose digits.
    assert difference < (1e-6 if "mclmc" in kernel else 1e-10)


@every_kernel
def test_comparison_rejects_lost_precision(kernel):
    least = 1e-5 if "mclmc" in kernel else 1e-8
    assert largest_difference(run(kernel, "dense"), run(kernel, "dense", SinglePrecision)) > least


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


def reads(kernel, vectors, chains=16, evaluations=300):
    """How often each leapfrog step of a batch reads from the device, and whether chains began or ended in it."""
    with using(vectors):
        # Step sizes differ, so that chains soon are at different stages.
        steps = 0.1 * (1 + np.arange(chains) / chains)
        state = kernel.init(Potential(TARGET.potential), TARGET.draw(chains, 4), chain_streams(5, range(chains)), steps)
        counts, between = [], []
        for _ in range(evaluations):
            before, beginning = CountingReads.reads, state.fresh.any()
            state, finished = kernel.advance(state)
            counts.append(CountingReads.reads - before)
            between.append(bool(beginning) or finished is not None)
    return np.array(counts), np.array(between)


def test_leapfrog_step_of_hmc_waits_once_for_the_device():
    counts, between = reads(HMC(7), CountingReads)
    assert set(counts[~between]) == {1}  # U
    assert counts[between].max() == 2  # and the kinetic energies of chains that begin, or of those that end


def test_leapfrog_step_of_nuts_waits_a_few_times():
    counts, between = reads(NUTS(6), CountingReads)
    # U and kinetic energies, always; where there are any: U-turns of subtrees and of trees, new kinetic energies.
    assert counts.min() >= 2
    assert counts[~between].max() <= 4
    assert counts.max() == 5


def test_count_of_waiting_sees_products_read_one_by_one():
    counts, _ = reads(NUTS(6), ProductsApart)
    assert counts.max() == 7
