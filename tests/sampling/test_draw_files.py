"""Draws in files: what was stored is read, at any time; full disks cost nothing that was written; memory is bounded."""

from __future__ import annotations

import errno
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import torch
from targets import banana

import hnbayes
from hnbayes.sampling import read_draws, resume_potential, sample_potential
from hnbayes.sampling.array_file import DamagedFileError
from hnbayes.sampling.draw_files import DrawFiles
from hnbayes.sampling.draws import Recorder

pytestmark = pytest.mark.filterwarnings("ignore::hnbayes.sampling.SamplingWarning")
BENT = banana([1.0, 0.8, 1.2], [0.3, -0.4])
STATS = {"lp": np.float64, "diverging": np.bool_, "n_steps": np.int64}


def sample(start=None, **options):
    options = {"kernel": "hmc", "warmup": 30, "draws": 40, "seed": 4, "progress": False} | options
    return sample_potential(BENT.potential, BENT.draw(3, seed=2) if start is None else start, **options)


@pytest.fixture
def files(tmp_path):
    made = DrawFiles(str(tmp_path), "draws", 3, 4, np.float32, STATS)
    yield made
    made.close()


def random_stores(seed, count=60):
    """Draws of chains that complete them in any order, alone or together."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        chains = np.flatnonzero(rng.random(3) < 0.5)
        info = {
            "lp": rng.normal(size=len(chains)),
            "diverging": rng.random(len(chains)) < 0.5,
            "n_steps": rng.integers(0, 99, len(chains)),
        }
        yield chains, rng.normal(size=(len(chains), 4)), info


@pytest.mark.parametrize("seed", range(5))
def test_what_was_stored_is_read(files, tmp_path, seed):
    memory = Recorder(3, 60, 4, torch.float32, STATS)
    for chains, positions, info in random_stores(seed):
        for recorder in (files, memory):
            recorder.store(chains, positions, info)
        reader = DrawFiles(str(tmp_path), "draws", 3, 4, np.float32, STATS, writable=False)
        reader.count_stored()
        np.testing.assert_array_equal(reader.counts, memory.counts)
        for found in (reader, files):
            assert torch.equal(found.complete()[0], memory.complete()[0])
            for name, values in memory.complete()[1].items():
                assert torch.equal(found.complete()[1][name], values)
        for mine, other in zip(files.ragged() or (), memory.ragged() or (), strict=True):
            assert torch.equal(mine, other)


def test_going_back(files):
    stores = list(random_stores(1))
    for store in stores[:20]:
        files.store(*store)
    counts, checksums, positions = files.counts.copy(), files.checksums.copy(), files.complete()[0].clone()
    for store in stores[20:40]:
        files.store(*store)
    mapped = files.complete()[0]
    files.go_back(counts, checksums)
    # Whoever has mapped the files can go on reading them.
    assert torch.isfinite(mapped).all()
    assert all(os.path.getsize(path) >= mapped.shape[1] * 3 for path in files.paths)
    assert torch.equal(files.complete()[0], positions)
    files.count_stored()
    np.testing.assert_array_equal(files.counts, counts)
    for store in stores[20:40]:
        files.store(*store)
    assert torch.equal(files.complete()[0], mapped)
    checksums[0, 1] ^= 1
    with pytest.raises(DamagedFileError, match="of chain 1"):
        files.go_back(counts, checksums)


def test_files_cut_short_are_noticed(files):
    for store in random_stores(1):
        files.store(*store)
    os.truncate(files.paths[0], os.path.getsize(files.paths[0]) // 2)
    for look in (files.complete, files.ragged, lambda: files.go_back(files.counts, files.checksums)):
        with pytest.raises(DamagedFileError, match="damaged"):
            look()


def test_changing_what_is_returned_changes_no_file(tmp_path):
    draws = sample(checkpoint=tmp_path)
    kept = draws.positions.clone()
    draws.positions.zero_()
    assert torch.equal(read_draws(tmp_path).positions, kept)


def test_readable_with_xarray_while_the_run_goes_on(tmp_path):
    seen = []

    def look(event):
        if event.done.min() > 30 and event.done.max() % 10 == 0:
            found = read_draws(tmp_path)
            if found.num_draws:
                idata = found.to_inference_data()
                seen.append((np.array(idata.posterior["position"]), np.array(idata.sample_stats["lp"])))

    whole = sample(checkpoint=tmp_path, callbacks=[look])
    assert len(seen) > 2
    assert len({len(x[0]) for x, _ in seen}) > 2
    for x, lp in seen:
        np.testing.assert_array_equal(x, whole.positions[:, : x.shape[1]])
        np.testing.assert_array_equal(lp, whole.stats["lp"][:, : x.shape[1]])


def test_dtype_and_thinning_of_what_is_stored(tmp_path):
    whole = sample()
    assert whole.positions.dtype == torch.float64
    stored = sample(checkpoint=tmp_path, storage_dtype=torch.float32, thin=4)
    assert torch.equal(stored.positions, whole.positions[:, 3::4].float())
    assert (tmp_path / "draws.positions").stat().st_size == 3 * 10 * 3 * 4
    # The state isn't rounded with the draws.
    longer = resume_potential(tmp_path, BENT.potential, draws=80, progress=False)
    other = sample(checkpoint=tmp_path / "b", thin=4)
    assert torch.equal(
        longer.positions, resume_potential(tmp_path / "b", BENT.potential, draws=80, progress=False).positions.float()
    )
    assert other.positions.dtype == torch.float64


# A full disk

FULL = """
import resource, sys, torch, hnbayes
folder, limit, dimension, draws = sys.argv[1], *map(int, sys.argv[2:])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
U = hnbayes.Potential(lambda q: 0.5 * q.square().sum())
options = dict(kernel="metropolis", warmup=10, draws=draws, seed=1, progress=False, checkpoint_every=0.02)
try:
    hnbayes.sample_potential(U, torch.ones(2, dimension), **options, checkpoint=folder)
except OSError as error:
    print(error.errno, error.draws.num_draws, error.draws.positions.double().sum().item(), error)
"""


def full_disk(folder, limit, dimension=500, draws=2000):
    """Sample until the disk is full, look at what is there, then make room and go on."""
    command = [sys.executable, "-W", "ignore", "-c", FULL, str(folder), *map(str, (limit, dimension, draws))]
    # Another number of threads would be told of where the run is resumed here.
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    number, kept, total, message = done.stdout.split(maxsplit=3)
    assert "All before it can be read" in message or "No space left" in message
    found = read_draws(folder)
    assert found.num_draws == int(kept) > 100
    assert found.positions.double().sum().item() == float(total)
    return int(number), found


def check_whole(found, folder):
    U = hnbayes.Potential(lambda q: 0.5 * q.square().sum())
    options = {"kernel": "metropolis", "warmup": 10, "draws": 2000, "seed": 1, "progress": False}
    whole = sample_potential(U, torch.ones(2, 500), **options)
    assert torch.equal(found.positions, whole.positions[:, : found.num_draws])
    assert torch.equal(resume_potential(folder, U, progress=False).positions, whole.positions)


def test_a_file_may_grow_no_more(tmp_path):
    number, found = full_disk(tmp_path, 2_000_000)
    assert number == errno.EFBIG
    check_whole(found, tmp_path)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 3 MB, where one may be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip("no file system may be mounted here")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mounts a file system as Linux does")
def test_the_disk_is_full(small_disk):
    number, found = full_disk(small_disk / "run", 0)
    assert number == errno.ENOSPC
    subprocess.run(["mount", "-o", "remount,size=30m", str(small_disk)], check=True)
    check_whole(found, small_disk / "run")


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mounts a file system as Linux does")
def test_a_disk_of_two_gigabytes_is_full(small_disk):
    """Memory is its disk, so it takes 3 GB of that."""
    subprocess.run(["mount", "-o", "remount,size=2g", str(small_disk)], check=True)
    number, found = full_disk(small_disk / "run", 0, dimension=25_000, draws=11_000)
    assert number == errno.ENOSPC
    assert found.positions.numel() * 4 > 1.8e9
    kept = found.positions[:, ::100].clone()
    subprocess.run(["mount", "-o", "remount,size=3g", str(small_disk)], check=True)
    U = hnbayes.Potential(lambda q: 0.5 * q.square().sum())
    whole = resume_potential(small_disk / "run", U, progress=False)
    assert whole.num_draws == 11_000
    assert torch.equal(whole.positions[:, : found.num_draws : 100], kept)
    assert torch.isfinite(whole.stats["lp"]).all()


# Memory

MEMORY = """
import pathlib, re, sys, torch, hnbayes
torch.set_num_threads(1)
torch.manual_seed(0)
net = torch.nn.Sequential(
    torch.nn.Linear(10, 64), torch.nn.Tanh(), torch.nn.Linear(64, 65), torch.nn.Tanh(), torch.nn.Linear(65, 1)
)
X = torch.randn(20, 10)
U = hnbayes.nn_pot_energy(net, X, X[:, :1].sin(), hnbayes.log_prob_standard_normal_prior, tau_pred=10.0)
assert U.spec.size >= 4995
draws = hnbayes.sample_potential(
    U, 0.1 * torch.randn(4, U.spec.size), kernel="metropolis", step_size=0.01, metric="unit", warmup=0,
    draws=int(sys.argv[2]) // 4, adapt_step_size=False, seed=0, progress=False, checkpoint=sys.argv[1],
    checkpoint_every=10,
)
assert draws.positions.shape == (4, int(sys.argv[2]) // 4, U.spec.size)
assert float(draws.positions[:, -1].std()) > 0.01
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1]) * 1024
print(peak, (pathlib.Path(sys.argv[1]) / "draws.positions").stat().st_size)
"""


def peak_memory(folder, draws):
    command = [sys.executable, "-W", "ignore", "-c", MEMORY, str(folder), str(draws)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    peak, size = map(int, result.stdout.split())
    print(f"peak {peak / 1e6:.0f} MB for draws of {size / 1e6:.0f} MB")
    return peak, size


@pytest.mark.slow
@pytest.mark.skipif(not pathlib.Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_memory_does_not_grow_with_the_draws(tmp_path):
    """200,000 draws of 5,000 numbers, 4 GB, within 1 GB."""
    small, _ = peak_memory(tmp_path / "a", 2000)
    peak, size = peak_memory(tmp_path / "b", 200_000)
    assert size > 3.9e9
    assert peak < 1e9
    assert peak < small + 100e6
