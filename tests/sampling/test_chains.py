"""The documented chains HMC, NUTS, MCMC and MultiChainHMC: every parameter, property and behaviour."""

from __future__ import annotations

import inspect
import itertools
import logging
import math
import os
import subprocess
import sys
import textwrap
import time
import warnings

import numpy as np
import pytest
import torch

import hnbayes.kernels.hmc
import hnbayes.kernels.metrics
import hnbayes.kernels.metropolis
from hnbayes import HMC, MCMC, NUTS, MultiChainHMC, ParamSpec, Potential, nn_pot_energy, to_inference_data
from hnbayes.utils import hmc as documented

torch.set_num_threads(1)

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


# --- logger and writer ------------------------------------------------------------------------------------------------


class Lines(logging.Handler):
    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())


def recording_logger(name):
    logger = logging.Logger(name, logging.INFO)
    logger.addHandler(Lines())
    return logger, logger.handlers[0].lines


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("interval", "expected"), [(10, [10, 20, 30]), (7, [7, 14, 21, 28, 35]), (100, [])])
def test_the_log_has_a_line_every_interval(interval, expected, kind):
    logger, lines = recording_logger("test")
    chain = make(kind, logger=logger, log_interval=interval)
    for n in (3, 12, 20):
        chain.simulate_chain(n)
    assert len(lines) == len(expected)
    for line, state in zip(lines, expected, strict=True):
        assert str(state) in line
        U = standard(chain.position_trajectory[state]).item()
        assert f"{U:.6g}" in line


def test_the_default_interval_is_100():
    logger, lines = recording_logger("test")
    make("hmc", logger=logger).simulate_chain(250)
    assert len(lines) == 2


@pytest.mark.parametrize(("value", "error"), [(0, ValueError), (-5, ValueError), (1.5, TypeError)])
def test_bad_log_interval(value, error):
    with pytest.raises(error, match="log_interval must"):
        make("hmc", log_interval=value)


def test_a_logger_goes_to_the_first_chain_only():
    logger, lines = recording_logger("test")
    chains = make_all("hmc", logger=logger, log_interval=5)
    chains.simulate_chains(10)
    assert len(lines) == 2
    U = standard(chains.chains[0].position_trajectory[5]).item()
    assert f"{U:.6g}" in lines[0]


@pytest.fixture
def no_console_loggers():
    """Console loggers hold on to the standard error of the test that made them."""

    def forget():
        for c in range(4):
            logging.Logger.manager.loggerDict.pop(f"hnbayes.chain_{c}", None)

    forget()
    yield
    forget()


def test_a_list_of_loggers_where_none_is_the_console(capsys, no_console_loggers):
    logger, lines = recording_logger("test")
    chains = make_all("nuts", logger=[None, logger, None], log_interval=5)
    chains.simulate_chains(10)
    assert len(lines) == 2
    console = capsys.readouterr().err.splitlines()
    for c in (0, 2):
        own = [line for line in console if f"chain {c}" in line]
        assert len(own) == 2
        U = standard(chains.chains[c].position_trajectory[5]).item()
        assert f"{U:.6g}" in own[0]
    assert len(console) == 4


def test_console_loggers_made_twice_print_once(capsys, no_console_loggers):
    for _ in range(2):
        make_all("hmc", logger=[None] * 3, log_interval=5)
    make_all("hmc", logger=[None] * 3, log_interval=5).simulate_chains(5)
    assert len(capsys.readouterr().err.splitlines()) == 3


def test_a_list_of_loggers_must_fit():
    with pytest.raises(ValueError, match="one for each of the 3 chains; received 2"):
        make_all("hmc", logger=[None, None])


class FakeWriter:
    def __init__(self):
        self.points = {}

    def add_scalar(self, tag, value, step):
        self.points.setdefault(tag, []).append((step, value))


@pytest.mark.parametrize("tag", ["", "run/"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_writer_gets_every_states_statistics(kind, tag):
    writer = FakeWriter()
    chain = make(kind, writer=writer, writer_tag=tag)
    chain.simulate_chain(4)
    chain.clear_position_trajectory()
    chain.simulate_chain(3)
    stats = set(chain.to_draws().stats)
    assert {"lp", "acceptance_rate"} <= stats
    assert set(writer.points) == {tag + name for name in stats}
    for name in stats:
        points = writer.points[tag + name]
        assert [step for step, _ in points] == [1, 2, 3, 4, 5, 6, 7]
        np.testing.assert_allclose([value for _, value in points[4:]], chain.to_draws().stats[name][0].double())
    np.testing.assert_allclose(writer.points[f"{tag}lp"][-1][1], -standard(chain.current_position).item())
    if kind != "mcmc":
        # "the development of the Hamiltonian": U plus a kinetic energy.
        energies = zip(writer.points[f"{tag}energy"], writer.points[f"{tag}lp"], strict=True)
        assert all(energy + lp > 0 for (_, energy), (_, lp) in energies)


@pytest.mark.parametrize("tag", ["", "run/"])
def test_a_shared_writer_gets_a_tag_for_each_chain(tag):
    writer = FakeWriter()
    chains = make_all("nuts", writer=writer, writer_tag=tag)
    chains.simulate_chains(4)
    for c, chain in enumerate(chains.chains):
        own = {name: points for name, points in writer.points.items() if f"chain_{c}" in name}
        assert all(name.startswith(tag) for name in own)
        (lp,) = (points for name, points in own.items() if name.endswith("lp"))
        expected = [-standard(position).item() for position in chain.position_trajectory[1:]]
        np.testing.assert_allclose([value for _, value in lp], expected)
    assert len(writer.points) == 3 * len(chains.to_draws().stats)


def scalars_in(directory, tag, count):
    """What TensorBoard finds, once its writing thread is through."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        deadline = time.monotonic() + 5
        while True:
            accumulator = EventAccumulator(str(directory)).Reload()
            found = accumulator.Tags()["scalars"]
            points = accumulator.Scalars(tag) if tag in found else []
            if len(points) >= count or time.monotonic() > deadline:
                return [(point.step, point.value) for point in points]
            time.sleep(0.05)


@pytest.fixture
def tensorboard():
    pytest.importorskip("tensorboard")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its imports
        import torch.utils.tensorboard  # noqa: F401


def test_a_directory_as_writer(tmp_path, tensorboard):
    chain = make("hmc", writer=str(tmp_path), writer_tag="mine/")
    chain.simulate_chain(5)
    points = scalars_in(tmp_path, "mine/lp", 5)
    expected = [-standard(position).item() for position in chain.position_trajectory[1:]]
    assert [step for step, _ in points] == [1, 2, 3, 4, 5]
    np.testing.assert_allclose([value for _, value in points], expected, rtol=1e-6)


def test_a_directory_as_writer_of_several_chains_is_a_run_each(tmp_path, tensorboard):
    """The same tags in all runs, so that TensorBoard shows the chains in one plot."""
    chains = make_all("nuts", writer=str(tmp_path), writer_tag="mine/")
    chains.simulate_chains(5)
    runs = sorted(os.listdir(tmp_path))
    assert runs == ["chain_0", "chain_1", "chain_2"]
    for run, chain in zip(runs, chains.chains, strict=True):
        expected = [-standard(position).item() for position in chain.position_trajectory[1:]]
        points = scalars_in(tmp_path / run, "mine/lp", 5)
        np.testing.assert_allclose([value for _, value in points], expected, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_bad_writer(kind):
    with pytest.raises(TypeError, match="writer must be a SummaryWriter or a directory; received 3"):
        make(kind, writer=3)
    with pytest.raises(TypeError, match="writer must be"):
        make_all(kind, writer=3)


# --- several chains ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_chains_of_the_type_asked_for(kind):
    chains = make_all(kind)
    assert isinstance(chains.chains, list)
    assert [type(chain) for chain in chains.chains] == [CLASSES[kind]] * 3
    assert chains.num_chains == 3
    assert [type(chain) for chain in MultiChainHMC(starts_for(2), standard).chains] == [HMC] * 2
    for chain, start in zip(chains.chains, starts_for(3), strict=True):
        assert torch.equal(chain.current_position, start)


@pytest.mark.parametrize("as_what", [list, tuple, torch.stack])
def test_initial_positions_of_every_kind(as_what):
    starts = starts_for(3)
    chains = make_all("hmc", as_what(starts))
    chains.simulate_chains(2)
    reference = make_all("hmc", starts)
    reference.simulate_chains(2)
    assert torch.equal(paths(chains), paths(reference))


def test_options_are_passed_to_every_chain():
    chains = make_all("nuts", stepsize=0.25, delta_max=7.0, inv_mass=torch.tensor([0.5, 2.0]), max_tree_depth=2)
    chains.simulate_chains(3)
    assert [chain.stepsize for chain in chains.chains] == [0.25] * 3
    assert all(chain.inv_mass.tolist() == [0.5, 2.0] for chain in chains.chains)
    assert chains.to_draws().stats["tree_depth"].max() <= 2
    # In one batch nonetheless a chain may have a setting of its own.
    chains.chains[1].stepsize = 0.5
    chains.simulate_chains(2)
    assert chains.to_draws().stats["step_size"][:, -1].tolist() == [0.25, 0.5, 0.25]


def test_chains_with_other_settings_go_on_side_by_side():
    chains = make_all("hmc")
    chains.chains[1].num_steps = 5
    chains.chains[2].warm_up(20, metric="dense")
    chains.simulate_chains(4)
    assert [chain.to_draws().stats["n_steps"].tolist() for chain in chains.chains] == [[[n] * 4] for n in (3, 5, 3)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_parallel", [1, 2])
def test_chains_are_the_lone_ones(num_parallel, kind):
    """Chain c of MultiChainHMC(seed=s) is the chain with seed=s, chain=c."""
    starts = starts_for(5)
    chains = make_all(kind, starts, seed=7)
    chains.simulate_chains(30, num_parallel=num_parallel)
    for c, start in enumerate(starts):
        alone = make(kind, start, seed=7, chain=c)
        alone.simulate_chain(30)
        torch.testing.assert_close(path(chains.chains[c]), path(alone), rtol=1e-9, atol=1e-9)
        assert (chains.chains[c].seed, chains.chains[c].chain) == (7, c)
    assert len({tuple(chain.current_position.tolist()) for chain in chains.chains}) == 5


def test_one_evaluation_serves_all_chains():
    calls = []

    def U(q):
        calls.append(1)
        return standard(q)

    chains = make_all("hmc", starts_for(5), Potential(U, compile=False))
    chains.simulate_chains(1)
    calls.clear()
    chains.simulate_chains(10)
    assert len(calls) == 10 * 3


def test_num_chains_as_a_number_takes_those_with_fewest_states():
    chains = make_all("hmc", starts_for(4))

    def states():
        return [chain.num_states for chain in chains.chains]

    chains.simulate_chains(5, num_chains=1)
    assert states() == [5, 0, 0, 0]
    chains.simulate_chains(2, num_chains=2)
    assert states() == [5, 2, 2, 0]
    chains.simulate_chains(4, num_chains=np.int64(3))
    assert states() == [5, 6, 6, 4]
    chains.simulate_chains(1, num_chains=4)
    assert states() == [6, 7, 7, 5]
    chains.simulate_chains(1, num_chains=-1)
    assert states() == [7, 8, 8, 6]
    chains.simulate_chains(1)
    assert states() == [8, 9, 9, 7]
    chains.chains[0].clear_position_trajectory()
    chains.simulate_chains(1, num_chains=1)
    assert states() == [8, 9, 9, 8]


@pytest.mark.parametrize("as_what", [list, tuple])
def test_num_chains_as_indices(as_what):
    chains = make_all("hmc", starts_for(4))
    chains.simulate_chains(3, num_chains=as_what([3, 1]))
    assert [chain.num_states for chain in chains.chains] == [0, 3, 0, 3]
    chains.simulate_chains(2, num_chains=as_what([np.int64(0)]))
    assert [chain.num_states for chain in chains.chains] == [2, 3, 0, 3]


def test_an_index_given_twice_counts_once_and_warns():
    chains = make_all("hmc", starts_for(4))
    with pytest.warns(UserWarning, match=r"given twice count once; received \[1, 3, 1\]") as caught:
        chains.simulate_chains(3, num_chains=[1, 3, 1])
    assert len(caught) == 1
    assert [chain.num_states for chain in chains.chains] == [0, 3, 0, 3]


@pytest.mark.parametrize(
    ("num_chains", "error", "message"),
    [
        (0, ValueError, "num_chains must be at least 1; received 0"),
        (-2, ValueError, "num_chains must be at least 1; received -2"),
        (4, ValueError, "num_chains must be at most 3, the number of chains; received 4"),
        (1.0, TypeError, "num_chains must be an integer"),
        (True, TypeError, "num_chains must be an integer"),
        ("all", TypeError, "num_chains must be an integer"),
        (None, TypeError, "num_chains must be an integer"),
        ([], ValueError, "num_chains must name at least one chain"),
        ([0, 3], ValueError, r"chain indices must lie in 0..2; received 3"),
        ([-1], ValueError, "a chain index must be at least 0; received -1"),
        ([0.0], TypeError, "a chain index must be an integer"),
    ],
)
def test_bad_num_chains(num_chains, error, message):
    chains = make_all("hmc")
    with pytest.raises(error, match=message):
        chains.simulate_chains(2, num_chains=num_chains)
    assert [chain.num_states for chain in chains.chains] == [0, 0, 0]


@pytest.mark.parametrize("name", ["num_states", "num_parallel"])
@pytest.mark.parametrize(("value", "error"), [(0, ValueError), (-1, ValueError), (2.5, TypeError), ("2", TypeError)])
def test_bad_counts(value, error, name):
    with pytest.raises(error, match=f"{name} must be"):
        make_all("hmc").simulate_chains(**{"num_states": 2, name: value})


def test_a_batch_that_shrinks_keeps_what_the_chains_are():
    """NUTS chains end at different evaluations; a slow chain (small steps) goes on when the others are done."""
    chains = make_all("nuts", starts_for(4))
    chains.chains[2].stepsize = 0.05
    chains.simulate_chains(20)
    alone = make("nuts", starts_for(4)[2], stepsize=0.05, chain=2)
    alone.simulate_chain(20)
    torch.testing.assert_close(path(chains.chains[2]), path(alone), rtol=1e-8, atol=1e-8)
    assert [len(chain.position_trajectory) for chain in chains.chains] == [21] * 4


# --- a list of potentials, threads ------------------------------------------------------------------------------------


def shifted(c, compile=False):
    return Potential(lambda q: 0.5 * (q - 10.0 * c).square().sum(), compile=compile, on_error="raise")


@pytest.mark.parametrize("num_parallel", [1, 2, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_a_list_of_potentials_is_one_each(kind, num_parallel):
    U = [shifted(c) for c in range(3)]
    chains = make_all(kind, [torch.full((2,), 10.0 * c, dtype=torch.float64) for c in range(3)], U)
    if kind != "mcmc":  # values are captured, which threads must not do at once; see the test below
        chains.simulate_chains(20, num_parallel=num_parallel)
    else:
        chains.simulate_chains(20)
    draws = chains.to_draws()
    expected = torch.stack([torch.stack([-U[c](q) for q in draws.positions[c]]) for c in range(3)])
    torch.testing.assert_close(draws.stats["lp"], expected)
    for c, chain in enumerate(chains.chains):
        alone = make(kind, torch.full((2,), 10.0 * c, dtype=torch.float64), U[c], chain=c)
        alone.simulate_chain(20)
        torch.testing.assert_close(path(chain), path(alone), rtol=1e-9, atol=1e-9)


def test_a_potential_listed_twice_serves_its_chains_in_one_batch():
    calls = []

    def U(q):
        calls.append(1)
        return standard(q)

    first = Potential(U, compile=False)
    chains = make_all("hmc", starts_for(3), [first, shifted(1), first])
    chains.simulate_chains(1)
    calls.clear()
    chains.simulate_chains(10)
    assert len(calls) == 10 * 3


def test_a_list_of_potentials_must_fit():
    with pytest.raises(ValueError, match="one for each of the 3 chains; received 2"):
        make_all("hmc", U=[standard, standard])


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


@pytest.mark.parametrize("num_parallel", [1, 3])
def test_an_error_in_one_thread_is_raised(num_parallel):
    fuse = Fuse(ValueError("mine"))
    potentials = [shifted(0), Potential(fuse, on_error="raise"), shifted(0)]
    chains = make_all("hmc", U=potentials)
    chains.simulate_chains(2, num_parallel=num_parallel)
    fuse.left = 7  # two states of three steps, and one step
    with pytest.raises(ValueError, match="mine"):
        chains.simulate_chains(5, num_parallel=num_parallel)
    states = [chain.num_states for chain in chains.chains]
    assert states == ([7, 4, 7] if num_parallel == 3 else [7, 4, 2])
    chains.simulate_chains(3, num_parallel=num_parallel)
    assert [chain.num_states for chain in chains.chains] == [n + 3 for n in states]
    assert paths_are_finite(chains)


def paths_are_finite(chains):
    return all(path(chain).isfinite().all() for chain in chains.chains)


def test_threads_leave_the_process_as_it_was():
    """Capturing patches torch.nn.Module and the warning filters; two captures at once leave the patches in place."""
    code = """
        import threading, time, warnings, torch
        from hnbayes import MultiChainHMC
        from hnbayes.potentials import graph
        torch.set_num_threads(1)
        call, recorded, lock, inside, most = torch.nn.Module.__call__, graph.recorded, threading.Lock(), [], []

        def slowly_recorded(*arguments):
            with lock:
                inside.append(1)
                most.append(len(inside))
            time.sleep(0.2)
            with lock:
                inside.pop()
            return recorded(*arguments)

        graph.recorded = slowly_recorded
        potentials = [lambda q, c=c: 0.5 * (q - c).square().sum() for c in range(3)]
        chains = MultiChainHMC([torch.zeros(2)] * 3, potentials, seed=0)
        chains.simulate_chains(3, num_parallel=3)
        assert len(most) == 3
        assert max(most) == 1, "graphs are captured at the same time"
        assert torch.nn.Module.__call__ is call, "Module.__call__ is still patched"
        assert not torch.fx._symbolic_trace.is_fx_tracing(), "torch.fx believes that it is tracing"
        assert ("ignore", None, Warning, None, 0) not in warnings.filters, "all warnings are ignored"
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False, timeout=60
    )
    assert result.returncode == 0, result.stderr[-300:]


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


# --- what it costs ----------------------------------------------------------------------------------------------------


class Counter:
    """U that counts its calls and can't be captured."""

    def __init__(self):
        self.calls = 0

    def __call__(self, q):
        self.calls += 1
        return standard(q) * (1.0 if q[0].item() < 1e9 else 0.0)


@pytest.mark.parametrize("kind", KINDS)
def test_one_evaluation_a_step(kind):
    U = Counter()
    chain = make(kind, U=U)
    chain.simulate_chain(1)
    # To find the way of evaluating takes two, or three for values alone; the start takes one.
    first = int(chain.to_draws().stats["n_steps"].sum())
    assert U.calls <= first + 4
    before = U.calls
    for n in (7, 13):
        chain.simulate_chain(n)
    steps = int(chain.to_draws().stats["n_steps"].sum())
    assert U.calls - before == steps - first
    if kind == "hmc":
        assert steps == 21 * 3
    chain.to_draws()
    _ = chain.acceptance_probability
    assert U.calls - before == steps - first


# --- constants in U: faults of earlier implementations ---------------------------------------------------------------


def z_scores(draws, mean, covariance):
    """How many Monte Carlo standard errors means and second central moments are off; draws (C, S, D)."""
    arviz = import_arviz()
    z = []
    for i, j in itertools.combinations_with_replacement(range(len(mean)), 2):
        product = ((draws[:, :, i] - mean[i]) * (draws[:, :, j] - mean[j])).double().numpy()
        z.append((product.mean() - float(covariance[i, j])) / float(arviz.mcse(product, method="mean")))
    for i in range(len(mean)):
        x = draws[:, :, i].double().numpy()
        z.append((x.mean() - float(mean[i])) / float(arviz.mcse(x, method="mean")))
    return np.abs(np.array(z))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("constant", [1e4, -300.0])
def test_a_constant_in_u_changes_nothing_in_float32(constant, kind):
    """exp(-U - K) under- or overflows in float32 from about 88 on."""
    starts = starts_for(4, dtype=torch.float32)
    options = {"proposal_std": 2.0} if kind == "mcmc" else {}
    chains = make_all(kind, starts, lambda q: standard(q) + constant, **options)
    chains.simulate_chains(300)
    z = z_scores(chains.to_draws().positions, torch.zeros(2), torch.eye(2))
    assert z.max() < 4
    if kind != "mcmc":
        assert chains.avg_acceptance_probability > 0.8
        assert not chains.to_draws().stats["diverging"].any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("constant", [2.0**14, 200.0, -300.0])
def test_a_constant_in_u_changes_no_draw_in_float64(constant, kind):
    plain, shifted_up = make(kind), make(kind, U=lambda q: standard(q) + constant)
    for chain in (plain, shifted_up):
        chain.simulate_chain(100)
    torch.testing.assert_close(path(plain), path(shifted_up), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(
        plain.to_draws().stats["lp"] - constant, shifted_up.to_draws().stats["lp"], rtol=1e-12, atol=1e-9
    )


# --- moments ----------------------------------------------------------------------------------------------------------

MEAN = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
ROOT = torch.tensor([[1.0, 0.0, 0.0], [0.6, 0.8, 0.0], [-0.5, 0.3, 1.5]], dtype=torch.float64)
COVARIANCE = ROOT @ ROOT.mT
PRECISION = torch.linalg.inv(COVARIANCE)

SAMPLERS = {
    "HMC": ("hmc", {"stepsize": 0.55, "num_steps": 4}),
    "HMC, one step": ("hmc", {"stepsize": 0.9, "num_steps": 1}),
    "HMC, dense mass": ("hmc", {"stepsize": 1.0, "num_steps": 2, "inv_mass": COVARIANCE}),
    "HMC, diagonal mass": ("hmc", {"stepsize": 0.5, "num_steps": 4, "inv_mass": COVARIANCE.diagonal()}),
    "NUTS": ("nuts", {"stepsize": 0.7}),
    "NUTS, dense mass": ("nuts", {"stepsize": 1.0, "inv_mass": COVARIANCE}),
    "NUTS, depth 1": ("nuts", {"stepsize": 0.7, "max_tree_depth": 1}),
    "MCMC": ("mcmc", {"proposal_std": 1.2}),
}


def gaussian(q):
    return 0.5 * (q - MEAN) @ PRECISION @ (q - MEAN)


def sample_gaussian(name, states=500):
    """Four chains, started in the target itself."""
    kind, options = SAMPLERS[name]
    z = torch.randn(4, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    chains = MultiChainHMC(list(MEAN + z @ ROOT.mT), gaussian, kind, seed=0, **options)
    chains.simulate_chains(states)
    return chains.to_draws().positions


@pytest.mark.parametrize("name", SAMPLERS)
def test_moments(name):
    assert z_scores(sample_gaussian(name), MEAN, COVARIANCE).max() < 4


def tempered(energy, proposed, *rest):
    return np.minimum(0.4 * (energy - proposed), 0.0)


def always(energy, proposed, *rest):
    return np.zeros_like(energy)


def fast(self, z, ix=None):
    return 1.5 * z


@pytest.mark.parametrize(
    ("name", "where", "attribute", "mutant"),
    [
        ("HMC, one step", hnbayes.kernels.hmc, "log_acceptance", always),
        ("HMC, dense mass", hnbayes.kernels.hmc, "log_acceptance", always),
        ("MCMC", hnbayes.kernels.metropolis, "log_acceptance", tempered),
        ("HMC", hnbayes.kernels.metrics.DiagonalMetric, "momentum", fast),
        ("NUTS", hnbayes.kernels.metrics.DiagonalMetric, "momentum", fast),
        ("NUTS, dense mass", hnbayes.kernels.metrics.DenseMetric, "momentum", fast),
    ],
)
def test_moments_reject_mutants(name, where, attribute, mutant, monkeypatch):
    monkeypatch.setattr(where, attribute, mutant)
    states = 300 if name.startswith("NUTS") else 500
    assert z_scores(sample_gaussian(name, states), MEAN, COVARIANCE).max() > 5


# --- draws and InferenceData ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_to_draws(kind):
    chains = make_all(kind)
    with pytest.raises(ValueError, match=r"must hold states.*simulate_chain\(n\) first"):
        chains.to_draws()
    chains.simulate_chains(5)
    chains.simulate_chains(3, num_chains=[1])
    draws = chains.to_draws()
    # Of each chain the last as many as all have; the initial positions are no draws.
    assert draws.positions.shape == (3, 5, 2)
    for c, chain in enumerate(chains.chains):
        assert torch.equal(draws.positions[c], path(chain)[-5:])
    assert all(values.shape == (3, 5) for values in draws.stats.values())
    torch.testing.assert_close(-draws.stats["lp"], 0.5 * draws.positions.square().sum(-1))
    scale = TUNED[kind].get("stepsize", 1.0)
    assert draws.step_size.tolist() == [scale] * 3
    torch.testing.assert_close(draws.inverse_metric, torch.ones(3, 2, dtype=torch.float64))
    assert draws.metadata["kernel"] == CLASSES[kind].__name__
    assert draws.metadata["seed"] == 0
    alone = chains.chains[1].to_draws()
    assert torch.equal(alone.positions[0], path(chains.chains[1])[1:])


@pytest.mark.parametrize("kind", KINDS)
def test_statistics_say_what_happened(kind):
    chain = make(kind, **({"stepsize": 1.7} if kind != "mcmc" else {"proposal_std": 3.0}))
    chain.simulate_chain(60)
    stats = {name: values[0] for name, values in chain.to_draws().stats.items()}
    assert ((stats["acceptance_rate"] >= 0) & (stats["acceptance_rate"] <= 1)).all()
    assert stats["diverging"].dtype == torch.bool
    if kind == "nuts":
        assert (stats["n_steps"] <= 2 ** stats["tree_depth"] - 1).all()
        assert stats["reached_max_treedepth"].dtype == torch.bool
    else:
        moved = (path(chain)[1:] != path(chain)[:-1]).any(1)
        assert torch.equal(stats["accepted"], moved)
        assert moved.any()
        assert not moved.all()
        rejected = ~moved
        # A rejected step repeats the state and its energy.
        lp = torch.cat([torch.tensor([0.0], dtype=torch.float64), stats["lp"]])
        assert torch.equal(lp[1:][rejected], lp[:-1][rejected])
    if kind != "mcmc":
        assert (stats["energy"] + stats["lp"] >= 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_to_inference_data(kind):
    import_arviz()
    chains = make_all(kind)
    chains.simulate_chains(6)
    for source, expected in [(chains, paths(chains)[:, 1:]), (chains.chains[2], path(chains.chains[2])[None, 1:])]:
        for data in (to_inference_data(source), source.to_draws().to_inference_data()):
            posterior = data["posterior"]["position"]
            assert posterior.dims == ("chain", "draw", "position_dim_0")
            np.testing.assert_array_equal(posterior.values, expected.numpy())
            lp = data["sample_stats"]["lp"].values
            np.testing.assert_allclose(lp, -0.5 * expected.square().sum(-1).numpy())
            assert data["sample_stats"]["diverging"].dtype == bool


def test_to_inference_data_of_a_network_has_its_parameters():
    import_arviz()
    net = torch.nn.Linear(2, 1).double()
    X, y = torch.ones(4, 2, dtype=torch.float64), torch.zeros(4, 1, dtype=torch.float64)
    U = nn_pot_energy(net, X, y, lambda q: -standard(q))
    chains = make_all("nuts", starts_for(2, 3), U)
    chains.simulate_chains(4)
    assert chains.to_draws().spec == ParamSpec(("weight", "bias"), ((1, 2), (1,)))
    posterior = to_inference_data(chains)["posterior"]
    assert set(posterior.data_vars) == {"weight", "bias"}
    np.testing.assert_array_equal(posterior["weight"].values, paths(chains)[:, 1:, :2].reshape(2, 4, 1, 2).numpy())
    np.testing.assert_array_equal(posterior["bias"].values, paths(chains)[:, 1:, 2:].numpy())
