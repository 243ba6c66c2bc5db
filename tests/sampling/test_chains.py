"""The documented chains HMC, NUTS and MCMC: signatures, history, settings and acceptance."""

from __future__ import annotations

import inspect
import math

import pytest
import torch
from documented_chains import (
    KINDS,
    TUNED,
    make,
    make_all,
    path,
    paths,
    standard,
)

from hnbayes import HMC, MCMC, NUTS, MultiChainHMC, nn_pot_energy
from hnbayes.utils import hmc as documented

torch.set_num_threads(1)


# --- signatures -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "parameters"),
    [
        (
            HMC,
            {
                "stepsize": 0.02,
                "num_steps": 1,
                "inv_mass": 1.0,
                "logger": None,
                "log_interval": 100,
                "writer": None,
                "writer_tag": "",
            },
        ),
        (
            NUTS,
            {
                "stepsize": 0.02,
                "delta_max": 1000.0,
                "inv_mass": 1.0,
                "logger": None,
                "log_interval": 100,
                "writer": None,
                "writer_tag": "",
            },
        ),
        (MCMC, {"proposal_std": 1.0, "logger": None, "log_interval": 100, "writer": None, "writer_tag": ""}),
    ],
)
def test_documented_parameters_in_their_order(what, parameters):
    signature = inspect.signature(what)
    assert list(signature.parameters)[: 2 + len(parameters)] == ["initial_position", "pot_energy_func", *parameters]
    assert {name: signature.parameters[name].default for name in parameters} == parameters
    # What was added may only be given by name.
    added = list(signature.parameters.values())[2 + len(parameters) :]
    assert all(p.kind is p.KEYWORD_ONLY for p in added)


def test_documented_parameters_of_the_wrapper():
    signature = inspect.signature(MultiChainHMC)
    assert list(signature.parameters) == ["initial_positions", "pot_energy_func", "chain_type", "kwargs"]
    assert signature.parameters["chain_type"].default == "hmc"
    simulate = inspect.signature(MultiChainHMC.simulate_chains)
    assert list(simulate.parameters) == ["self", "num_states", "num_chains", "num_parallel"]
    assert (simulate.parameters["num_chains"].default, simulate.parameters["num_parallel"].default) == (-1, 1)


def test_documented_module():
    assert (documented.HMC, documented.NUTS, documented.MCMC) == (HMC, NUTS, MCMC)
    assert documented.MultiChainHMC is MultiChainHMC
    assert documented.nn_pot_energy is nn_pot_energy
    assert issubclass(NUTS, HMC)


# --- history ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_history(kind, dtype):
    start = torch.tensor([0.5, -1.0], dtype=dtype)
    chain = make(kind, start)
    assert chain.num_states == 0
    assert chain.acceptance_probability == 1
    assert torch.equal(chain.current_position, start)
    assert [p.tolist() for p in chain.position_trajectory] == [start.tolist()]

    chain.simulate_chain(7)
    assert chain.num_states == 7
    assert isinstance(chain.position_trajectory, list)
    assert len(chain.position_trajectory) == 8
    assert torch.equal(chain.position_trajectory[0], start)
    assert torch.equal(chain.position_trajectory[-1], chain.current_position)
    assert all(p.shape == (2,) and p.dtype == dtype for p in chain.position_trajectory)
    assert len({tuple(p.tolist()) for p in chain.position_trajectory}) > 2

    before = path(chain)
    chain.simulate_chain(3)
    assert chain.num_states == 10
    assert torch.equal(path(chain)[:8], before)
    assert torch.equal(chain.position_trajectory[-1], chain.current_position)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "left"), [(None, 0), (0, 6), (1, 5), (4, 2), (6, 0), (99, 0)])
def test_clearing_the_trajectory(n, left, kind):
    chain = make(kind)
    chain.simulate_chain(5)
    before, position = list(chain.position_trajectory), chain.current_position
    chain.clear_position_trajectory(n)
    assert len(chain.position_trajectory) == left
    assert all(a is b for a, b in zip(chain.position_trajectory, before[6 - left :], strict=True))
    assert chain.num_states == 5
    assert torch.equal(chain.current_position, position)
    # What comes next does not depend on what was forgotten.
    chain.simulate_chain(2)
    other = make(kind)
    other.simulate_chain(7)
    assert torch.equal(path(chain)[left:], path(other)[-2:])
    assert chain.num_states == 7
    assert chain.acceptance_probability == other.acceptance_probability
    states = min(left, 5) + 2
    assert torch.equal(chain.to_draws().positions[0], path(chain)[-states:])


def test_clearing_without_an_argument_forgets_all():
    chain = make("hmc")
    chain.simulate_chain(5)
    chain.clear_position_trajectory()
    assert chain.position_trajectory == []


@pytest.mark.parametrize(("n", "error"), [(-1, ValueError), (1.5, TypeError), ("all", TypeError)])
def test_clearing_refuses(n, error):
    with pytest.raises(error, match="n must be"):
        make("hmc").clear_position_trajectory(n)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pieces", [[10] * 5, [1] * 50, [49, 1]], ids=["5 x 10", "50 x 1", "49 + 1"])
def test_pieces_are_the_whole(pieces, kind):
    whole, parts = make(kind), make(kind)
    whole.simulate_chain(50)
    for n in pieces:
        parts.simulate_chain(n)
    assert torch.equal(path(whole), path(parts))
    assert whole.acceptance_probability == parts.acceptance_probability


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_are_the_whole_for_several_chains(kind):
    whole, parts = make_all(kind), make_all(kind)
    whole.simulate_chains(40)
    for n in (10, 1, 29):
        parts.simulate_chains(n)
    # The batch shrinks as chains end, so rounding may differ.
    torch.testing.assert_close(paths(whole), paths(parts), rtol=1e-9, atol=1e-9)


# --- settings ---------------------------------------------------------------------------------------------------------

SETTINGS = [("hmc", "stepsize", 0.25), ("nuts", "stepsize", 0.25), ("mcmc", "proposal_std", 0.25)]


@pytest.mark.parametrize(("kind", "name", "value"), SETTINGS)
def test_scales_can_be_read_and_set(kind, name, value):
    chain = make(kind)
    assert getattr(chain, name) == TUNED[kind][name]
    chain.simulate_chain(3)
    setattr(chain, name, value)
    assert getattr(chain, name) == value
    chain.simulate_chain(2)
    assert chain.to_draws().stats["step_size"][0].tolist() == [TUNED[kind][name]] * 3 + [value] * 2
    # It is the same as a chain that goes on with this value, and a tiny one makes tiny moves.
    setattr(chain, name, 1e-6)
    before = chain.current_position
    chain.simulate_chain(1)
    # NUTS makes up to 2^10 - 1 steps of it.
    assert 0 < (chain.current_position - before).norm() < 0.02


@pytest.mark.parametrize(("kind", "name", "_"), SETTINGS)
@pytest.mark.parametrize("value", [0, -0.1, math.nan, math.inf, "0.1", None, True])
def test_bad_scales(value, kind, name, _):
    error = ValueError if type(value) in (int, float) else TypeError
    with pytest.raises(error, match=f"{name} must"):
        make(kind, **{name: value})
    chain = make(kind)
    with pytest.raises(error, match=f"{name} must"):
        setattr(chain, name, value)
    assert getattr(chain, name) == TUNED[kind][name]


def test_num_steps_can_be_read_and_set():
    chain = make("hmc", num_steps=4)
    assert chain.num_steps == 4
    chain.simulate_chain(2)
    chain.num_steps = 7
    assert chain.num_steps == 7
    chain.simulate_chain(3)
    assert chain.to_draws().stats["n_steps"][0].tolist() == [4, 4, 7, 7, 7]


@pytest.mark.parametrize(("value", "error"), [(0, ValueError), (-1, ValueError), (2.0, TypeError), (True, TypeError)])
def test_bad_num_steps(value, error):
    with pytest.raises(error, match="num_steps must"):
        make("hmc", num_steps=value)
    chain = make("hmc")
    with pytest.raises(error, match="num_steps must"):
        chain.num_steps = value
    assert chain.num_steps == 3


def test_nuts_has_no_num_steps():
    chain = make("nuts")
    with pytest.raises(AttributeError, match="NUTS chooses its number of steps itself"):
        _ = chain.num_steps
    with pytest.raises(AttributeError, match="NUTS chooses its number of steps itself"):
        chain.num_steps = 3
    with pytest.raises(TypeError, match="num_steps"):
        NUTS(torch.zeros(2), standard, num_steps=3)


def test_delta_max_is_where_nuts_gives_up():
    """At this step size the energy error of the first step is some 1.6e5."""

    def steep(q):
        return 500 * q.square().sum()

    start = torch.full((2,), 0.1)
    strict, lax = (make("nuts", start, steep, stepsize=1.0, delta_max=value) for value in (1000.0, 1e30))
    for chain in (strict, lax):
        chain.simulate_chain(5)
    assert strict.to_draws().stats["diverging"].all()
    assert not lax.to_draws().stats["diverging"].any()


def test_max_tree_depth_bounds_the_steps():
    chain = make("nuts", stepsize=1e-4, max_tree_depth=3)
    chain.simulate_chain(4)
    assert chain.to_draws().stats["n_steps"][0].tolist() == [7] * 4
    assert chain.to_draws().stats["reached_max_treedepth"].all()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"delta_max": 0}, ValueError, "delta_max must"),
        ({"delta_max": "big"}, TypeError, "delta_max must"),
        ({"max_tree_depth": 0}, ValueError, "max_tree_depth must"),
        ({"max_tree_depth": 1.5}, TypeError, "max_tree_depth must"),
    ],
)
def test_bad_settings_of_nuts(options, error, message):
    with pytest.raises(error, match=message):
        make("nuts", **options)


# --- acceptance -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "options"), [("hmc", {"stepsize": 1.7}), ("mcmc", {"proposal_std": 3.0})])
def test_acceptance_is_the_share_of_moves(kind, options):
    chain = make(kind, **options)
    for n in (20, 80):
        chain.simulate_chain(n)
        moves = (path(chain)[1:] != path(chain)[:-1]).any(1)
        assert 0 < moves.sum() < len(moves)
        assert chain.acceptance_probability == pytest.approx(moves.double().mean().item(), abs=1e-12)


def test_acceptance_of_nuts_is_the_mean_over_its_trajectories():
    chain = make("nuts", stepsize=1.2)
    chain.simulate_chain(100)
    rates = chain.to_draws().stats["acceptance_rate"]
    assert chain.acceptance_probability == pytest.approx(rates.mean().item(), abs=1e-12)
    assert 0.3 < chain.acceptance_probability < 0.99


def test_average_acceptance():
    chains = make_all("mcmc", proposal_std=2.0)
    assert chains.avg_acceptance_probability == 1
    chains.simulate_chains(30, num_chains=[0, 1])
    each = [chain.acceptance_probability for chain in chains.chains]
    assert each[2] == 1
    assert chains.avg_acceptance_probability == pytest.approx(sum(each) / 3)
