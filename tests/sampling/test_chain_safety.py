"""The documented chains: errors, what of the caller's stays as it was, seeds, and bad input."""

from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from documented_chains import (
    KINDS,
    Fuse,
    make,
    make_all,
    path,
    paths,
    standard,
    starts_for,
)

from hnbayes import HMC, MultiChainHMC, Potential, nn_pot_energy

torch.set_num_threads(1)


# --- errors and interrupts --------------------------------------------------------------------------------------------

STEPS = {"hmc": 3, "mcmc": 1}


@pytest.mark.parametrize("error", [ValueError, RuntimeError, KeyError, KeyboardInterrupt])
@pytest.mark.parametrize("kind", KINDS)
def test_an_error_of_the_potential_is_raised_and_the_states_before_it_kept(kind, error):
    fuse = Fuse(error("mine"))
    chain = make(kind, U=fuse)
    chain.simulate_chain(2)
    before = path(chain)
    calls = 7
    fuse.left = calls
    with pytest.raises(error):
        chain.simulate_chain(20)

    if kind in STEPS:
        assert chain.num_states == 2 + calls // STEPS[kind]
    assert 2 <= chain.num_states <= 2 + calls
    assert len(chain.position_trajectory) == chain.num_states + 1
    assert torch.equal(path(chain)[:3], before)
    assert torch.equal(chain.current_position, chain.position_trajectory[-1])
    assert chain.to_draws().num_draws == chain.num_states

    kept, states = path(chain), chain.num_states
    chain.simulate_chain(30)
    assert chain.num_states == states + 30
    assert torch.equal(path(chain)[: states + 1], kept)
    assert path(chain).isfinite().all()
    stored = -chain.to_draws().stats["lp"][0]
    torch.testing.assert_close(stored, 0.5 * path(chain)[1:].square().sum(1))


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_for_several_chains(kind, error):
    fuse = Fuse(error("mine"))
    chains = make_all(kind, U=fuse)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*chains are evaluated one after another")
        chains.simulate_chains(2)
        fuse.left = 3 * 6 + 1  # one evaluation after another for three chains
        with pytest.raises(error):
            chains.simulate_chains(20)
        states = [chain.num_states for chain in chains.chains]
        if kind in STEPS:
            assert states == [2 + 6 // STEPS[kind]] * 3
        assert all(2 <= n < 22 for n in states)
        chains.simulate_chains(5)
    assert [chain.num_states for chain in chains.chains] == [n + 5 for n in states]
    for chain in chains.chains:
        assert len(chain.position_trajectory) == chain.num_states + 1
        torch.testing.assert_close(
            -chain.to_draws().stats["lp"][0], 0.5 * path(chain)[1:].square().sum(1), rtol=1e-12, atol=1e-12
        )


def test_an_error_of_a_potential_that_diverges_on_errors_is_no_end():
    """What the caller made as a Potential keeps its own way with errors."""

    def U(q):
        if q[0] > 0.5:
            raise ValueError("out of range")
        return standard(q)

    chain = make("hmc", U=Potential(U, on_error="diverge"))
    with pytest.warns(UserWarning, match="raised an error at a proposed position"):
        chain.simulate_chain(50)
    assert chain.num_states == 50
    assert (path(chain)[:, 0] <= 0.5).all()
    assert chain.to_draws().stats["diverging"].any()


def test_an_error_of_a_potential_that_chose_nothing_is_raised():
    """As documented, for the potential of a network too, and as for a plain function."""

    def U(q):
        if q[0] > 0.5:
            raise ValueError("out of range")
        return standard(q)

    potential = Potential(U)
    with pytest.raises(ValueError, match="out of range"):
        make("hmc", U=potential).simulate_chain(50)
    assert potential.on_error is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_start_where_the_potential_is_not_finite(kind):
    chain = make(kind, U=lambda q: standard(q) + (q[0] - 1).log())
    with pytest.raises(ValueError, match="potential must be finite at every initial position; received nan"):
        chain.simulate_chain(1)
    assert chain.num_states == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("U", "error", "message"),
    [
        (lambda q: q.square(), ValueError, r"must return a scalar.*shape \(2,\)"),
        (lambda q: q.square().sum()[None], ValueError, r"must return a scalar.*shape \(1,\)"),
        (lambda q: 1.0, TypeError, "0-dimensional tensor; received 1.0"),
    ],
)
def test_functions_that_are_no_potentials(U, error, message, kind):
    with pytest.raises(error, match=message):
        make(kind, U=U).simulate_chain(1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_position_of_the_wrong_size_for_the_network(kind):
    net = torch.nn.Linear(2, 1)
    U = nn_pot_energy(net, torch.zeros(4, 2), torch.zeros(4, 1), lambda q: -standard(q))
    with pytest.raises(ValueError, match="3, the number of"):
        make(kind, torch.zeros(4), U).simulate_chain(1)


# --- the caller's tensors, graphs -------------------------------------------------------------------------------------


@pytest.mark.parametrize("compile", [False, "auto"])
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_of_the_caller_changes_and_nothing_holds_a_graph(kind, compile):
    start = torch.tensor([0.5, -1.0], dtype=torch.float64, requires_grad=True)
    inv_mass = torch.tensor([1.0, 2.0], dtype=torch.float64)
    weight = torch.tensor([2.0, 0.5], dtype=torch.float64, requires_grad=True)
    values = [start.detach().clone(), inv_mass.clone(), weight.detach().clone()]
    options = {} if kind == "mcmc" else {"inv_mass": inv_mass}

    def U(q):
        return (weight * q).square().sum()

    chain = make(kind, start, Potential(U, compile=compile), **options)
    chain.simulate_chain(5)
    if kind != "mcmc":
        chain.warm_up(20)
    chain.simulate_chain(5)
    for tensor, value in zip((start, inv_mass, weight), values, strict=True):
        assert torch.equal(tensor.detach(), value)
        assert tensor.grad is None
    assert start.requires_grad
    assert weight.requires_grad
    draws = chain.to_draws()
    held = [*chain.position_trajectory, chain.current_position, draws.positions, *draws.stats.values()]
    assert all(tensor.grad_fn is None and not tensor.requires_grad for tensor in held)
    # The chain keeps no memory of the caller's either.
    with torch.no_grad():
        start.fill_(99.0)
    assert all(position.max() < 50 for position in chain.position_trajectory)


def test_an_initial_position_may_be_a_slice_and_have_a_graph():
    weights = torch.randn(3, 4, 2, dtype=torch.float64, requires_grad=True)
    start = (weights * 1.0)[1, :, 0]
    chain = make("nuts", start)
    chain.simulate_chain(3)
    assert chain.position_trajectory[0].grad_fn is None
    assert torch.equal(chain.position_trajectory[0], start.detach())


def test_the_inverse_mass_is_the_chains_own():
    inv_mass = torch.tensor([1.0, 2.0], dtype=torch.float64)
    chain, other = make("hmc", inv_mass=inv_mass), make("hmc", inv_mass=inv_mass.clone())
    inv_mass.fill_(0.01)
    for one in (chain, other):
        one.simulate_chain(5)
    assert torch.equal(path(chain), path(other))


@pytest.mark.parametrize("kind", KINDS)
def test_positions_of_the_history_are_memory_of_their_own(kind):
    chain = make(kind)
    chain.simulate_chain(5)
    expected = path(chain)[1:].clone()
    chain.position_trajectory[0].fill_(99.0)
    assert torch.equal(path(chain)[1:], expected)
    draws = chain.to_draws()
    draws.positions.fill_(99.0)
    assert torch.equal(path(chain)[1:], expected)


# --- seeds ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_seeds(kind):
    runs = {}
    for seed, chain_number in itertools.product((0, 1), (0, 1)):
        for again in (False, True):
            chain = make(kind, seed=seed, chain=chain_number)
            chain.simulate_chain(5)
            runs[seed, chain_number, again] = path(chain)[-1]
    for key in itertools.product((0, 1), (0, 1)):
        assert torch.equal(runs[(*key, False)], runs[(*key, True)])
    assert len({tuple(end.tolist()) for end in runs.values()}) == 4


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_seed_torchs_decides(kind):
    def run(torch_seed, many):
        torch.manual_seed(torch_seed)
        if many:
            chains = make_all(kind, seed=None)
            chains.simulate_chains(5)
            return paths(chains)
        chain = make(kind, seed=None)
        chain.simulate_chain(5)
        return path(chain)

    for many in (False, True):
        assert torch.equal(run(0, many), run(0, many))
        assert not torch.equal(run(0, many), run(1, many))
    torch.manual_seed(0)
    first, second = make(kind, seed=None), make(kind, seed=None)
    assert first.seed != second.seed


@pytest.mark.parametrize("kind", KINDS)
def test_with_a_seed_global_random_state_is_neither_read_nor_changed(kind):
    torch.manual_seed(0)
    state, legacy = torch.get_rng_state(), str(np.random.get_state())  # noqa: NPY002
    chains = make_all(kind, seed=3)
    chains.simulate_chains(5)
    assert torch.equal(torch.get_rng_state(), state)
    assert str(np.random.get_state()) == legacy  # noqa: NPY002
    torch.manual_seed(1)
    again = make_all(kind, seed=3)
    again.simulate_chains(5)
    assert torch.equal(paths(chains), paths(again))


@pytest.mark.parametrize("seed", [-1, 1.5, "1", True, torch.tensor(1)])
def test_bad_seeds(seed):
    error = ValueError if seed == -1 else TypeError
    with pytest.raises(error, match="seed must be a non-negative integer or None"):
        make("hmc", seed=seed)
    with pytest.raises(error, match="seed must be a non-negative integer or None"):
        make_all("hmc", seed=seed)


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("start", "error", "message"),
    [
        ([0.0, 0.0], TypeError, r"initial_position must be a tensor \(D,\); received \[0.0, 0.0\]"),
        (torch.zeros(2, 2), ValueError, r"must be a vector \(D,\); received shape \(2, 2\). Flatten it"),
        (torch.tensor(0.0), ValueError, r"must be a vector \(D,\); received shape \(\)"),
        (torch.zeros(0), ValueError, r"must be a vector \(D,\); received shape \(0,\)"),
        (torch.zeros(2, dtype=torch.int64), TypeError, "must be float32 or float64; received torch.int64"),
        (torch.zeros(2, dtype=torch.float16), TypeError, "must be float32 or float64; received torch.float16"),
        (torch.tensor([0.0, math.nan]), ValueError, r"initial_position must be finite; .*index \(1,\)"),
        (torch.tensor([math.inf, 0.0]), ValueError, "initial_position must be finite"),
    ],
)
def test_bad_initial_position(start, error, message, kind):
    with pytest.raises(error, match=message):
        make(kind, start)


@pytest.mark.parametrize(
    ("starts", "error", "message"),
    [
        ([], ValueError, "at least one chain; received none"),
        (torch.zeros(0, 2), ValueError, "at least one chain; received none"),
        ({"a": torch.zeros(2)}, TypeError, "must be a list of tensors"),
        (3, TypeError, "must be a list of tensors"),
        ([torch.zeros(2), None], TypeError, "initial_position must be a tensor"),
        ([torch.zeros(2), torch.zeros(1, 2)], ValueError, "must be a vector"),
        (torch.zeros(3), ValueError, "must be a vector"),
    ],
)
def test_bad_initial_positions(starts, error, message):
    with pytest.raises(error, match=message):
        MultiChainHMC(starts, standard)


@pytest.mark.parametrize("chain_type", ["HMC", "gibbs", None, HMC])
def test_bad_chain_type(chain_type):
    with pytest.raises(ValueError, match="chain_type must be one of 'hmc', 'nuts', 'mcmc'; received"):
        MultiChainHMC(starts_for(2), standard, chain_type)


@pytest.mark.parametrize("kind", KINDS)
def test_bad_potential(kind):
    with pytest.raises(TypeError, match=r"potential must be a function.*received 3\.0"):
        make(kind, U=3.0)
    with pytest.raises(TypeError, match="potential must be a function"):
        make_all(kind, U=[standard, standard, None])


@pytest.mark.parametrize("kind", KINDS)
def test_unknown_options(kind):
    with pytest.raises(TypeError, match="unexpected keyword argument 'epsilon'"):
        make_all(kind, epsilon=0.1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "error"), [(0, ValueError), (-1, ValueError), (1.0, TypeError), (None, TypeError)])
def test_bad_number_of_states(n, error, kind):
    with pytest.raises(error, match="n must be"):
        make(kind).simulate_chain(n)


@pytest.mark.parametrize(("value", "error"), [(-1, ValueError), (0.5, TypeError)])
def test_bad_chain_number(value, error):
    with pytest.raises(error, match="chain must be"):
        make("hmc", chain=value)
