"""Checkpoints: what is kept, what is loaded, and that a killed process loses nothing."""

from __future__ import annotations

import argparse
import os
import pathlib
import pickle
import random
import signal
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hnbayes.training.checkpoints import get_best_ckpt_path, load_checkpoint, make_ckpt_list, save_checkpoint

# Saves with falling scores for ever, and says which iteration is on the disk.
WRITER = """
import sys, torch
from hnbayes.training.checkpoints import save_checkpoint
path, first, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
print("ready", flush=True)
for i in range(first, first + count):
    content = {"state_dict": {"weight": torch.full((300, 300), float(i))}, "train_iter": i}
    save_checkpoint(content, path, 1.0 / (i + 1), i, max_ckpts_to_keep=3)
    print(i, flush=True)
"""


def writer(path: pathlib.Path, first: int, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(path), str(first), str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def save(path: pathlib.Path, score: float, iteration: int | None = None, **options: float | None) -> None:
    net = nn.Linear(2, 1)
    nn.init.constant_(net.weight, score)
    content = {"state_dict": net.state_dict(), "train_iter": iteration}
    save_checkpoint(content, path, score, iteration, **options)  # type: ignore[arg-type]


def kept(folder: pathlib.Path) -> set[int]:
    return {int(name.rsplit("_", 1)[1]) for name in os.listdir(folder) if name.startswith("net_")}


def test_what_is_saved_is_loaded(tmp_path: pathlib.Path) -> None:
    net = nn.Linear(3, 2)
    content = {"state_dict": net.state_dict(), "train_iter": 7, "note": "x"}
    save_checkpoint(content, tmp_path / "new" / "net", 0.5, 7)
    assert set(content) == {"state_dict", "train_iter", "note"}
    other = nn.Linear(3, 2)
    loaded, score = load_checkpoint(tmp_path / "new" / "net_7", other, ret_performance_score=True)
    assert (loaded["train_iter"], loaded["note"], score, set(loaded)) == (7, "x", 0.5, set(content))
    assert torch.equal(other.weight, net.weight)
    assert torch.equal(other.bias, net.bias)


def test_the_current_and_the_best_others_are_kept(tmp_path: pathlib.Path) -> None:
    scores = [5.0, 9.0, 1.0, 7.0, 3.0, 2.0, 8.0, 0.0]
    expected: list[int] = []
    for i, score in enumerate(scores):
        save(tmp_path / "net", score, i, max_ckpts_to_keep=3, keep_cktp_every=None)
        expected = [*sorted(expected, key=lambda k: -scores[k])[:2], i]
        assert kept(tmp_path) == set(expected)
    assert get_best_ckpt_path(tmp_path / "net") == str(tmp_path / "net_1")


def test_the_best_of_every_window_is_kept_for_ever(tmp_path: pathlib.Path) -> None:
    # Half-hour steps, windows of one hour: (0, 1), (2, 3), (4, 5) and (6, ...), which isn't over.
    for i, score in enumerate([2.0, 1.0, 3.0, 4.0, 9.0, 8.0, 5.0]):
        save(tmp_path / "net", score, i, max_ckpts_to_keep=1, keep_cktp_every=1, timestamp=1000.0 + 1800 * i)
    assert kept(tmp_path) == {0, 3, 4, 6}


def test_without_an_iteration_the_file_is_overwritten(tmp_path: pathlib.Path) -> None:
    save(tmp_path / "net", 1.0)
    save(tmp_path / "net", 0.5)
    assert os.listdir(tmp_path) == ["net"]
    net = nn.Linear(2, 1)
    load_checkpoint(get_best_ckpt_path(tmp_path / "net"), net)
    assert torch.equal(net.weight, torch.full((1, 2), 0.5))


def test_the_list_is_sorted_and_renewed(tmp_path: pathlib.Path) -> None:
    save(tmp_path / "net", 1.0, 1)
    save(tmp_path / "net", 3.0, 2)
    path = pathlib.Path(make_ckpt_list(tmp_path / "net"))
    assert path.read_text() == "3.0\tnet_2\n1.0\tnet_1\n"
    save(tmp_path / "net", 2.0, 3)
    assert path.read_text() == "3.0\tnet_2\n2.0\tnet_3\n1.0\tnet_1\n"
    os.remove(tmp_path / "net_2")
    assert get_best_ckpt_path(tmp_path / "net") == str(tmp_path / "net_3")


class Malicious:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self.path,)


def test_a_malicious_pickle_is_refused_and_not_run(tmp_path: pathlib.Path) -> None:
    trap = tmp_path / "trap"
    content = {"state_dict": {}, "evil": Malicious(str(trap)), "_ckpt_internal": {"score": 9.0, "ts": 1.0}}
    torch.save(content, tmp_path / "net_1")
    assert get_best_ckpt_path(tmp_path / "net") == str(tmp_path / "net_1")
    with pytest.raises(ValueError, match="trusted=True"):
        load_checkpoint(tmp_path / "net_1", nn.Linear(1, 1))
    (tmp_path / "net_2").write_bytes(pickle.dumps(Malicious(str(trap)), protocol=2))
    with pytest.raises(ValueError):
        load_checkpoint(tmp_path / "net_2", nn.Linear(1, 1))
    assert not trap.exists()
    with pytest.raises(ValueError):  # the trap works: trusted, it runs; the empty state_dict doesn't fit
        load_checkpoint(tmp_path / "net_1", nn.Linear(1, 1), trusted=True)
    assert trap.exists()


SAFE = {
    "options": argparse.Namespace(lr=0.1, arch="10,10", layers=[1, 2], prefix=None, nested=argparse.Namespace(a=1)),
    "numbers": [np.float64(0.5), np.float32(1.5), np.int64(3), np.bool_(True), np.complex64(1j)],
    "arrays": [np.arange(6.0).reshape(2, 3), np.array([True, False]), np.array(["ab", "c"]), np.zeros((0, 3))],
    "dates": [np.array(["2020-01-31"], dtype="datetime64[D]"), np.timedelta64(3, "s")],
    "records": np.ones(2, dtype=[("a", "i4"), ("b", "f8")]),
    "order": np.asfortranarray(np.arange(4).reshape(2, 2)),
    "generator": np.random.default_rng(3).bit_generator.state,
    "old_generator": np.random.RandomState(3).get_state(),
    "containers": [{1, 2}, frozenset([3]), (1, 2), slice(1, 3), range(4), 1 + 2j, b"x", bytearray(b"y")],
    "path": pathlib.Path("a") / "b",
    "optimizer": torch.optim.Adam([nn.Parameter(torch.ones(2))]).state_dict(),
}


def same(found: Any, expected: Any) -> bool:
    if type(found) is not type(expected):
        return False
    if isinstance(expected, np.ndarray):
        return found.dtype == expected.dtype and np.array_equal(found, expected)
    if isinstance(expected, (list, tuple)):
        return len(found) == len(expected) and all(map(same, found, expected))
    if isinstance(expected, dict):
        return set(found) == set(expected) and all(same(found[key], expected[key]) for key in expected)
    return bool(found == expected)


@pytest.mark.parametrize("name", SAFE)
def test_options_and_numpy_values_are_loaded_safely(tmp_path: pathlib.Path, name: str) -> None:
    net = nn.Linear(1, 1)
    save_checkpoint({"state_dict": net.state_dict(), name: SAFE[name]}, tmp_path / "net", np.float32(0.5), 1)
    loaded, score = load_checkpoint(tmp_path / "net_1", net, ret_performance_score=True)
    assert same(loaded[name], SAFE[name])
    assert (type(score), score) == (float, 0.5)
    assert not same(loaded[name], [SAFE[name]])  # the comparison can fail


class Own:
    """Harmless, but nothing that loading could know."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Own)

    __hash__ = None  # type: ignore[assignment]


def test_other_objects_are_loaded_if_trusted(tmp_path: pathlib.Path) -> None:
    net = nn.Linear(1, 1)
    save_checkpoint({"state_dict": net.state_dict(), "own": Own()}, tmp_path / "net", 1.0)
    with pytest.raises(ValueError, match=r"trusted=True.*Own"):
        load_checkpoint(tmp_path / "net", net)
    assert load_checkpoint(tmp_path / "net", net, trusted=True)["own"] == Own()


def test_loading_safely_leaves_torchs_list_alone(tmp_path: pathlib.Path) -> None:
    save(tmp_path / "net", 1.0)
    before = set(torch.serialization.get_safe_globals())
    load_checkpoint(tmp_path / "net", nn.Linear(2, 1))
    assert set(torch.serialization.get_safe_globals()) == before


def test_the_device_is_where_tensors_are_loaded_to(tmp_path: pathlib.Path) -> None:
    content = {"state_dict": nn.Linear(2, 1).state_dict(), "more": [torch.ones(3)]}
    save_checkpoint(content, tmp_path / "net", 1.0)
    for device in (None, "cpu", torch.device("cpu")):
        loaded = load_checkpoint(tmp_path / "net", nn.Linear(2, 1), device=device)
        assert torch.equal(loaded["more"][0], torch.ones(3))
        assert loaded["state_dict"]["weight"].device.type == "cpu"
    # The only other device that is everywhere.
    loaded = load_checkpoint(tmp_path / "net", nn.Linear(2, 1, device="meta"), device="meta")
    assert loaded["more"][0].device.type == loaded["state_dict"]["weight"].device.type == "meta"
    missing: list[Any] = ["nowhere"] if torch.cuda.is_available() else ["nowhere", "cuda", torch.device("cuda", 0), 0]
    for device in missing:
        with pytest.raises(ValueError, match="device must be one that torch has here"):
            load_checkpoint(tmp_path / "net", nn.Linear(2, 1), device=device)
    with pytest.raises(TypeError):
        load_checkpoint(tmp_path / "net", nn.Linear(2, 1), device=[1])  # type: ignore[arg-type]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_device_may_be_a_gpu(tmp_path: pathlib.Path) -> None:
    net = nn.Linear(2, 1, device="cuda")
    save_checkpoint({"state_dict": net.state_dict()}, tmp_path / "net", 1.0)
    for device, kind in ((None, "cpu"), ("cuda", "cuda"), (0, "cuda")):
        other = nn.Linear(2, 1, device="cuda")
        loaded = load_checkpoint(tmp_path / "net", other, device=device)
        assert loaded["state_dict"]["weight"].device.type == kind
        assert other.weight.device.type == "cuda"
        assert torch.equal(other.weight, net.weight)


def test_abandoned_temporary_files_are_removed(tmp_path: pathlib.Path) -> None:
    save(tmp_path / "net", 1.0, 1)
    ours = [".net_3.0123456789ab.tmp", ".net.0123456789ab.tmp", ".score_list_net.txt.0123456789ab.tmp"]
    others = [
        ".net2_3.0123456789ab.tmp", ".network.0123456789ab.tmp", ".netrc.tmp", "net_3.0123456789ab.tmp",
        ".net_x.0123456789ab.tmp", ".net_3.0123456789ab.tmp.old", ".score_list_net2.txt.0123456789ab.tmp",
    ]  # fmt: skip
    for name in [*ours, *others]:
        (tmp_path / name).write_text("left by a process that was killed")
        os.utime(tmp_path / name, (time.time() - 3700, time.time() - 3700))
    young = tmp_path / ".net_4.0123456789ab.tmp"
    young.write_text("being written by another process")
    os.utime(young, (time.time() - 3500, time.time() - 3500))
    save(tmp_path / "net", 2.0, 2)
    assert set(os.listdir(tmp_path)) == {"net_1", "net_2", young.name, *others}


def test_a_save_that_fails_leaves_what_was_there(tmp_path: pathlib.Path) -> None:
    save(tmp_path / "net", 1.0)
    before = (tmp_path / "net").read_bytes()
    with pytest.raises((AttributeError, pickle.PicklingError)):
        save_checkpoint({"state_dict": {}, "unwritable": lambda: None}, tmp_path / "net", 2.0)
    assert os.listdir(tmp_path) == ["net"]
    assert (tmp_path / "net").read_bytes() == before


@pytest.mark.parametrize("moments", [3, pytest.param(50, marks=pytest.mark.slow)])
def test_a_killed_process_loses_nothing(tmp_path: pathlib.Path, moments: int) -> None:
    first, rng = 0, random.Random(1)
    for _ in range(moments):
        process = writer(tmp_path / "net", first, 10_000)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(rng.uniform(0.02, 0.3))
        process.send_signal(signal.SIGKILL)
        said = [int(line) for line in process.stdout.read().split()]
        process.wait()
        process.stdout.close()
        saved = said[-1] if said else first - 1
        # The writer may have been killed between saving one more and saying so.
        assert saved < 0 or saved in kept(tmp_path) or saved + 1 in kept(tmp_path)
        if saved >= 0:
            # Scores fall, so the very first stays the best.
            assert get_best_ckpt_path(tmp_path / "net") == str(tmp_path / "net_0")
        for i in kept(tmp_path):
            content = torch.load(tmp_path / f"net_{i}", weights_only=True)
            assert torch.equal(content["state_dict"]["weight"], torch.full((300, 300), float(i)))
        first = max(kept(tmp_path), default=-1) + 1


def test_three_writers_at_once(tmp_path: pathlib.Path) -> None:
    save(tmp_path / "net", 2.0, 5000)
    path = pathlib.Path(make_ckpt_list(tmp_path / "net"))
    processes = [writer(tmp_path / "net", first, 8) for first in (0, 100, 200)]
    for process in processes:
        process.communicate()
    assert [p.returncode for p in processes] == [0, 0, 0]
    assert {5000, 0} <= kept(tmp_path)
    listed = [line.split("\t")[1] for line in path.read_text().splitlines()]
    assert sorted(listed) == sorted(f"net_{i}" for i in kept(tmp_path))


def test_bad_input_is_refused(tmp_path: pathlib.Path) -> None:
    path, net = tmp_path / "net", nn.Linear(2, 1)
    content = {"state_dict": net.state_dict()}
    with pytest.raises(FileNotFoundError):
        get_best_ckpt_path(path)
    with pytest.raises(FileNotFoundError):
        load_checkpoint(path, net)
    with pytest.raises(ValueError, match="state_dict"):
        save_checkpoint({"a": 1}, path, 1.0)
    with pytest.raises(ValueError, match="NaN"):
        save_checkpoint(content, path, float("nan"))
    with pytest.raises(ValueError, match="train_iter"):
        save_checkpoint(content, path, 1.0, -1)
    with pytest.raises(ValueError, match="max_ckpts_to_keep"):
        save_checkpoint(content, path, 1.0, 1, 0)
    with pytest.raises(TypeError, match="performance_score"):
        save_checkpoint(content, path, "good")  # type: ignore[arg-type]
    assert os.listdir(tmp_path) == []
    save(path, 1.0, 1)
    with pytest.raises(ValueError, match="fit"):
        load_checkpoint(tmp_path / "net_1", nn.Linear(5, 1))
    (tmp_path / "net_2").write_bytes((tmp_path / "net_1").read_bytes()[:300])
    assert get_best_ckpt_path(path) == str(tmp_path / "net_1")
    with pytest.raises(ValueError, match="not a checkpoint"):
        load_checkpoint(tmp_path / "net_2", net)
