"""Sampling needs little more memory than its draws."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest

CHAINS, DRAWS, DIMENSION = 4, 2000, 10_000

SCRIPT = f"""
import pathlib, re, torch, hnbayes
torch.set_num_threads(1)
chains, draws, dimension = {CHAINS}, {DRAWS}, {DIMENSION}
U = hnbayes.Potential(lambda q: 0.5 * q.square().sum())
result = hnbayes.sample_potential(
    U, torch.zeros(chains, dimension), kernel="hmc", num_steps=2, step_size=0.05, warmup=20, draws=draws, seed=0,
    progress=False,
)
idata = hnbayes.to_inference_data(result)
assert idata.posterior["position"].shape == (chains, draws, dimension)
assert float(result.positions[:, -1].std()) > 0.5
# The peak of this program; getrusage would tell that of the one which started it too.
status = pathlib.Path("/proc/self/status").read_text()
print(int(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1]) * 1024)
"""


@pytest.mark.skipif(not pathlib.Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_peak_memory_is_the_draws_and_little_else():
    result = subprocess.run([sys.executable, "-W", "ignore", "-c", SCRIPT], capture_output=True, text=True, check=True)
    peak = int(result.stdout)
    size = CHAINS * DRAWS * DIMENSION * 4
    print(f"peak {peak / 1e6:.0f} MB for draws of {size / 1e6:.0f} MB")
    assert size < peak <= 1.2 * size + 500e6
