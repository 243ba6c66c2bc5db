"""The draws as zarr: what xarray and zarr read is what was drawn, at any time, and after any stop what it would be."""

from __future__ import annotations

import errno
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import stopped_runs
import torch
from nursery import Nursery, when_checkpoints
from targets import banana
from torch import nn

import hnbayes
from hnbayes.sampling import read_draws, resume_potential, sample_potential
from hnbayes.sampling import zarr_store as store_module
from hnbayes.sampling.callbacks import StopSampling
from hnbayes.sampling.lots import Plan, files_of
from hnbayes.sampling.mirror import Mirror

xr = pytest.importorskip("xarray")
zarr = pytest.importorskip("zarr")

pytestmark = pytest.mark.filterwarnings("ignore::hnbayes.sampling.SamplingWarning")
BENT = banana([1.0, 0.8, 1.2], [0.3, -0.4])
GROUPS = ("posterior", "sample_stats", "warmup_posterior", "warmup_sample_stats")
POSTERIOR = GROUPS[:2]


def sample(start=None, **options):
    options = {"kernel": "hmc", "warmup": 25, "draws": 47, "seed": 4, "progress": False} | options
    return sample_potential(BENT.potential, BENT.draw(3, seed=2) if start is None else start, **options)


def mirrored(folder, **options):
    return sample(**{"checkpoint": folder, "storage": "zarr", "checkpoint_every": 0.02} | options)


def opened(folder, group="posterior"):
    return xr.open_zarr(folder / "posterior.zarr", group=group, chunks=None).load()


def plain_group(path):
    """The store as zarr finds it array by array, without the one file that describes all of them."""
    options = {} if int(zarr.__version__.split(".")[0]) < 3 else {"use_consolidated": False}
    return zarr.open_group(str(path), mode="r", **options)


def check(folder, draws, groups=POSTERIOR):
    """The mirror has what the draws have, group by group, under the same names."""
    expected = draws.to_inference_data()
    for group in groups:
        found = opened(folder, group)
        xr.testing.assert_equal(found, expected[group])
        assert all(found[name].dtype == expected[group][name].dtype for name in found.variables)


def check_prefix(folder, whole, group="posterior"):
    """The mirror has the first draws of a run; returns how many."""
    found = opened(folder, group)
    count = found.sizes["draw"]
    xr.testing.assert_equal(found, whole.to_inference_data()[group].isel(draw=slice(count)))
    return count


class Stop:
    """Stops a run of three chains once all have done so many transitions."""

    def __init__(self, at):
        self.at, self.done = at, np.zeros(3, int)

    def __call__(self, event):
        self.done[event.chains] = event.done
        if self.done.min() >= self.at:
            raise StopSampling


# What is read


def test_all_groups_are_those_of_to_inference_data(tmp_path):
    draws = mirrored(tmp_path, save_warmup=True, kernel="nuts")
    check(tmp_path, draws, GROUPS)
    assert torch.equal(draws.positions, sample(kernel="nuts").positions)
    attributes = opened(tmp_path).attrs
    assert attributes["inference_library"] == "hnbayes"
    assert attributes["kernel"] == "NUTS"
    assert attributes["interrupted"] == 0


def test_the_parameters_of_a_network(tmp_path):
    net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    X = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
    options = {"warmup": 10, "draws": 12, "max_tree_depth": 3, "chains": 2, "seed": 0, "progress": False}
    posterior = hnbayes.sample(net, X, X[:, :1].sin(), **options, checkpoint=tmp_path, storage="zarr")
    found = opened(tmp_path)
    for name, values in posterior.params().items():
        if name == "sigma":  # sampled by its logarithm
            np.testing.assert_allclose(np.exp(found[name]), values, rtol=1e-6)
        else:
            np.testing.assert_array_equal(found[name], values)
    assert found["0.weight"].dims == ("chain", "draw", "0.weight_dim_0", "0.weight_dim_1")
    assert found["2.bias"].shape == (2, 12, 1)


def test_zarr_itself_reads_each_array(tmp_path):
    draws = mirrored(tmp_path)
    group = plain_group(tmp_path / "posterior.zarr")
    np.testing.assert_array_equal(group["posterior/position"][:], draws.positions)
    np.testing.assert_array_equal(group["posterior/draw"][:], np.arange(47))
    np.testing.assert_array_equal(group["sample_stats/diverging"][:], draws.stats["diverging"])
    assert group["posterior/position"].chunks == (3, 5, 3)
    assert not list((tmp_path / "posterior.zarr").rglob("*.tmp"))


def test_arviz_reads_it(tmp_path):
    az = pytest.importorskip("arviz")
    draws = mirrored(tmp_path)
    path = str(tmp_path / "posterior.zarr")
    if int(zarr.__version__.split(".")[0]) < 3:  # the only ones that ArviZ 0.x reads itself
        data = az.from_zarr(path)
    else:
        data = xr.open_datatree(path, engine="zarr", chunks=None)
        data = data if int(az.__version__.split(".")[0]) >= 1 else az.InferenceData.from_datatree(data)
    np.testing.assert_array_equal(data["posterior"]["position"], draws.positions)
    np.testing.assert_allclose(az.ess(data)["position"], az.ess(draws.to_inference_data())["position"], rtol=1e-12)


def test_thinning_and_dtype(tmp_path):
    draws = mirrored(tmp_path, thin=4, storage_dtype=torch.float32)
    assert opened(tmp_path)["position"].dtype == np.float32
    assert opened(tmp_path).sizes["draw"] == 11
    check(tmp_path, draws)
    assert torch.equal(draws.positions, sample().positions[:, 3::4].float())


def test_chunks_are_bounded(tmp_path):
    settings = hnbayes.sampling.settings.Settings.from_record(
        {"warmup": 0, "draws": 10**7, "thin": 1, "target_accept": 0.8, "adapt_step_size": True, "metric": "diag"}
        | {"pooled": False, "save_warmup": False, "seed": 0, "chain_ids": [], "storage_dtype": "float32"}
        | {"steps_assumed": 1, "on_error": "raise", "never_begun": []}
    )
    for dimension, rows in [(1, 1000), (5000, 104), (10**7, 1)]:
        assert Mirror(tmp_path, settings, hnbayes.kernels.NUTS(), None, 4, dimension).store.rows == rows


# While it goes on


def test_readers_see_whole_draws_only(tmp_path):
    seen = []

    def look(event):
        path = tmp_path / "posterior.zarr"
        if path.exists():
            found = opened(tmp_path)
            assert opened(tmp_path, "sample_stats").sizes["draw"] == found.sizes["draw"]
            seen.append(np.array(found["position"]))

    whole = mirrored(tmp_path, callbacks=[look], checkpoint_every=0)
    assert {x.shape[1] for x in seen} == set(range(0, 46, 5))  # whole chunks
    for x in seen:
        np.testing.assert_array_equal(x, whole.positions[:, : x.shape[1]])


def test_sizes_grow_when_all_chunks_are_there(tmp_path, monkeypatch):
    """At each step of writing, what xarray reads and what zarr reads are whole draws; the latter may lag behind."""
    whole = sample(draws=20, warmup=5).positions.numpy()
    real, looks = store_module.written_in_one_step, []

    def write(path, durable=True):
        root = tmp_path / "posterior.zarr"
        if (root / ".zmetadata").exists():
            found = opened(tmp_path)["position"].values
            raw = plain_group(root)["posterior/position"][:]
            for x in (found, raw):
                np.testing.assert_array_equal(x, whole[:, : x.shape[1]])
            looks.append((found.shape[1], raw.shape[1]))
        return real(path, durable)

    monkeypatch.setattr(store_module, "written_in_one_step", write)
    mirrored(tmp_path, draws=20, warmup=5, checkpoint_every=0)
    assert {a for a, _ in looks} == set(range(0, 21, 2))
    assert any(b > a for a, b in looks)


def test_from_another_process_while_it_goes_on(nursery, tmp_path):
    """The run is in another process; sizes grow, and each look finds the draws that the whole run has."""
    whole = stopped_runs.sample("nuts", 2)
    outcome = []
    run = threading.Thread(
        target=lambda: outcome.append(nursery.run("nuts", 2, tmp_path / "run", storage="zarr")), daemon=True
    )
    run.start()
    sizes = set()
    while run.is_alive():
        if (tmp_path / "run/posterior.zarr/.zmetadata").exists():
            sizes.add(check_prefix(tmp_path / "run", whole))
    run.join()
    assert outcome[0][0] == 0
    assert len(sizes) > 2
    check(tmp_path / "run", whole, GROUPS)


# After a stop


def test_stopped_and_resumed(tmp_path):
    whole = sample()
    part = mirrored(tmp_path, callbacks=[Stop(25 + 18)])
    assert part.metadata["interrupted"]
    assert opened(tmp_path).attrs["interrupted"] == 1
    check(tmp_path, part)  # also what doesn't fill a chunk
    resume_potential(tmp_path, BENT.potential, progress=False)
    check(tmp_path, whole)
    longer = resume_potential(tmp_path, BENT.potential, draws=61, progress=False)
    check(tmp_path, longer)
    assert longer.num_draws == 61


def behind(path):
    shutil.rmtree(path)


def ahead(path):
    """The mirror of the whole run, as if the newest checkpoint had been lost with the draws since."""
    shutil.rmtree(path)
    mirrored(path.parent / "whole")
    shutil.copytree(path.parent / "whole/posterior.zarr", path)


def flipped(path):
    chunk = path / "posterior/position/0.0.0"
    content = bytearray(chunk.read_bytes())
    content[7] ^= 1
    chunk.write_bytes(bytes(content))


def cut_short(path):
    os.truncate(path / "sample_stats/lp/0.1", 3)


def half_gone(path):
    (path / "posterior/position/0.1.0").unlink()
    (path / ".zmetadata").write_text("{")
    (path / "posterior/.zmetadata").unlink()
    (path / "sample_stats/lp/.zarray").write_text(json.dumps({"dtype": "|O", "filters": [{"id": "pickle"}]}))


@pytest.mark.parametrize("change", [behind, ahead, flipped, cut_short, half_gone])
def test_a_mirror_that_is_not_that_of_the_checkpoint(change, tmp_path):
    """What is in it is never trusted, only compared."""
    run = tmp_path / "run"
    part = mirrored(run, callbacks=[Stop(25 + 18)])
    change(run / "posterior.zarr")
    seen = []

    def look(event):
        if not seen:
            seen.append(opened(run)["position"].values)

    resume_potential(run, BENT.potential, progress=False, callbacks=[look])
    np.testing.assert_array_equal(seen[0], part.positions)
    check(run, sample())


def test_what_an_earlier_run_has_left_is_removed(tmp_path):
    mirrored(tmp_path)
    for path in tmp_path.glob("checkpoint-*"):
        path.unlink()
    sample(checkpoint=tmp_path)
    assert not (tmp_path / "posterior.zarr").exists()


@pytest.fixture(scope="module")
def nursery():
    found = Nursery()
    yield found
    found.close()


def killed_and_resumed(nursery, cases, folder):
    """Each case killed at a random moment: what is there can be read; what there is in the end is the whole run."""
    rng = random.Random(5)
    killed = 0
    whole = {case: stopped_runs.sample(*case) for case in {case[:2] for case in cases}}
    for number, (kernel, chains, cores) in enumerate(cases):
        run = folder / str(number)
        ready = when_checkpoints(run, "checkpoint-*" if cores is None else "lot-*/checkpoint-*")
        more = {"cores": cores, "wait": ready}
        status, _ = nursery.run(kernel, chains, run, after=rng.uniform(0, 0.6), storage="zarr", **more)
        killed += status == -signal.SIGKILL
        if cores is not None:
            time.sleep(0.5)  # until the workers have noticed
            whole[kernel, chains] = stopped_runs.sample(kernel, chains, stopped_runs.Slow(), cores=1)
        if (run / "posterior.zarr/.zmetadata").exists():
            check_prefix(run, whole[kernel, chains])
        assert nursery.run(kernel, chains, run, resume=True, cores=cores)[0] == 0
        check(run, whole[kernel, chains], GROUPS)
    return killed


def test_killed(nursery, tmp_path):
    killed_and_resumed(nursery, [("nuts", 4, None), ("metropolis", 1, None)], tmp_path)


@pytest.mark.slow
def test_killed_at_forty_random_moments(nursery, tmp_path):
    cases = list(itertools.product(("nuts", "hmc", "metropolis"), (1, 4), (None,))) * 6
    cases += list(itertools.product(("nuts", "metropolis"), (4,), (1, 2)))
    killed = killed_and_resumed(nursery, cases, tmp_path)
    print(f"{killed} of {len(cases)} killed before their end")
    assert killed > 30


# Several processes, and chains that fail


def test_one_mirror_for_all_processes(tmp_path):
    draws = mirrored(tmp_path, cores=2, save_warmup=True)
    check(tmp_path, draws, GROUPS)
    assert opened(tmp_path).sizes["chain"] == 3
    assert opened(tmp_path).attrs["lots"] == 3
    shutil.rmtree(tmp_path / "posterior.zarr")
    longer = resume_potential(tmp_path, BENT.potential, draws=60, cores=1, progress=False)
    check(tmp_path, longer, GROUPS)


def test_lots_with_files_of_their_own(tmp_path):
    """As on several machines: the block of some chains is that of the draws in memory."""
    start = BENT.draw(5, seed=1)
    whole = sample(start, cores=1, checkpoint=tmp_path / "shared")
    plan = Plan.read(tmp_path / "shared")
    own = Plan(**{**vars(plan), "shared": False})
    for number, lot in enumerate(plan.lots):
        folder = tmp_path / f"own/lot-{number:02d}"
        folder.mkdir(parents=True)
        files = hnbayes.sampling.draw_files.DrawFiles(
            str(folder), "draws", len(lot), 3, plan.settings.storage_dtype, plan.kernel.stats
        )
        for draw in range(whole.num_draws):
            rows = np.arange(len(lot))
            info = {name: values[list(lot), draw].numpy() for name, values in whole.stats.items()}
            files.store(rows, whole.positions[list(lot), draw].numpy(), info)
        files.close()
    found = files_of(tmp_path / "own", own, "draws")
    found.count_stored()
    assert (found.counts == 47).all()
    for kept in ([0, 1, 2, 3, 4], [1, 4], [3]):
        positions, stats = found.block(11, 23, np.array(kept))
        assert torch.equal(positions, whole.positions[kept, 11:23])
        for name, values in stats.items():
            assert torch.equal(values, whole.stats[name][kept, 11:23])


class FailsFar(hnbayes.Potential):
    """Raises where a position is beyond a limit."""

    def __init__(self, limit):
        super().__init__(lambda q: 0.5 * q.square().sum(), compile=False)
        self.limit = limit

    def value_and_grad(self, positions):
        if float(positions.max()) > self.limit:
            raise KeyError("broken")
        return super().value_and_grad(positions)


@pytest.mark.filterwarnings("ignore:chain")
def test_a_chain_that_is_dropped_leaves_the_mirror(tmp_path):
    """As it leaves the draws that are returned."""
    options = {"step_size": 0.4, "adapt_step_size": False, "warmup": 5, "draws": 40, "seed": 2, "progress": False}
    start = torch.tensor([[0.1, 0.2], [0.3, -0.4], [-0.5, 0.6]], dtype=torch.float64)
    options |= {"on_error": "drop", "kernel": "hmc"}
    for limit in np.arange(3.5, 0.5, -0.2):  # from above, until a chain crosses it
        if sample_potential(FailsFar(limit), start, **options).chains < 3:
            break
    for cores in (None, 1):
        folder = tmp_path / str(cores)
        mirror = {"checkpoint": folder, "storage": "zarr", "checkpoint_every": 0.01}
        draws = sample_potential(FailsFar(limit), start, **options, **mirror, cores=cores)
        assert 0 < draws.chains < 3
        assert draws.num_draws == 40
        check(folder, draws)
        assert "dropped_chains" in opened(folder).attrs


# A full disk


def test_a_full_disk(tmp_path, monkeypatch):
    """The run ends; what was written can be read in both places; with room it goes on."""
    real, written = store_module.written_in_one_step, []

    def write(path, durable=True):
        written.append(path)
        if len(written) > 200:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return real(path, durable)

    monkeypatch.setattr(store_module, "written_in_one_step", write)
    with pytest.raises(OSError, match=r"No space left.*posterior\.zarr.*can be resumed") as caught:
        mirrored(tmp_path, checkpoint_every=0)
    assert caught.value.errno == errno.ENOSPC
    whole = sample()
    assert 0 < caught.value.draws.num_draws < 47
    assert 0 < check_prefix(tmp_path, whole) < 47
    assert torch.equal(read_draws(tmp_path).positions, caught.value.draws.positions)
    monkeypatch.undo()
    resume_potential(tmp_path, BENT.potential, progress=False)
    check(tmp_path, whole)


@pytest.mark.slow
def test_a_full_disk_under_several_processes(tmp_path, monkeypatch):
    def write(path, durable=True):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(store_module, "written_in_one_step", write)
    with pytest.raises(OSError, match="can be resumed") as caught:
        mirrored(tmp_path, cores=2, draws=3000)
    monkeypatch.undo()
    assert caught.value.draws.num_draws < 3000
    draws = resume_potential(tmp_path, BENT.potential, progress=False)
    assert draws.num_draws == 3000
    check(tmp_path, draws)


SMALL_DISK = """
import resource, sys, torch, hnbayes
U = hnbayes.Potential(lambda q: 0.5 * q.square().sum())
options = dict(kernel="metropolis", warmup=10, draws=2000, seed=1, progress=False, checkpoint_every=0.02)
try:
    hnbayes.sample_potential(U, torch.ones(2, 500), **options, checkpoint=sys.argv[1], storage="zarr")
except OSError as error:
    print(error.errno)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mounts a file system as Linux does")
def test_a_disk_that_is_full_indeed(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("no file system may be mounted here")
    try:
        environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
        command = [sys.executable, "-W", "ignore", "-c", SMALL_DISK, str(disk / "run")]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        assert int(done.stdout) == errno.ENOSPC
        U = hnbayes.Potential(lambda q: 0.5 * q.square().sum())
        options = {"kernel": "metropolis", "warmup": 10, "draws": 2000, "seed": 1, "progress": False}
        whole = sample_potential(U, torch.ones(2, 500), **options)
        assert check_prefix(disk / "run", whole) > 100
        subprocess.run(["mount", "-o", "remount,size=60m", str(disk)], check=True)
        assert torch.equal(resume_potential(disk / "run", U, progress=False).positions, whole.positions)
        check(disk / "run", whole)
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


# Memory

MEMORY = """
import pathlib, re, sys, torch, hnbayes
torch.set_num_threads(1)
U = hnbayes.Potential(lambda q: 0.5 * q.square().sum())
hnbayes.sample_potential(
    U, torch.ones(4, 5000), kernel="metropolis", step_size=0.01, metric="unit", warmup=0, draws=int(sys.argv[2]) // 4,
    adapt_step_size=False, seed=0, progress=False, checkpoint=sys.argv[1], checkpoint_every=5, storage="zarr",
)
print(int(re.search(r"VmHWM:\\s+(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1]) * 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="peak memory is read from /proc")
def test_memory_does_not_grow_with_the_draws(tmp_path):
    peaks = []
    for draws in (2000, 40_000):
        command = [sys.executable, "-W", "ignore", "-c", MEMORY, str(tmp_path / str(draws)), str(draws)]
        peaks.append(int(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    size = sum(path.stat().st_size for path in (tmp_path / "40000/posterior.zarr").rglob("*"))
    print(f"peaks {peaks} for a mirror of {size}")
    assert size > 7.9e8
    assert peaks[1] < peaks[0] + 100e6


# What is refused


def test_what_is_refused(tmp_path):
    with pytest.raises(ValueError, match="storage needs checkpoint"):
        sample(storage="zarr")
    with pytest.raises(ValueError, match="storage needs checkpoint"):
        hnbayes.sample(nn.Linear(1, 1), torch.ones(9, 1), torch.ones(9, 1), map_steps=10**9, storage="zarr")
    with pytest.raises(ValueError, match="storage must be one of None, 'zarr'"):
        sample(storage="netcdf", checkpoint=tmp_path)
    assert not list(tmp_path.iterdir())
    for name in ("../evil", ".hidden", "a\\b"):
        U = hnbayes.Potential(BENT.potential, spec=hnbayes.ParamSpec((name,), ((3,),)))
        for cores in (None, 1):
            with pytest.raises(ValueError, match="names of parameters that folders may have"):
                sample_potential(
                    U, BENT.draw(2, seed=0), warmup=1, draws=2, checkpoint=tmp_path / "a", storage="zarr", cores=cores
                )
    assert not (tmp_path / "evil").exists()


def test_a_folder_that_leads_elsewhere(tmp_path):
    """A run from others, whose mirror is a link."""
    run, other = tmp_path / "run", tmp_path / "other"
    mirrored(run, callbacks=[Stop(25 + 18)])
    other.mkdir()
    shutil.rmtree(run / "posterior.zarr")
    (run / "posterior.zarr").symlink_to(other)
    with pytest.raises(ValueError, match="is a link"):
        resume_potential(run, BENT.potential, progress=False)
    assert not list(other.iterdir())
