"""Metropolis: detailed balance of the acceptance function, and what the kernel makes of it."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from targets import banana, gaussian, moment_scores, standard_normal

import hnbayes
from hnbayes.kernels import RandomWalkMetropolis, metropolis
from hnbayes.kernels.arrays import HostVectors
from hnbayes.kernels.metrics import DenseMetric, as_metric
from hnbayes.kernels.metropolis import log_acceptance
from hnbayes.potentials import Potential
from hnbayes.rng import chain_streams

pytestmark = pytest.mark.statistical
STATES = 25
TARGET = banana([1.0, 1.5, 0.7], [0.3, -0.2])
DENSE = torch.tensor([[1.0, 0.3, 0.1], [0.3, 2.0, -0.2], [0.1, -0.2, 0.6]], dtype=torch.float64)


def without_hastings(energy, proposed, log_forward, log_backward):
    """Mutant: takes an asymmetric proposal for a symmetric one."""
    return log_acceptance(energy, proposed)


def hastings_upside_down(energy, proposed, log_forward, log_backward):
    """Mutant: the ratio of the proposal's densities is the wrong way up."""
    return log_acceptance(energy, proposed, log_backward, log_forward)


def balance_errors(accept, asymmetric):
    """On a grid: max |pi_i q_ij a_ij - pi_j q_ji a_ji| and max |pi P - pi|."""
    rng = np.random.default_rng(0)
    energy = rng.normal(0, 2, STATES)
    pi = np.exp(-energy) / np.exp(-energy).sum()
    q = rng.uniform(0.01, 1, (STATES, STATES))
    if asymmetric:
        q /= q.sum(1, keepdims=True)
    else:
        q = (q + q.T) / (2 * STATES)
    a = np.exp(accept(energy[:, None], energy[None, :], np.log(q), np.log(q.T)))
    P = q * a
    np.fill_diagonal(P, 0)
    np.fill_diagonal(P, 1 - P.sum(1))
    flow = pi[:, None] * q * a
    return np.abs(flow - flow.T).max(), np.abs(pi @ P - pi).max()


@pytest.mark.parametrize("asymmetric", [False, True])
def test_detailed_balance(asymmetric):
    assert max(balance_errors(log_acceptance, asymmetric)) <= 1e-14


def test_proposals_are_symmetric_by_default():
    assert max(balance_errors(without_hastings, asymmetric=False)) <= 1e-14


@pytest.mark.parametrize("mutant", [without_hastings, hastings_upside_down])
def test_detailed_balance_rejects_mutants(mutant):
    assert min(balance_errors(mutant, asymmetric=True)) > 1e-4


def test_acceptance_is_in_log_space():
    """A constant added to both energies changes nothing; differences may be as large as they like."""
    energy, proposed = np.array([0.0, 0.0, 5.0, 0.0]), np.array([1.0, 1e5, 2.0, -1e5])
    expected = np.array([-1.0, -1e5, 0.0, 0.0])
    for constant in (0.0, 2.0**30, -(2.0**30)):
        np.testing.assert_array_equal(log_acceptance(energy + constant, proposed + constant), expected)
    np.testing.assert_array_equal(log_acceptance(np.zeros(2), np.array([np.nan, np.inf])), [-np.inf, -np.inf])


class ScalesByVariance(RandomWalkMetropolis):
    """Mutant: takes the proposal's standard deviation for its variance."""

    def advance(self, state):
        scale = state.step_size
        state.step_size = scale**2
        state, finished = super().advance(state)
        state.step_size = scale
        return state, finished


class AcceptsAlways(RandomWalkMetropolis):
    """Mutant: every proposal is taken."""

    def advance(self, state):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(metropolis, "log_acceptance", lambda energy, proposed: np.zeros_like(energy))
            return super().advance(state)


class SkipsRejections(RandomWalkMetropolis):
    """Mutant: a rejection is no transition, so nothing is repeated."""

    def advance(self, state):
        state, finished = super().advance(state)
        rows = np.flatnonzero(finished.info["accepted"])
        return state, type(finished)(rows, {name: values[rows] for name, values in finished.info.items()})


class ReportsProposal(RandomWalkMetropolis):
    """Mutant: reports U of the proposal, taken or not."""

    def advance(self, state):
        seen = []

        def watch(energy, proposed):
            seen.append(proposed)
            return log_acceptance(energy, proposed)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(metropolis, "log_acceptance", watch)
            state, finished = super().advance(state)
        finished.info["lp"] = -seen[0]
        return state, finished


class MovesAnyway(RandomWalkMetropolis):
    """Mutant: a rejected step leaves a little of itself behind."""

    def advance(self, state):
        before = state.position.copy()
        state, finished = super().advance(state)
        rejected = ~finished.info["accepted"]
        state.position[rejected] = before[rejected] * (1 + 1e-12)
        return state, finished


def acceptance_in_50_dimensions(kernel):
    """Mean acceptance of 20,000 proposals of scale 2.38 / sqrt(50) on a Gaussian, from exact draws."""
    factor = standard_normal(50, 50, 0)
    target = gaussian(factor @ factor.mT / 50 + torch.eye(50, dtype=torch.float64))
    draws = hnbayes.sample_potential(
        target.potential,
        target.draw(100, 1),
        kernel=kernel,
        metric=target.covariance,
        step_size=2.38 / 50**0.5,
        adapt_step_size=False,
        warmup=0,
        draws=200,
        seed=2,
        progress=False,
    )
    return float(draws.stats["accepted"].double().mean())


def test_acceptance_of_the_optimal_scale():
    assert abs(acceptance_in_50_dimensions("metropolis") - 0.234) <= 0.03


@pytest.mark.parametrize("mutant", [ScalesByVariance, AcceptsAlways])
def test_acceptance_rejects_mutants(mutant):
    assert abs(acceptance_in_50_dimensions(mutant()) - 0.234) > 0.1


def chains(kernel):
    """Twenty chains of 200 draws at a fixed scale, from exact draws; the start is put before them."""
    start = TARGET.draw(20, 3)
    draws = hnbayes.sample_potential(
        TARGET.potential,
        start,
        kernel=kernel,
        step_size=1.2,
        adapt_step_size=False,
        metric="unit",
        warmup=0,
        draws=200,
        seed=4,
        progress=False,
    )
    positions = torch.cat((start[:, None], draws.positions), 1)
    lp = torch.cat((-torch.func.vmap(TARGET.potential)(start)[:, None], draws.stats["lp"]), 1)
    return positions, lp, draws.stats


def repeats_exactly(kernel):
    """Whether a draw is the draw before, with the same lp, where and only where a step is rejected."""
    positions, lp, stats = chains(kernel)
    same_position = (positions[:, 1:] == positions[:, :-1]).all(-1)
    same_lp = lp[:, 1:] == lp[:, :-1]
    # The start's lp is not the run's own number, so its last bit may differ.
    same_lp[:, 0] = torch.isclose(lp[:, 1], lp[:, 0], rtol=1e-13)
    return torch.equal(same_position, ~stats["accepted"]) and torch.equal(same_lp, ~stats["accepted"])


def acceptance_score(kernel):
    """z-score of the number of acceptances, given the probability of each."""
    stats = chains(kernel)[2]
    excess = stats["accepted"].double() - stats["acceptance_rate"]
    return float(excess.mean() / excess.std()) * excess.numel() ** 0.5


def test_rejected_step_repeats_draw_and_lp():
    assert repeats_exactly("metropolis")


@pytest.mark.parametrize("mutant", [ReportsProposal, MovesAnyway])
def test_repetition_rejects_mutants(mutant):
    assert not repeats_exactly(mutant())


def test_accepts_as_often_as_it_says():
    assert abs(acceptance_score("metropolis")) < 3.3


@pytest.mark.parametrize("mutant", [SkipsRejections])
def test_acceptance_score_rejects_mutants(mutant):
    assert abs(acceptance_score(mutant())) > 8


class WrongDisplacement(DenseMetric):
    """Mutant: jumps ~ N(0, M)."""

    def displacement(self, z, ix=None):
        return self.momentum(z, ix)


def first_steps(metric):
    """One transition of 50 chains, against proposals made by hand from the same random numbers.

    Returns:
        Errors of the acceptance rates, and of the positions of those that accepted.
    """
    kernel, start, scale = RandomWalkMetropolis(), TARGET.draw(50, 5), 0.8
    streams = chain_streams(6, range(50))
    normal = np.stack([copy.deepcopy(stream).standard_normal(3) for stream in streams])
    state = kernel.init(Potential(TARGET.potential, compile=False), start, streams, scale, metric)
    state, info = kernel.step(state)
    proposal = start + scale * torch.from_numpy(normal) @ torch.linalg.cholesky(DENSE).mT
    U = torch.func.vmap(TARGET.potential)
    rate = (U(start) - U(proposal)).clamp(max=0).exp().numpy()
    end = np.where(info["accepted"][:, None], proposal, start)
    return np.abs(info["acceptance_rate"] - rate).max(), np.abs(state.position - end).max()


def test_proposals_are_those_of_the_metric():
    assert max(first_steps(as_metric(DENSE, 3, HostVectors(torch.float64)))) < 1e-13


def test_proposals_reject_wrong_displacement():
    assert min(first_steps(WrongDisplacement(HostVectors(torch.float64), DENSE.numpy()[None]))) > 0.1


def transition_score(kernel):
    """The largest z-score of the moments after one transition of 100,000 exact draws."""
    count = 100_000
    streams = chain_streams(7, [0]) * count  # drawn from in turn
    state = kernel.init(Potential(TARGET.potential), TARGET.draw(count, 8), streams, 1.2)
    state, _ = kernel.step(state)
    return float(moment_scores(TARGET, state.positions_tensor()).abs().max())


def test_transition_keeps_the_moments():
    assert transition_score(RandomWalkMetropolis()) < 4


def test_moments_reject_accepting_always():
    assert transition_score(AcceptsAlways()) > 8
