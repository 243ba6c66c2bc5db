"""What the documented chains write: lines of a log, TensorBoard."""

from __future__ import annotations

import logging
import os
import time
import warnings

import numpy as np
import pytest
import torch
from documented_chains import (
    KINDS,
    make,
    make_all,
    standard,
)

torch.set_num_threads(1)


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
