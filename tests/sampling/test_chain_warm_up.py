"""The documented chains: inverse mass, and warm-up that finds it."""

from __future__ import annotations

import math

import pytest
import torch
from documented_chains import (
    Fuse,
    make,
    make_all,
    path,
    standard,
)

torch.set_num_threads(1)


# --- inverse mass -----------------------------------------------------------------------------------------------------


def correlated(q):
    precision = torch.tensor([[2.0, 0.6], [0.6, 1.0]], dtype=q.dtype)
    return 0.5 * q @ precision @ q


@pytest.mark.parametrize("kind", ["hmc", "nuts"])
@pytest.mark.parametrize(
    ("forms", "dimension"),
    [
        ([0.5, torch.tensor(0.5), torch.full((2,), 0.5), 0.5 * torch.eye(2), torch.tensor(0.5).double()], 2),
        ([torch.tensor([0.5, 2.0]), torch.diag(torch.tensor([0.5, 2.0])), torch.tensor([0.5, 2.0]).double()], 2),
        ([2, 2.0, torch.tensor(2.0), torch.tensor([2.0]), torch.tensor([[2.0]])], 1),
    ],
    ids=["multiple of the identity", "diagonal", "one dimension"],
)
def test_forms_of_the_inverse_mass_that_mean_the_same(forms, dimension, kind):
    start = torch.ones(dimension, dtype=torch.float64)
    runs = []
    for inv_mass in forms:
        chain = make(kind, start, correlated if dimension == 2 else standard, inv_mass=inv_mass)
        chain.simulate_chain(20)
        runs.append(path(chain))
    for run in runs[1:]:
        torch.testing.assert_close(run, runs[0], rtol=1e-9, atol=1e-9)
    unit = make(kind, start, correlated if dimension == 2 else standard)
    unit.simulate_chain(20)
    assert not torch.allclose(path(unit), runs[0])


@pytest.mark.parametrize("kind", ["hmc", "nuts"])
@pytest.mark.parametrize(
    ("inv_mass", "error", "message"),
    [
        (0.0, ValueError, "inverse mass must be positive"),
        (-1.0, ValueError, "inverse mass must be positive"),
        (torch.tensor([1.0, 0.0]), ValueError, "inverse mass must be positive"),
        (math.nan, ValueError, "inverse mass must be finite"),
        (torch.ones(3), ValueError, r"shape \(2,\) or \(2, 2\); received shape \(3,\)"),
        (torch.ones(2, 3), ValueError, r"received shape \(2, 3\)"),
        (torch.ones(1, 2), ValueError, r"received shape \(1, 2\)"),
        (torch.tensor([[1.0, 0.5], [0.0, 1.0]]), ValueError, "must be symmetric"),
        (torch.tensor([[1.0, 2.0], [2.0, 1.0]]), ValueError, "positive definite"),
        ("diag", TypeError, "must be a number, or a tensor"),
        (None, TypeError, "must be a number, or a tensor"),
    ],
)
def test_bad_inverse_mass(inv_mass, error, message, kind):
    with pytest.raises(error, match=message):
        make(kind, inv_mass=inv_mass)


# --- warm-up ----------------------------------------------------------------------------------------------------------

SCALES = torch.tensor([0.3, 1.0, 3.0], dtype=torch.float64)


def scaled(q):
    return 0.5 * (q / SCALES).square().sum()


@pytest.mark.parametrize("metric", ["diag", "dense", "unit"])
@pytest.mark.parametrize("kind", ["hmc", "nuts"])
def test_warm_up_adapts_step_size_and_inverse_mass(kind, metric):
    chain = make(kind, SCALES.clone(), scaled, stepsize=0.5)
    chain.warm_up(200, metric=metric)
    assert chain.num_states == 0
    assert chain.acceptance_probability == 1
    assert len(chain.position_trajectory) == 1
    assert torch.equal(chain.position_trajectory[0], chain.current_position)
    assert not torch.equal(chain.current_position, SCALES)
    assert chain.stepsize != 0.5
    if metric == "unit":
        assert chain.inv_mass == 1.0
    else:
        assert chain.inv_mass.shape == ((3,) if metric == "diag" else (3, 3))
        variances = chain.inv_mass if metric == "diag" else chain.inv_mass.diagonal()
        ratio = variances / SCALES.square()
        assert ((ratio > 0.3) & (ratio < 3)).all()
    chain.simulate_chain(100)
    assert 0.6 < chain.acceptance_probability < 0.99
    assert len(set(chain.to_draws().stats["step_size"][0].tolist())) == 1


def test_warm_up_aims_at_the_acceptance_asked_for():
    rates = []
    for target in (0.6, 0.95):
        chain = make("nuts", SCALES.clone(), scaled)
        chain.warm_up(200, target_accept=target)
        chain.simulate_chain(150)
        rates.append(chain.acceptance_probability)
    assert rates[0] < 0.85 < 0.88 < rates[1]


def test_warm_up_of_mcmc_adapts_the_proposals():
    chain = make("mcmc", torch.zeros(10, dtype=torch.float64), proposal_std=1e-3)
    chain.warm_up(500)
    assert 0.3 < chain.proposal_std < 1.5
    chain.simulate_chain(500)
    assert 0.1 < chain.acceptance_probability < 0.4


def test_warm_up_of_a_chain_with_states_keeps_them():
    chain = make("nuts")
    chain.simulate_chain(5)
    before, acceptance = path(chain), chain.acceptance_probability
    chain.warm_up(50)
    assert chain.num_states == 5
    assert torch.equal(path(chain), before)
    assert chain.acceptance_probability == acceptance
    assert not torch.equal(chain.current_position, before[-1])
    chain.simulate_chain(2)
    assert len(chain.position_trajectory) == 8
    assert torch.equal(chain.position_trajectory[-1], chain.current_position)


def test_warm_up_of_several_chains_is_each_ones_own():
    starts = [SCALES * (1 + c) for c in range(3)]
    chains = make_all("nuts", starts, scaled)
    chains.warm_up(40, 0.9, "diag")
    chains.simulate_chains(5)
    for c, start in enumerate(starts):
        alone = make("nuts", start, scaled, chain=c)
        alone.warm_up(40, 0.9, "diag")
        assert alone.stepsize == pytest.approx(chains.chains[c].stepsize, rel=1e-8)
        torch.testing.assert_close(alone.inv_mass, chains.chains[c].inv_mass)
    assert len({chain.stepsize for chain in chains.chains}) == 3
    draws = chains.to_draws()
    assert draws.step_size.tolist() == [chain.stepsize for chain in chains.chains]
    torch.testing.assert_close(draws.inverse_metric, torch.stack([chain.inv_mass for chain in chains.chains]))


def test_draws_of_chains_of_which_one_has_a_dense_metric():
    chains = make_all("nuts")
    chains.chains[0].warm_up(20, metric="dense")
    chains.simulate_chains(3)
    assert chains.to_draws().positions.shape == (3, 3, 2)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"n": 19}, ValueError, "n must be at least 20"),
        ({"n": 20.0}, TypeError, "n must be an integer"),
        ({"n": 50, "target_accept": 1.0}, ValueError, "target_accept must"),
        ({"n": 50, "target_accept": 0}, ValueError, "target_accept must"),
        ({"n": 50, "metric": "full"}, ValueError, "metric must be one of 'diag', 'dense', 'unit'"),
    ],
)
def test_bad_warm_up(arguments, error, message):
    chain = make("nuts")
    with pytest.raises(error, match=message):
        chain.warm_up(**arguments)


def test_an_interrupted_warm_up_leaves_the_chain_as_it_was():
    fuse = Fuse(KeyboardInterrupt())
    chain = make("nuts", U=fuse)
    chain.simulate_chain(2)
    fuse.left = 100
    with pytest.raises(KeyboardInterrupt):
        chain.warm_up(200)
    assert (chain.num_states, chain.stepsize, chain.inv_mass) == (2, 0.5, 1.0)
    assert torch.equal(chain.current_position, chain.position_trajectory[-1])
    chain.simulate_chain(3)
    assert chain.num_states == 5
