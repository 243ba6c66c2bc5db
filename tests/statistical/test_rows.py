"""Reports, divergences, reproducibility and adaptation of every row, and the mutants that each check sees."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from exact import exact_pair_check
from mutants import mutants_of
from rows import (
    BENT,
    CORRELATED,
    adaptation_errors,
    adapted_moments,
    as_p,
    behind_the_wall,
    constant_error,
    divergences,
    ess_per_gradient,
    lone_chain_error,
    reports,
)
from samplers import PLAIN, ROWS, rows

from hnbayes.kernels import HMC, NUTS, adaptation, hmc
from hnbayes.kernels.adaptation import DualAveraging, Welford
from hnbayes.sampling import beginning

pytestmark = [pytest.mark.statistical, pytest.mark.filterwarnings("ignore::hnbayes.sampling.SamplingWarning")]
every_sampler = rows(biased=True)
with_gradient = rows(lambda sampler: sampler.family != "metropolis", biased=True)


def adapts(sampler):
    """Whether a row's warm-up adapts step size and metric, and all chains at once."""
    return sampler.batched and not sampler.name.startswith("MultiChain")


@every_sampler
def test_reports_are_those_of_the_draws(sampler, seed, record):
    record.hold("reports", sampler.name, "banana", as_p(reports(sampler, seed)))


def test_reports_reject_the_draw_before(seed, record, monkeypatch):
    real = HMC.advance

    def advance(self, state):
        before = -state.energy
        state, finished = real(self, state)
        if finished is not None:
            finished.info["lp"] = before[finished.rows]
        return state, finished

    monkeypatch.setattr(HMC, "advance", advance)
    found = reports(ROWS["hmc diag"], seed)
    record.reject("reports", "hmc, lp of the draw before", "banana", as_p(found))


@with_gradient
def test_long_steps_diverge_and_short_ones_do_not(sampler, seed, record):
    share, still = divergences(sampler, 10.0, seed)
    none, _ = divergences(sampler, 1e-4, seed)
    largest, told = behind_the_wall(sampler, seed)
    criteria = {"long steps": share == 1 and still, "short steps": none == 0, "NaN stays out": largest <= 1 and told}
    record.hold("divergences", sampler.name, "narrow, wall", as_p(criteria))


@pytest.mark.parametrize("name", ["hmc diag", "nuts diag"])
def test_divergences_reject_a_threshold_never_passed(name, seed, record, monkeypatch):
    for kernel in (HMC, NUTS):
        monkeypatch.setattr(kernel, "__init__", _with_threshold(kernel.__init__))
    share, still = divergences(ROWS[name], 10.0, seed)
    record.reject("divergences", f"{name}, no threshold", "narrow", as_p({"long steps": share == 1 and still}))


def _with_threshold(real):
    def init(self, *args, **kwargs):
        real(self, *args, **kwargs)
        self.delta_max = 1e300

    return init


@rows(core=("hmc diag", "nuts dense"), biased=True)
def test_draws_depend_on_seed_and_chain_alone(sampler, seed, record):
    criteria = {"seed": exact_pair_check(sampler), "U + c": constant_error(sampler, seed) < 1e-6}
    if sampler.batched:
        criteria["lone chain"] = lone_chain_error(sampler, seed) < 1e-10
    record.hold("reproducibility", sampler.name, "banana", as_p(criteria))


def test_reproducibility_rejects_probabilities_that_underflow(seed, record, monkeypatch):
    def by_ratio(energy, proposed, *_):
        ratio = np.exp(-proposed) / np.exp(-energy)
        return np.log(np.minimum(np.nan_to_num(ratio, nan=0.0), 1.0))

    monkeypatch.setattr(hmc, "log_acceptance", by_ratio)
    with np.errstate(all="ignore"):
        error = constant_error(ROWS["hmc diag"], seed)
    record.reject("reproducibility", "hmc, ratio of densities", "banana", as_p({"U + c": error < 1e-6}))


def test_reproducibility_rejects_a_shared_stream(seed, record, monkeypatch):
    real = beginning.chain_streams
    monkeypatch.setattr(beginning, "chain_streams", lambda seed, chains: [real(seed, [0])[0]] * len(chains))
    error = lone_chain_error(ROWS["nuts diag"], seed)
    record.reject("reproducibility", "nuts, one stream for all", "banana", as_p({"lone chain": error < 1e-10}))


@rows(adapts, ("nuts diag",))
@pytest.mark.parametrize("target", ["correlated", "banana"])
def test_adapted_chains_have_the_moments(sampler, target, seed, full, record):
    size = {} if full else {"chains": 24, "warmup": 150, "draws": 60}
    density = CORRELATED if target == "correlated" else BENT
    if sampler.family == "metropolis":
        size["warmup"] = 600 if full else 300
    found, chains = adapted_moments(sampler, density, seed, **size)
    efficiency = {"sampler": sampler.name, "problem": target, "ess_per_gradient": ess_per_gradient(chains)}
    record.efficiency.append(efficiency)
    record.hold("adapted moments", sampler.name, target, found)


@pytest.mark.slow
@mutants_of("adapted moments")
def test_adapted_moments_reject(mutant, seed, record, monkeypatch):
    mutant.apply(monkeypatch)
    with np.errstate(all="ignore"):
        found, _ = adapted_moments(PLAIN[mutant.family], CORRELATED, seed)
    record.reject("adapted moments", f"{mutant.family}, {mutant.name}", "correlated", found)


@pytest.mark.slow
@rows(lambda sampler: adapts(sampler) and sampler.family != "metropolis")
def test_warm_up_finds_steps_and_scales(sampler, seed, record):
    record.hold("adaptation", sampler.name, "50 scales", as_p(adaptation_errors(sampler, seed)))


class Contrary(DualAveraging):
    """Makes steps longer where acceptance is too low, until no number holds them."""

    def update(self, rows, acceptance):
        with np.errstate(over="ignore"):
            return np.clip(super().update(rows, 2 * self.target - acceptance), 1e-6, 1e3)

    def average(self, rows):
        with np.errstate(over="ignore"):
            return np.clip(super().average(rows), 1e-6, 1e3)


class MassForInverse(Welford):
    """Precisions instead of variances."""

    def covariance(self, row):
        count, covariance = super().covariance(row)
        return count, 1 / covariance


@pytest.mark.slow
@pytest.mark.parametrize(("part", "mutant"), [("DualAveraging", Contrary), ("Welford", MassForInverse)])
def test_adaptation_rejects(part, mutant, seed, record, monkeypatch):
    monkeypatch.setattr(adaptation, part, mutant)
    # Wrong steps would be many without a limit.
    monkeypatch.setattr(HMC, "steps", lambda self, size: torch.full(size.shape, 5).numpy())
    found = adaptation_errors(ROWS["hmc diag"], seed)
    record.reject("adaptation", f"hmc, {mutant.__name__}", "50 scales", as_p(found))
