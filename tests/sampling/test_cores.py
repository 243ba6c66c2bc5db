"""A run that is spread over processes: the same draws whatever their number, and nothing is lost whatever ends one."""

from __future__ import annotations

import contextlib
import itertools
import os
import pathlib
import random
import shutil
import signal
import tempfile
import threading
import warnings

import numpy as np
import pytest
import stopped_runs
import torch
from nursery import Nursery, when_checkpoints
from same_draws import assert_identical
from targets import banana
from torch import nn

import hnbayes
from hnbayes.kernels import NUTS, RandomWalkMetropolis
from hnbayes.sampling import read_draws, resume_potential, sample_potential
from hnbayes.sampling.callbacks import StopSampling
from hnbayes.sampling.cores import automatic
from hnbayes.sampling.crew import InWorkerError, WorkerDiedError
from hnbayes.sampling.lots import MOST_LOTS, divide

pytestmark = pytest.mark.filterwarnings("ignore::hnbayes.sampling.SamplingWarning")  # runs are short
BENT = banana([1.0, 0.8, 1.2, 1.5], [0.3, -0.4, 0.2])


def slow(value):
    return pytest.param(value, marks=pytest.mark.slow)


def sample(chains=3, dtype=torch.float32, potential=BENT.potential, **options):
    options = {"warmup": 40, "draws": 30, "seed": 4, "save_warmup": True, "progress": False} | options
    return sample_potential(potential, BENT.draw(chains, seed=2).to(dtype), **options)


def resume(folder, potential=BENT.potential, **options):
    return resume_potential(folder, potential, **({"progress": False} | options))


class Stop:
    """Stops a run after so many events."""

    def __init__(self, after):
        self.after = after

    def __call__(self, event):
        self.after -= 1
        if self.after == 0:
            raise StopSampling


@pytest.mark.parametrize("kernel", ["nuts", slow("hmc"), slow("metropolis")])
def test_the_number_of_processes_makes_no_difference(kernel):
    one, two = (sample(kernel=kernel, cores=cores) for cores in (1, 2))
    assert_identical(one, two)
    alone = sample(kernel=kernel)
    # The same chains as those of one batch; what rounding does to a short run is little.
    assert torch.allclose(two.warmup_positions[:, :10], alone.warmup_positions[:, :10], atol=1e-4)
    assert two.metadata["cores"] == 2
    differing = {"sampling_time", "cores", "lots"}
    for found in (two, alone):
        for name in differing:
            found.metadata.pop(name, None)
    assert two.metadata == alone.metadata


def test_the_comparison_can_fail():
    """Had a chain the stream of another, or were lots what workers make of them, it would be seen."""
    a, b = sample(chain_ids=[0, 1, 2]), sample(chain_ids=[0, 2, 1])
    with pytest.raises(AssertionError):
        assert_identical(a, b)


@pytest.mark.parametrize(
    "options",
    [
        {"chains": MOST_LOTS + 3, "dtype": torch.float64, "metric": "dense", "chain_ids": range(5, 24)},
        slow({"metric": torch.tensor([0.7, 1.3, 0.9, 2.1]), "thin": 3}),
        slow({"metric": "unit", "adapt_step_size": False, "step_size": 0.3}),
        slow({"compile": False, "storage_dtype": torch.float64}),
    ],
    ids=str,
)
def test_every_option_and_lots_of_several_chains(options, tmp_path):
    one = sample(cores=1, **options)
    sample(cores=3, checkpoint=tmp_path, callbacks=[Stop(30)], **options)
    assert_identical(resume(tmp_path, cores=2), one)


def test_lots_follow_from_the_number_of_chains():
    for chains in (1, 4, MOST_LOTS, MOST_LOTS + 1, 64, 100):
        lots = divide(chains)
        assert [chain for lot in lots for chain in lot] == list(range(chains))
        assert len(lots) <= MOST_LOTS
        assert len({len(lot) for lot in lots[:-1]}) <= 1


@pytest.fixture
def _without_c(monkeypatch):
    """With trees in C, workers have all draws before they hear of a stop."""
    monkeypatch.setenv("HNBAYES_NATIVE", "0")


@pytest.mark.usefixtures("_without_c")
def test_stopped_and_resumed_by_another_number_of_processes(tmp_path):
    whole = sample(cores=1)
    part = sample(cores=2, checkpoint=tmp_path, callbacks=[Stop(60)])
    assert part.metadata["interrupted"]
    assert part.num_draws < 30
    assert torch.equal(part.positions, whole.positions[:, : part.num_draws])
    assert torch.equal(read_draws(tmp_path).positions, part.positions)
    assert_identical(resume(tmp_path, cores=1), whole)
    assert_identical(read_draws(tmp_path), whole)
    with pytest.raises(ValueError, match="at least the 30"):
        resume(tmp_path, draws=20)
    with pytest.raises(ValueError, match="holds one"):
        sample(checkpoint=tmp_path)
    with pytest.raises(ValueError, match=r"U is off by.*process of chain"):
        resume(tmp_path, lambda q: BENT.potential(q) + 1e-3)


@pytest.mark.slow
@pytest.mark.usefixtures("_without_c")
def test_more_draws_by_another_number_of_processes(tmp_path):
    whole = sample(cores=2, checkpoint=tmp_path / "whole")
    sample(cores=1, checkpoint=tmp_path / "part", callbacks=[Stop(60)])
    longer = [resume(tmp_path / name, draws=50, cores=cores) for name, cores in (("whole", 2), ("part", 3))]
    assert_identical(*longer)
    assert torch.equal(longer[0].positions[:, :30], whole.positions)


def test_a_run_of_one_batch_takes_no_cores(tmp_path):
    sample(chains=1, checkpoint=tmp_path, callbacks=[Stop(10)])
    with pytest.raises(ValueError, match="cores must be None"):
        resume(tmp_path, cores=2)


# What may go wrong


class Mine(KeyError):
    """An error that isn't numerical."""


def failing(flag, what):
    """A potential that does something in the first process that has a chain far out, while a file is there."""
    flag, victim, number, U = str(flag), f"{flag}.victim", int(signal.SIGKILL), BENT.potential

    def potential(q):
        if float(q[0].detach()) > 1.5 and os.path.exists(flag):
            with contextlib.suppress(FileExistsError), open(victim, "x") as file:
                file.write(str(os.getpid()))
            if pathlib.Path(victim).read_text() == str(os.getpid()):
                if what == "killed":
                    os.kill(os.getpid(), number)
                raise Mine("row 7")
        return U(q)

    return hnbayes.Potential(potential)


FAILING_START = torch.zeros(3, 4)
FIXED = {"step_size": 0.3, "adapt_step_size": False, "warmup": 30, "draws": 200, "seed": 2, "progress": False}
FIXED |= {"max_tree_depth": 3, "save_warmup": True}


@pytest.fixture
def flag(tmp_path):
    path = tmp_path / "flag"
    path.touch()
    return path


def test_a_process_that_is_killed(flag, tmp_path):
    U, run = failing(flag, "killed"), tmp_path / "run"
    with pytest.raises(WorkerDiedError, match=r"process of chain \d was killed by SIGKILL .*want of memory") as caught:
        sample_potential(U, FAILING_START, cores=3, checkpoint=run, checkpoint_every=0.05, **FIXED)
    found = caught.value.draws
    lengths = [len(rows) for rows in found.ragged_positions or found.positions]
    flag.unlink()
    whole = sample_potential(U, FAILING_START, cores=1, **FIXED)
    for chain, rows in enumerate(found.ragged_positions or found.positions):
        assert torch.equal(rows, whole.positions[chain, : len(rows)])
    assert len(lengths) == 3
    assert_identical(resume(run, U), whole)


def test_the_others_go_on_without_it(flag):
    U = failing(flag, "killed")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = sample_potential(U, FAILING_START, cores=3, on_error="drop", **FIXED)
    flag.unlink()
    whole = sample_potential(U, FAILING_START, cores=1, **FIXED)
    dropped = found.metadata["dropped_chains"]
    assert 0 < len(dropped) < 3
    assert any("killed by SIGKILL" in str(w.message) for w in told)
    assert torch.equal(found.positions, whole.positions[[c for c in range(3) if c not in dropped]])


def test_an_error_is_raised_once_with_all_draws(flag, tmp_path):
    U, run = failing(flag, "error"), tmp_path / "run"
    with pytest.raises(Mine, match="row 7") as caught:
        sample_potential(U, FAILING_START, cores=2, checkpoint=run, **FIXED)
    assert isinstance(caught.value.__cause__, InWorkerError)
    assert "in potential" in str(caught.value.__cause__)  # where it was raised
    assert caught.value.draws.chains == 3
    flag.unlink()
    assert_identical(resume(run, U, cores=1), sample_potential(U, FAILING_START, cores=1, **FIXED))


def test_an_error_drops_its_chain_alone(flag):
    U = failing(flag, "error")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = sample_potential(U, FAILING_START, cores=2, on_error="drop", **FIXED)
    flag.unlink()
    whole = sample_potential(U, FAILING_START, cores=1, **FIXED)
    dropped = found.metadata["dropped_chains"]
    assert 0 < len(dropped) < 3
    for chain in dropped:
        assert any(f"chain {chain} was dropped after" in str(w.message) for w in told)
    assert torch.equal(found.positions, whole.positions[[c for c in range(3) if c not in dropped]])


def test_a_callback_that_fails():
    def callback(event):
        raise Mine("of the callback")

    with pytest.raises(Mine, match="of the callback") as caught:
        sample(cores=2, callbacks=[callback])
    assert caught.value.draws.chains == 3


def test_callbacks_see_every_transition():
    seen = {}

    def callback(event):
        for chain, done, position in zip(event.chains, event.done, event.positions, strict=True):
            seen[int(chain), int(done)] = position

    found = sample(cores=2, callbacks=[callback])
    assert len(seen) == 3 * 70
    everything = torch.cat([found.warmup_positions, found.positions], 1).numpy()
    for (chain, done), position in seen.items():
        np.testing.assert_array_equal(position, everything[chain, done - 1])


def test_one_progress_bar(capsys):
    sample(cores=2, progress=True)
    assert "210/210" in capsys.readouterr().err


def test_a_start_that_is_not_finite():
    start = torch.zeros(3, 4)
    start[1] = 5e4  # beyond what its square is in float32 below
    with pytest.raises(ValueError, match="must be finite at every initial position"):
        sample_potential(lambda q: (q**10).sum(), start, cores=2, warmup=5, draws=5, progress=False)


def with_a_lock():
    lock = threading.Lock()

    def potential(q):
        with lock:
            return q.square().sum()

    return potential


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cores": 0}, "at least 1"),
        ({"cores": "many"}, "'auto' or None"),
        ({"cores": 2, "adaptation": "pooled"}, "cores needs adaptation='per-chain'"),
        ({"cores": 2, "kernel": type("Own", (RandomWalkMetropolis,), {})()}, "a kernel of hnbayes.kernels"),
        ({"cores": 2, "potential": with_a_lock()}, "pickling it raised TypeError"),
    ],
)
def test_what_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        sample(**options)
    with pytest.raises(TypeError, match="cores must be an integer"):
        sample(cores=1.5)


# cores="auto"


def network(width, rows, seed=0):
    net = nn.Sequential(nn.Linear(8, width), nn.Tanh(), nn.Linear(width, 1))
    X = torch.randn(rows, 8, generator=torch.Generator().manual_seed(seed))
    return hnbayes.nn_pot_energy(net, X, X[:, :1].sin(), hnbayes.log_prob_standard_normal_prior, tau_pred=10.0)


def test_auto_spreads_what_takes_long(monkeypatch):
    monkeypatch.setattr("hnbayes.sampling.cores.usable_cpus", lambda: 2)
    small, large = network(5, 20), network(200, 2000)
    positions = {U: torch.zeros(4, U.spec.size) for U in (small, large)}
    assert automatic(small, positions[small], 100 * 64, True) is None
    assert automatic(large, positions[large], 1000 * 64, True) == 2
    assert automatic(large, positions[large], 10, True) is None
    assert automatic(large, positions[large][:1], 1000 * 64, True) is None
    monkeypatch.setattr("hnbayes.sampling.cores.usable_cpus", lambda: 1)
    assert automatic(large, positions[large], 1000 * 64, True) is None


def test_auto_stays_in_one_process_where_it_must():
    assert_identical(sample(cores="auto", adaptation="pooled"), sample(adaptation="pooled"))
    assert "cores" not in sample(cores="auto", kernel=NUTS(5)).metadata


def test_everything_of_the_caller_stays(tmp_path, monkeypatch):
    """Threads, signal handlers, children and temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    began = []
    before = torch.get_num_threads(), signal.getsignal(signal.SIGINT)
    sample(cores=2, callbacks=[lambda event: began.extend(tmp_path.iterdir())])
    assert began
    assert (torch.get_num_threads(), signal.getsignal(signal.SIGINT)) == before
    assert not list(tmp_path.iterdir())
    with pytest.raises(ChildProcessError):  # there is none that has to be waited for
        os.waitpid(-1, os.WNOHANG)


# Processes that are killed


@pytest.fixture(scope="module")
def nursery():
    found = Nursery()
    yield found
    found.close()


def when_it_samples(run):
    """Waits until two lots of a run have begun."""
    return when_checkpoints(run, "lot-*/checkpoint-*", folders=2)


def killed_and_resumed(nursery, cases, folder, again=True):
    """Each case killed at a random moment, resumed, perhaps killed again, by other numbers of processes.

    Returns how many had begun to sample when they were killed, and had not ended.
    """
    rng, hit, wholes = random.Random(5), 0, {}
    for number, (kernel, chains, cores, victim) in enumerate(cases):
        run, key = folder / str(number), (kernel, chains)
        if key not in wholes:
            wholes[key] = stopped_runs.sample(kernel, chains, stopped_runs.Slow(), cores=1)
        options = {"cores": cores, "victim": victim}
        if chains > 1 and rng.random() < 0.8:
            options |= {"wait": when_it_samples(run), "after": rng.uniform(0, 0.5)}
        else:
            options["after"] = rng.uniform(0, 4.0)  # while processes start
        status, _ = nursery.run(kernel, chains, run, **options)
        hit += status != 0 and "wait" in options
        if not (run / "run.lots").exists():  # nothing was there yet
            nursery.run(kernel, chains, run, cores=cores)
        else:
            if again:
                nursery.run(
                    kernel, chains, run, resume=True, cores=3 - cores, victim=victim, after=rng.uniform(2.0, 5.0)
                )
            assert nursery.run(kernel, chains, run, resume=True, cores=cores)[0] == 0
        assert_identical(read_draws(run), wholes[key])
        shutil.rmtree(run)
    return hit


def test_killed_at_a_random_moment(nursery, tmp_path):
    assert killed_and_resumed(nursery, [("nuts", 2, 2, "parent")], tmp_path, again=False) == 1


@pytest.mark.slow
def test_killed_at_sixty_random_moments(nursery, tmp_path):
    kinds = list(itertools.product(("nuts", "hmc", "metropolis"), (1, 4), (1, 2), ("parent", "worker")))
    cases = (kinds * 3)[:60]
    hit = killed_and_resumed(nursery, cases, tmp_path)
    print(f"{hit} of {len(cases)} killed while they sampled")
    assert hit > 20


@pytest.mark.parametrize("victim", ["parent", slow("worker")])
@pytest.mark.parametrize("sent", [signal.SIGTERM, slow(signal.SIGINT)])
def test_signals_end_a_run_with_a_checkpoint(sent, victim, nursery, tmp_path):
    if (sent, victim) == (signal.SIGINT, "worker"):
        pytest.skip("workers leave Ctrl-C to the process that has started them")
    run = tmp_path / "run"
    status, told = nursery.run("nuts", 2, run, cores=2, sent=sent, victim=victim, after=0.1, wait=when_it_samples(run))
    assert status == 0
    assert told[-1]["interrupted"]
    assert told[-1]["stopped_by"] == sent.name
    found = resume_potential(run, stopped_runs.Slow(), progress=False, cores=1)
    assert_identical(found, stopped_runs.sample("nuts", 2, stopped_runs.Slow(), cores=2))
