"""Graphs are evaluated by NumPy in one thread, and the numbers of threads from before are back afterwards."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from hnbayes import Potential
from hnbayes.potentials import host
from hnbayes.potentials.threads import BLAS, OneThread


def blas_threads():
    """What threadpoolctl says of the libraries of linear algebra, by their files."""
    threadpoolctl = pytest.importorskip("threadpoolctl")
    return {each["filepath"]: each["num_threads"] for each in threadpoolctl.threadpool_info() if "blas" in str(each)}


@pytest.fixture(params=[1, 2])
def threads(request):
    """Both settings of a user: one thread, and two."""
    before, of_blas = torch.get_num_threads(), BLAS.get() if BLAS.get else None
    torch.set_num_threads(request.param)
    if BLAS.set:
        BLAS.set(request.param)
    yield request.param
    torch.set_num_threads(before)
    if BLAS.set:
        BLAS.set(of_blas)


def log_det(q):
    """Calls torch from NumPy code, and raises an error where exp(q) is not a number."""
    return torch.linalg.cholesky(torch.diag(q.exp())).diagonal().log().sum()


def test_one_thread_within_and_those_from_before_after(threads):
    before = blas_threads()
    with OneThread():
        assert torch.get_num_threads() == 1
        if BLAS.get:
            assert 1 in blas_threads().values()
            assert BLAS.get() == 1
        with OneThread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 1
        assert BLAS.get is None or BLAS.get() == 1
    assert torch.get_num_threads() == threads
    assert blas_threads() == before


def test_the_limit_is_that_of_numpys_blas():
    """The library found is the one that NumPy's products use, by threadpoolctl's account."""
    if BLAS.get is None:
        pytest.skip("NumPy has another BLAS")
    number = BLAS.get()
    BLAS.set(2)
    try:
        before = blas_threads()
        with OneThread():
            changed = [path for path, threads in blas_threads().items() if threads != before[path]]
    finally:
        BLAS.set(number)
    assert any("numpy" in path or "openblas" in path for path in changed)
    assert not any("scipy.libs" in path for path in changed)


def test_restored_after_an_error(threads):
    before = blas_threads()
    with pytest.raises(ZeroDivisionError), OneThread():
        1 / 0  # noqa: B018
    assert torch.get_num_threads() == threads
    assert blas_threads() == before


def test_evaluations_use_one_thread(threads, monkeypatch):
    found = []

    def call(operation, *args, **kwargs):
        found.append((torch.get_num_threads(), BLAS.get() if BLAS.get else 1))
        return original(operation, *args, **kwargs)

    original = host._call_torch
    monkeypatch.setattr(host, "_call_torch", call)
    U = Potential(log_det)
    q = torch.tensor([[0.1, 0.2], [0.3, -0.4]])
    U.prepare(q)
    assert U.evaluates_arrays(q)
    found.clear()
    before = blas_threads()
    values, gradients = U.value_and_grad_arrays(q.numpy())
    assert set(found) == {(1, 1)}
    np.testing.assert_allclose(values, 0.5 * q.sum(1).numpy(), rtol=1e-5)
    np.testing.assert_allclose(gradients, np.full((2, 2), 0.5), rtol=1e-5)
    assert torch.get_num_threads() == threads
    with pytest.warns(UserWarning, match="raised an error at a proposed position"):
        values, _ = U.value_and_grad_arrays(np.array([[np.nan, 0.0], [0.0, 0.0]], np.float32))
    assert np.isnan(values[0])
    assert torch.get_num_threads() == threads
    assert blas_threads() == before


def test_blocks_of_several_threads(threads):
    """The number of BLAS is the process's: it is back when the last block has ended, whichever began first."""
    entered, go_on = threading.Event(), threading.Event()

    def first():
        with OneThread():
            entered.set()
            assert go_on.wait(10)

    other = threading.Thread(target=first)
    before = blas_threads()
    other.start()
    assert entered.wait(10)
    with OneThread():
        go_on.set()
        other.join()
        assert BLAS.get is None or BLAS.get() == 1
    assert torch.get_num_threads() == threads
    assert blas_threads() == before
