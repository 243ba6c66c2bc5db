"""Programs of several ranks, started by torchrun: draws, data-parallel potentials, ranks that die."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import xarray as xr

import hnbayes
from hnbayes.distributed import Ranks, ShardedPotential

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE))
program = pytest.importorskip("program")

pytestmark = [
    pytest.mark.filterwarnings("ignore::hnbayes.sampling.SamplingWarning"),
    pytest.mark.skipif(not torch.distributed.is_available(), reason="torch has no distributed"),
]


def torchrun(what, folder, ranks=2):
    """Run the program; returns exit code, seconds and what it has printed."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    environment = os.environ | {"PYTHONPATH": f"{HERE.parent.parent}:{HERE.parent}", "OMP_NUM_THREADS": "1"}
    began = time.monotonic()
    done = subprocess.run(
        [*command, str(HERE / "program.py"), what, str(folder)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
    )
    return done.returncode, time.monotonic() - began, done.stdout + done.stderr


@pytest.fixture(scope="module")
def whole():
    """The run in one process."""
    return hnbayes.sample_potential(program.potential, program.starts(), **program.OPTIONS, cores=1)


@pytest.fixture(scope="module")
def asked():
    """The same of a potential that is asked for each gradient."""
    return hnbayes.sample_potential(program.Asked(), program.starts(), **program.OPTIONS, cores=1)


@pytest.mark.parametrize("ranks", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_draws_are_those_of_one_process(ranks, whole, tmp_path):
    code, _, told = torchrun("chains", tmp_path, ranks)
    assert code == 0, told
    found = np.load(tmp_path / "draws.npz")
    np.testing.assert_array_equal(found["positions"], whole.positions)
    np.testing.assert_array_equal(found["warmup"], whole.warmup_positions)
    with xr.open_dataset(tmp_path / "posterior.nc", group="posterior") as data:
        assert data.sizes["chain"] == program.CHAINS


def test_a_rank_that_is_killed(asked, tmp_path):
    code, seconds, told = torchrun("dies", tmp_path)
    print(f"ended after {seconds:.1f} s, starting included")
    assert code != 0
    assert seconds < 45  # starting included
    assert "hnbayes.resume" in told
    assert "RanksStoppedError" in told or "RankDiedError" in told
    so_far = hnbayes.read_draws(tmp_path / "run")
    assert so_far.metadata["interrupted"]
    assert torch.equal(so_far.positions, asked.positions[:, : so_far.num_draws])
    # By worker processes, for a change.
    result = hnbayes.resume(tmp_path / "run", program.Asked(), cores=1, progress=False)
    assert torch.equal(result.positions, asked.positions)
    assert torch.equal(result.warmup_positions, asked.warmup_positions)


@pytest.mark.slow
def test_resumed_by_ranks(asked, tmp_path):
    torchrun("dies", tmp_path)
    code, _, told = torchrun("resumes", tmp_path, ranks=3)
    assert code == 0, told
    assert torch.equal(hnbayes.read_draws(tmp_path / "run").positions, asked.positions)


@pytest.mark.slow
def test_one_zarr_store_for_all_ranks(whole, tmp_path):
    pytest.importorskip("zarr")
    code, _, told = torchrun("stores", tmp_path)
    assert code == 0, told
    for group, expected in (("posterior", whole.positions), ("warmup_posterior", whole.warmup_positions)):
        with xr.open_zarr(tmp_path / "run/posterior.zarr", group=group, chunks=None) as data:
            np.testing.assert_array_equal(data["position"], expected)


@pytest.mark.slow
def test_a_rank_that_fails(tmp_path):
    code, _, told = torchrun("fails", tmp_path)
    assert code != 0
    assert "of rank 1" in told


def test_a_sharded_potential_is_that_of_all_rows(tmp_path):
    code, _, told = torchrun("sharded", tmp_path)
    assert code == 0, told
    found = np.load(tmp_path / "sharded.npz")
    net, X, y = program.rows()
    U = hnbayes.nn_pot_energy(net, X, y, program.log_prior, tau_pred=10.0)
    q = torch.randn(3, U.spec.size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for row in range(3):
        position = q[row].clone().requires_grad_()
        value = U(position)
        value.backward()
        np.testing.assert_allclose(found["values"][row], value.item(), rtol=1e-6)
        np.testing.assert_allclose(found["alone"][row], value.item(), rtol=1e-6)
        np.testing.assert_allclose(found["gradients"][row], position.grad.numpy(), rtol=1e-6, atol=1e-9)
    # Were the prior counted on each rank, it would be seen.
    twice = value.item() - program.log_prior(q[2]).item()
    assert abs(found["values"][2] - twice) > 1
    draws = hnbayes.sample_potential(U, q, warmup=20, draws=10, max_tree_depth=4, seed=0, progress=False)
    np.testing.assert_allclose(found["positions"], draws.positions, atol=1e-4)
    assert list(found["names"]) == list(draws.params())


def test_without_a_launcher(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ValueError, match="torchrun --nproc-per-node"):
        hnbayes.sample_potential(program.potential, program.starts(), **program.OPTIONS, cores=Ranks())
    with pytest.raises(ValueError, match="torchrun --nproc-per-node"):
        ShardedPotential(program.potential)
    with pytest.raises(ValueError, match="patience"):
        Ranks(patience=0)
    with pytest.raises(TypeError, match="log_prior"):
        ShardedPotential(program.potential, 1.0)
