"""A run that is stopped at any moment and resumed has the draws of the run that wasn't stopped, bit for bit."""

from __future__ import annotations

import itertools
import json
import random
import shutil
import signal
import threading
import time

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
from hnbayes.potentials.native.compiler import available
from hnbayes.sampling import read_draws, resume_potential, sample_potential
from hnbayes.sampling.array_file import DamagedFileError, read_arrays, write_arrays
from hnbayes.sampling.callbacks import StopSampling

pytestmark = pytest.mark.filterwarnings("ignore::hnbayes.sampling.SamplingWarning")  # runs are short
BENT = banana([1.0, 0.8, 1.2, 1.5], [0.3, -0.4, 0.2])
KERNELS = ("nuts", "hmc", "metropolis", "mclmc", "mamclmc")


def slow(value):
    return pytest.param(value, marks=pytest.mark.slow)


class StopAfter:
    """Stops a run after so many events; counts them."""

    def __init__(self, limit=None):
        self.events, self.limit = 0, limit

    def __call__(self, event):
        self.events += 1
        if self.events == self.limit:
            raise StopSampling


def sample(chains=2, dtype=torch.float32, **options):
    options = {"kernel": "nuts", "warmup": 50, "draws": 30, "seed": 4, "save_warmup": True, "progress": False} | options
    return sample_potential(BENT.potential, BENT.draw(chains, seed=2).to(dtype), **options)


def resume(folder, potential=BENT.potential, **options):
    return resume_potential(folder, potential, **({"progress": False} | options))


def stopped(folder, event, **options):
    result = sample(checkpoint=folder, callbacks=[StopAfter(event)], **options)
    assert result.metadata["interrupted"]
    return result


@pytest.mark.parametrize(
    ("kernel", "chains"), [*itertools.product(KERNELS, [1, 4]), pytest.param("chees", 5, id="chees-5")]
)
def test_stopped_anywhere_and_resumed(kernel, chains, tmp_path):
    counter = StopAfter()
    whole = sample(chains, kernel=kernel, callbacks=[counter])
    rng = random.Random(f"{kernel} {chains}")
    # In warm-up, at the end of a window, among draws, and at the last event.
    for number, event in enumerate([1, counter.events, *(rng.randrange(2, counter.events) for _ in range(1))]):
        folder = tmp_path / str(number)
        stopped(folder, event, chains=chains, kernel=kernel)
        assert_identical(resume(folder), whole)
        assert_identical(read_draws(folder), whole)


def test_in_memory_and_on_disk_are_the_same(tmp_path):
    assert_identical(sample(checkpoint=tmp_path), sample())


@pytest.mark.parametrize(
    "options",
    [
        {"metric": "dense"},
        slow({"metric": torch.tensor([0.7, 1.3, 0.9, 2.1])}),
        slow({"metric": "unit", "adapt_step_size": False, "step_size": 0.3}),
        {"adaptation": "pooled", "chains": 3},
        slow({"thin": 3}),
        {"warmup": 0, "step_size": 0.2},
        {"dtype": torch.float64, "chain_ids": [5, 2]},
        {"kernel": hnbayes.sampling.sample.make_kernel("hmc", 5, 10)},
        slow({"kernel": RandomWalkMetropolis(target_accept=0.4)}),
        {"compile": False},
    ],
    ids=lambda options: " ".join(options),  # an object's text would have its place in memory
)
def test_every_option_is_stored(options, tmp_path):
    whole = sample(**options)
    stopped(tmp_path, 25, **options)
    resumed = resume(tmp_path)
    assert_identical(resumed, whole)
    different = {"sampling_time"}
    assert {k: v for k, v in resumed.metadata.items() if k not in different} == {
        k: v for k, v in whole.metadata.items() if k not in different
    }


def test_blocks_of_the_metric_and_names_of_parameters(tmp_path):
    net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    X = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
    U = hnbayes.nn_pot_energy(net, X, X[:, :1].sin(), hnbayes.log_prob_standard_normal_prior, tau_pred=10.0)
    start = torch.randn(2, U.spec.size, generator=torch.Generator().manual_seed(1))
    options = {"warmup": 30, "draws": 10, "seed": 1, "progress": False, "metric": [("0.weight", "0.bias")]}
    options |= {"max_tree_depth": 5, "save_warmup": True}
    whole = sample_potential(U, start, **options)
    sample_potential(U, start, **options, checkpoint=tmp_path, callbacks=[StopAfter(40)])
    assert_identical(resume(tmp_path, U), whole)
    assert read_draws(tmp_path).params()["0.weight"].shape == (2, 10, 3, 2)


def test_chains_that_end_at_different_times(tmp_path):
    """More chains than a small batch, so that it shrinks on the way."""
    options = {"chains": 12, "warmup": 20, "draws": 15, "compile": False}
    counter = StopAfter()
    whole = sample(callbacks=[counter], **options)
    for number in range(3):
        folder = tmp_path / str(number)
        stopped(folder, counter.events - number * 13, **options)
        assert_identical(resume(folder), whole)


def test_resumed_many_times(tmp_path):
    whole = sample()
    stopped(tmp_path, 5)
    for _ in range(100):
        result = resume(tmp_path, callbacks=[StopAfter(9)])
        if not result.metadata["interrupted"]:
            break
    assert_identical(result, whole)


def test_more_draws_for_a_finished_run(tmp_path):
    first = sample(checkpoint=tmp_path)
    longer = resume(tmp_path, draws=70)
    assert longer.num_draws == 70
    assert torch.equal(longer.positions[:, :30], first.positions)
    assert longer.metadata["draws"] == 70
    # No draw twice, and the chains move on.
    assert all(len(torch.unique(chain, dim=0)) > 60 for chain in longer.positions)
    with pytest.raises(ValueError, match="at least the 70"):
        resume(tmp_path, draws=30)


def test_more_draws_are_the_same_whenever_it_stops(tmp_path):
    sample(checkpoint=tmp_path / "a")
    whole = resume(tmp_path / "a", draws=60)
    for number, event in enumerate((3, 70)):
        folder = tmp_path / str(number)
        stopped(folder, 70)
        result = resume(folder, draws=60, callbacks=[StopAfter(event)])
        assert result.metadata["interrupted"]
        assert_identical(resume(folder, draws=60), whole)


def test_draws_so_far_are_returned_and_readable(tmp_path):
    counter = StopAfter()
    whole = sample(callbacks=[counter])
    part = stopped(tmp_path, int(0.85 * counter.events))
    assert 0 < part.num_draws < 30
    assert torch.equal(part.positions, whole.positions[:, : part.num_draws])
    for chain, rows in enumerate(part.ragged_positions or part.positions):
        assert torch.equal(rows, whole.positions[chain, : len(rows)])
    assert torch.equal(read_draws(tmp_path).positions, part.positions)
    assert read_draws(tmp_path).metadata["interrupted"]


class Interrupted(hnbayes.Potential):
    """Ctrl-C in the middle of an evaluation, that of the given number."""

    def __init__(self, function, at=None):
        super().__init__(function, compile=False)
        self.calls, self.at = 0, at

    def value_and_grad(self, positions):
        self.calls += 1
        if self.calls == self.at:
            raise KeyboardInterrupt
        return super().value_and_grad(positions)


@pytest.mark.parametrize("at", [60, 150])
def test_an_interrupt_in_an_evaluation_leaves_the_checkpoint_before(at, tmp_path):
    start = BENT.draw(2, seed=2).float()
    options = {"warmup": 20, "draws": 20, "seed": 1, "progress": False, "save_warmup": True}
    whole = sample_potential(Interrupted(BENT.potential), start, **options)
    U = Interrupted(BENT.potential, at)
    part = sample_potential(U, start, **options, checkpoint=tmp_path, checkpoint_every=0)
    assert part.metadata["interrupted"]
    assert_identical(resume(tmp_path, Interrupted(BENT.potential)), whole)


# What is refused


def test_another_potential_or_data_are_refused(tmp_path):
    stopped(tmp_path, 30)
    with pytest.raises(ValueError, match=r"same model and data.* U is off by"):
        resume(tmp_path, lambda q: BENT.potential(q) + 1e-3)
    with pytest.raises(ValueError, match="gradient of U is off"):
        resume(tmp_path, lambda q: BENT.potential(q) + 1e-3 * (q - q.detach()).sum())
    with pytest.raises(ValueError, match="positions are made of"):
        resume(tmp_path / "net", other_names(tmp_path / "net"))
    assert_identical(resume(tmp_path), sample())


def other_names(folder):
    """A run of named parameters, and a potential of others."""
    U = [
        hnbayes.Potential(BENT.potential, spec=hnbayes.ParamSpec(names, shapes))
        for names, shapes in ((("a", "b"), ((2,), (2,))), (("a", "c"), ((2,), (2,))))
    ]
    sample_potential(U[0], BENT.draw(1, seed=0), warmup=5, draws=5, seed=0, progress=False, checkpoint=folder)
    return U[1]


@pytest.mark.skipif(not available(), reason="no C compiler here")
def test_a_run_goes_on_without_the_compiler_it_was_begun_with(tmp_path, monkeypatch):
    part = stopped(tmp_path, 30)
    assert part.metadata["evaluation"] == "native"
    monkeypatch.setenv("HNBAYES_NATIVE", "0")
    with pytest.warns(UserWarning, match=r"begun elsewhere \(compiler True -> False\)"):
        draws = resume(tmp_path, hnbayes.Potential(BENT.potential))
    assert draws.num_draws == 30


def test_another_place_is_warned_of(tmp_path, monkeypatch):
    stopped(tmp_path, 30)
    environment = hnbayes.sampling.resume.environment
    monkeypatch.setattr(hnbayes.sampling.resume, "environment", lambda device: environment(device) | {"torch": "9.9"})
    with pytest.warns(UserWarning, match=r"begun elsewhere \(torch .* -> 9.9\)"):
        resume(tmp_path)


def test_a_folder_holds_one_run(tmp_path):
    stopped(tmp_path, 30)
    with pytest.raises(ValueError, match="holds one"):
        sample(checkpoint=tmp_path)


def test_what_was_left_of_a_run_killed_at_its_very_start_is_replaced(tmp_path):
    sample(checkpoint=tmp_path)
    for path in tmp_path.glob("checkpoint-*"):
        path.unlink()
    assert_identical(sample(checkpoint=tmp_path, seed=5), sample(seed=5))
    assert_identical(read_draws(tmp_path), sample(seed=5))


def test_one_process_at_a_time(tmp_path):
    def meddle(event):
        with pytest.raises(ValueError, match="another process is sampling"):
            resume(tmp_path)
        raise StopSampling

    sample(checkpoint=tmp_path, callbacks=[meddle])


@pytest.mark.parametrize(
    ("folder", "error", "message"),
    [(3, TypeError, "text or a path"), ("", TypeError, "text or a path"), ("none", ValueError, "there is none")],
)
def test_bad_folders(folder, error, message):
    for call in (resume, read_draws):
        with pytest.raises(error, match=message):
            call(folder)


def test_bad_arguments(tmp_path):
    (tmp_path / "file").write_text("")
    for options, error, message in [
        ({"checkpoint": tmp_path / "file"}, ValueError, "is a file"),
        ({"checkpoint_every": -1, "checkpoint": tmp_path}, ValueError, "checkpoint_every"),
        ({"storage_dtype": torch.float16}, ValueError, "storage_dtype"),
        ({"kernel": Own(), "checkpoint": tmp_path}, ValueError, "kernel of hnbayes.kernels"),
    ]:
        with pytest.raises(error, match=message):
            sample(**options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]
    sample(checkpoint=tmp_path / "run")
    for options, error, message in [
        ({"draws": 0}, ValueError, "draws"),
        ({"checkpoint_every": "soon"}, TypeError, "checkpoint_every"),
        ({"callbacks": print}, TypeError, "callbacks"),
    ]:
        with pytest.raises(error, match=message):
            resume(tmp_path / "run", **options)


class Own(NUTS):
    """A kernel of one's own."""


# Damage


def damage(path, rng):
    """Cut a file short, or change some of its bytes."""
    content = bytearray(path.read_bytes())
    kind = rng.choice(("cut", "bit", "bytes"))
    at = rng.randrange(len(content))
    if kind == "cut":
        content = content[:at]
    elif kind == "bit":
        content[at] ^= 1 << rng.randrange(8)
    else:
        for i in range(at, min(at + rng.randrange(1, 64), len(content))):
            content[i] ^= rng.randrange(1, 256)
    path.write_bytes(bytes(content))


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """A run with two checkpoints, the newest of them among draws; and the whole run."""
    folder = tmp_path_factory.mktemp("damage") / "run"
    every = {"checkpoint_every": 0, "kernel": "metropolis"}
    sample(checkpoint=folder, callbacks=[StopAfter(70)], **every)
    assert len(list(folder.glob("checkpoint-*"))) == 2
    return folder, sample(kernel="metropolis")


def test_a_damaged_checkpoint_is_passed_over(checkpoints, tmp_path):
    source, whole = checkpoints
    rng = random.Random(1)
    for number in range(100):
        folder = tmp_path / str(number)
        shutil.copytree(source, folder)
        newest = max(folder.glob("checkpoint-*"))
        before = newest.read_bytes()
        while newest.read_bytes() == before:
            damage(newest, rng)
        with pytest.warns(UserWarning, match="goes on from the one before"):
            assert_identical(resume(folder), whole)
        shutil.rmtree(folder)


@pytest.mark.filterwarnings("ignore:the newest checkpoint can't be used")
def test_damaged_draws_are_never_used(checkpoints, tmp_path):
    """Draws that only the newest checkpoint refers to cost that one; others cost the run, and it is said."""
    source, whole = checkpoints
    rng = random.Random(2)
    outcomes = []
    for number in range(30):
        folder = tmp_path / str(number)
        shutil.copytree(source, folder)
        damage(folder / rng.choice(("draws.positions", "draws.stats", "warmup.positions", "warmup.stats")), rng)
        try:
            result = resume(folder)
        except ValueError as error:
            outcomes.append(str(error))
        else:
            outcomes.append("resumed")
            assert_identical(result, whole)
        shutil.rmtree(folder)
    assert all(text == "resumed" or "no undamaged checkpoint" in text for text in outcomes)
    assert any(text != "resumed" for text in outcomes)


def test_a_checkpoint_that_is_replaced_while_it_is_looked_for(checkpoints, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    shutil.copytree(checkpoints[0], folder)
    real, asked = read_arrays, []

    def replaced(path):
        if not asked:
            asked.append(path)
            newest = max(folder.glob("checkpoint-*"))
            newest.rename(folder / "checkpoint-99999998")
        return real(path)

    monkeypatch.setattr(hnbayes.sampling.run_folder, "read_arrays", replaced)
    assert_identical(read_draws(folder), sample(kernel="metropolis", callbacks=[StopAfter(70)]))
    assert asked


def test_both_checkpoints_damaged(checkpoints, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(checkpoints[0], folder)
    for path in folder.glob("checkpoint-*"):
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="no undamaged checkpoint"):
        resume(folder)
    (folder / "run.start").write_bytes(b"nothing")
    with pytest.raises(DamagedFileError):
        resume(folder)


def test_the_check_of_a_checkpoint_can_fail(checkpoints, tmp_path, monkeypatch):
    """Without checksums the damage above would go unnoticed."""
    monkeypatch.setattr(hnbayes.sampling.array_file.hashlib, "sha256", lambda *_: Constant())
    folder = tmp_path / "run"
    shutil.copytree(checkpoints[0], folder)
    for path in (folder / "run.start", *folder.glob("checkpoint-*")):
        path.write_bytes(path.read_bytes()[:-32] + bytes(32))
    newest = max(folder.glob("checkpoint-*"))
    arrays, record = read_arrays(newest)
    arrays["batch.position"][0, 0] += 1
    write_arrays(newest, arrays, record)
    with pytest.raises(AssertionError):
        assert_identical(resume(folder), checkpoints[1])


class Constant:
    """A hash that sees nothing."""

    def update(self, content):
        pass

    def digest(self):
        return bytes(32)


# Processes that are killed


@pytest.fixture(scope="module")
def nursery():
    found = Nursery()
    yield found
    found.close()


def killed_and_resumed(nursery, cases, folder, sent=signal.SIGKILL):
    """Each case sent a signal at a random moment, resumed, perhaps sent it again. Returns how often it was in time."""
    rng = random.Random(11)
    killed, in_time = 0, {}
    for number, (kernel, chains) in enumerate(cases):
        run = folder / str(number)
        began = time.monotonic()
        if (kernel, chains) not in in_time:
            nursery.run(kernel, chains, folder / f"whole {kernel} {chains}")
            in_time[kernel, chains] = time.monotonic() - began
        status, told = nursery.run(kernel, chains, run, after=rng.uniform(0, in_time[kernel, chains]), sent=sent)
        stopped = status != 0 or told[-1]["interrupted"]
        killed += stopped
        if not list(run.glob("checkpoint-*")):  # nothing was there yet
            assert stopped
            nursery.run(kernel, chains, run)
        else:
            # Again, while it is resumed.
            nursery.run(kernel, chains, run, resume=True, after=rng.uniform(0, in_time[kernel, chains]), sent=sent)
            assert nursery.run(kernel, chains, run, resume=True)[0] == 0
        assert_identical(read_draws(run), stopped_runs.sample(kernel, chains))
        shutil.rmtree(run)
    return killed


def test_killed_at_random_moments(nursery, tmp_path):
    cases = [("nuts", 1), ("nuts", 4), ("hmc", 4), ("metropolis", 1)]
    print(killed_and_resumed(nursery, cases, tmp_path), "of", len(cases), "killed before their end")


@pytest.mark.slow
def test_killed_at_sixty_random_moments(nursery, tmp_path):
    cases = [case for case in itertools.product(KERNELS, (1, 4)) for _ in range(10)]
    killed = killed_and_resumed(nursery, cases, tmp_path)
    print(f"{killed} of {len(cases)} killed before their end")
    assert killed > 50


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_signals_at_thirty_random_moments(sent, nursery, tmp_path):
    cases = [case for case in itertools.product(KERNELS, (1, 4)) for _ in range(3)]
    stopped = killed_and_resumed(nursery, cases, tmp_path, sent)
    print(f"{stopped} of {len(cases)} stopped before their end by {sent.name}")
    assert stopped > 15


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_a_run_with_a_checkpoint(sent, nursery, tmp_path):
    status, (told,) = nursery.run("nuts", 2, tmp_path, after=0.05, sent=sent, wait=when_checkpoints(tmp_path))
    assert status == 0
    assert told["interrupted"]
    assert told["stopped_by"] == sent.name
    assert_identical(resume_potential(tmp_path, stopped_runs.potential, progress=False), stopped_runs.sample("nuts", 2))


def test_signal_handlers_are_put_back(tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    during = []
    sample(checkpoint=tmp_path, callbacks=[lambda event: during.append(signal.getsignal(signal.SIGTERM))])
    assert during[0] is not before[1]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_in_another_thread(tmp_path):
    """Where Python delivers no signals."""
    results = []
    thread = threading.Thread(target=lambda: results.append(sample(checkpoint=tmp_path)))
    thread.start()
    thread.join()
    assert_identical(results[0], sample())


# The file of arrays


def test_array_files(tmp_path):
    arrays = {"a": np.arange(6.0).reshape(2, 3), "b": np.zeros((0, 4), np.float32), "c": np.array([True, False])}
    write_arrays(tmp_path / "file", arrays, {"text": "é", "big": 2**127, "list": [1, None]})
    found, record = read_arrays(tmp_path / "file")
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
        assert found[name].flags.writeable
    assert record == {"text": "é", "big": 2**127, "list": [1, None]}
    with pytest.raises(TypeError):
        write_arrays(tmp_path / "other", arrays, {"function": print})
    with pytest.raises(ValueError, match="object"):
        write_arrays(tmp_path / "other", {"a": np.array([None])}, {})
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    "entry",
    [["a", "object", [1]], ["a", "float64", [-1]], ["a", "float64", [10**12]], ["a", "float64", ["x"]], ["a"], None],
)
def test_headers_made_by_others_are_checked(entry, tmp_path, monkeypatch):
    """The checksum is right, the header asks for what it shouldn't."""
    real = json.dumps
    monkeypatch.setattr(
        hnbayes.sampling.array_file.json, "dumps", lambda value, **_: real({"arrays": [entry], "record": {}})
    )
    write_arrays(tmp_path / "file", {"a": np.zeros(1)}, {})
    with pytest.raises(DamagedFileError):
        read_arrays(tmp_path / "file")
