"""On a GPU: right moments, and how often the host waits for the device. Skipped where there is none."""

from __future__ import annotations

import warnings
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from targets import gaussian

import hnbayes
from hnbayes.kernels import HMC, NUTS
from hnbayes.potentials import Potential
from hnbayes.rng import chain_streams

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

TARGET = gaussian([[1.0, 0.6, 0.0], [0.6, 2.0, -0.3], [0.0, -0.3, 0.5]])


def on_device():
    """U of the target, its constants on the device."""
    precision = torch.linalg.inv(TARGET.covariance).float().cuda()
    return Potential(lambda q: 0.5 * q @ precision @ q)


@contextmanager
def counted_waits():
    """How often torch says that the host waited for the device, as a list that grows."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield caught
        finally:
            torch.cuda.set_sync_debug_mode("default")


def waits_per_step(kernel, chains=16, evaluations=200):
    """How often each leapfrog step of the batch waits, and whether chains began or ended in it."""
    U = on_device()
    steps = 0.1 * (1 + np.arange(chains) / chains)
    starts = TARGET.draw(chains, 4).float().cuda()
    U.prepare(starts)
    state = kernel.init(U, starts, chain_streams(5, range(chains)), steps)
    counts, between = [], []
    with counted_waits() as waits:
        for _ in range(evaluations):
            before, beginning = len(waits), state.fresh.any()
            state, finished = kernel.advance(state)
            counts.append(sum("synchronizing" in str(wait.message) for wait in waits[before:]))
            between.append(bool(beginning) or finished is not None)
    return np.array(counts), np.array(between)


def test_counter_sees_a_wait():
    with counted_waits() as waits:
        torch.ones(3, device="cuda").sum().item()
    assert any("synchronizing" in str(wait.message) for wait in waits)


@pytest.mark.parametrize("kernel", ["nuts", "hmc"])
@pytest.mark.parametrize("metric", ["diag", "dense"])
def test_moments(kernel, metric):
    draws = hnbayes.sample_potential(
        on_device(),
        TARGET.draw(32, 0).float().cuda(),
        kernel=kernel,
        metric=metric,
        warmup=300,
        draws=300,
        seed=1,
        progress=False,
    )
    positions = draws.positions.double()
    # Means of chains are independent, so their spread says how exact the mean of all is.
    for values, truth in ((positions, TARGET.mean), (positions.square(), TARGET.covariance.diagonal())):
        of_chains = values.mean(1)
        z = (of_chains.mean(0) - truth) / (of_chains.std(0) / len(of_chains) ** 0.5)
        assert z.abs().max() < 4.5


def test_leapfrog_step_of_hmc_waits_once():
    counts, between = waits_per_step(HMC(7))
    assert counts[~between].max() <= 1


def test_leapfrog_step_of_nuts_waits_at_most_five_times():
    counts, _ = waits_per_step(NUTS(6))
    assert counts.max() <= 5
