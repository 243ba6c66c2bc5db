"""The C library is compiled once, kept where only its user can write, and missed silently."""

from __future__ import annotations

import stat
import subprocess
import sys
import time

import pytest
import torch
from torch import nn

import hnbayes
from hnbayes.potentials.native import compiler as native_library
from hnbayes.potentials.native.compiler import library

pytestmark = pytest.mark.skipif(library(False) is None, reason="no C compiler here")

PROGRAM = """
import torch, hnbayes
from torch import nn
X = torch.linspace(-1, 1, 60).reshape(20, 3)
net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1))
U = hnbayes.nn_pot_energy(net, X, X.sum(1, keepdim=True), hnbayes.log_prob_standard_normal_prior)
q = torch.linspace(-1, 1, 2 * U.spec.size).reshape(2, -1)
print(U.prepare(q), *(float(v).hex() for v in U.value_and_grad(q)[1].flatten()))
"""


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty folder in place of the user's."""
    folder = tmp_path / "cache"
    monkeypatch.setenv(native_library.CACHE, str(folder))
    return folder


def mode():
    """How the posterior of a dense network is evaluated."""
    X = torch.linspace(-1, 1, 60).reshape(20, 3)
    net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1))
    U = hnbayes.nn_pot_energy(net, X, X.sum(1, keepdim=True), hnbayes.log_prob_standard_normal_prior)
    return U.prepare(0.1 * torch.ones(2, U.spec.size))


def test_it_is_compiled_once_into_a_folder_of_the_users(cache, monkeypatch):
    assert mode() == "native"
    (path,) = cache.iterdir()
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    native_library._library.cache_clear()

    def run(*args, **kwargs):
        raise AssertionError("it is compiled again")

    monkeypatch.setattr(subprocess, "run", run)
    assert mode() == "native"


def test_another_source_is_another_library(cache, tmp_path, monkeypatch):
    assert mode() == "native"
    for path in native_library.SOURCE.parent.glob("*.[ch]"):
        (tmp_path / path.name).write_text(path.read_text() + "\n/* changed */\n" * (path.name == "threads.h"))
    monkeypatch.setattr(native_library, "SOURCE", tmp_path / "native.c")
    native_library._library.cache_clear()
    assert mode() == "native"
    assert len(list(cache.iterdir())) == 2


@pytest.mark.parametrize("compiler", ["/bin/false", "/nowhere/cc", "'unbalanced", "sh -c 'sleep 60'"])
def test_a_compiler_that_fails_is_missed_silently(cache, monkeypatch, compiler):
    monkeypatch.setenv("CC", compiler)
    monkeypatch.setattr(native_library, "SECONDS", 0.5)
    began = time.perf_counter()
    assert mode() == "captured"
    assert time.perf_counter() - began < 20
    assert not cache.exists() or not list(cache.iterdir())


def test_no_compiler(cache, tmp_path, monkeypatch):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert mode() == "captured"


def test_it_can_be_switched_off(monkeypatch):
    monkeypatch.setenv(native_library.SWITCH, "0")
    assert mode() == "captured"


def test_a_broken_library_in_the_folder_is_made_anew(cache):
    cache.mkdir(mode=0o700)
    source = f'#include "{native_library.SOURCE.name}"\n'
    path = cache / f"native-{native_library._key(source, native_library._compiler(), native_library.FLAGS)}.so"
    path.write_bytes(b"no library")
    path.chmod(0o700)
    assert mode() == "native"
    assert path.stat().st_size > 1000


def test_a_folder_that_others_can_write_to_is_not_used(cache):
    cache.mkdir()
    cache.chmod(0o777)
    assert mode() == "native"
    assert not list(cache.iterdir())


def test_a_folder_that_cannot_be_made_is_not_needed(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(native_library.CACHE, str(tmp_path / "file" / "cache"))
    assert mode() == "native"


def test_a_folder_that_cannot_be_written_to_is_read_only(cache, monkeypatch):
    cache.mkdir(mode=0o700)
    # Root may write anywhere, so the answer is given in the system's place.
    monkeypatch.setattr(native_library, "may_write", lambda folder: False)
    assert mode() == "native"
    assert not list(cache.iterdir())


def test_four_processes_may_compile_at_once(cache):
    children = [subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True) for _ in range(4)]
    outputs = {child.communicate(timeout=120)[0] for child in children}
    assert all(child.returncode == 0 for child in children)
    (output,) = outputs
    assert output.startswith("native ")
    assert len(list(cache.iterdir())) == 1


def test_a_forked_process_has_threads_of_its_own():
    program = (
        PROGRAM
        + """
import os
torch.set_num_threads(2)
first = U.value_and_grad(q)[1]
child = os.fork()
if child == 0:
    import signal
    signal.alarm(30)
    os._exit(0 if all(torch.equal(U.value_and_grad(q)[1], first) for _ in range(100)) else 1)
print(os.waitpid(child, 0)[1])
"""
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert result.stdout.split()[-1] == "0"


def test_python_threads_may_evaluate_at_once():
    from concurrent.futures import ThreadPoolExecutor

    X = torch.linspace(-1, 1, 600).reshape(200, 3)
    net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1))
    U = hnbayes.nn_pot_energy(net, X, X.sum(1, keepdim=True), hnbayes.log_prob_standard_normal_prior)
    batches = [torch.linspace(-1, k, 4 * U.spec.size).reshape(4, -1) for k in range(8)]
    assert U.prepare(batches[0]) == "native"
    expected = [U.value_and_grad(q)[1] for q in batches]
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with ThreadPoolExecutor(4) as pool:
            for _ in range(50):
                received = list(pool.map(lambda q: U.value_and_grad(q)[1], batches))
                assert all(map(torch.equal, received, expected))
    finally:
        torch.set_num_threads(threads)
