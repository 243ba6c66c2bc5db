"""A Fisher matrix needs memory for a piece of the data, not for all of it."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest

PARAMETERS, SAMPLES = 100_000, 5000

SCRIPT = f"""
import re, torch
from torch import nn
from hnbayes.laplace import diagonal_fisher
torch.set_num_threads(1)

def peak():  # of this program; getrusage tells the parent's too
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024

net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(64, {PARAMETERS} // 66), nn.ReLU(),
                    nn.Linear({PARAMETERS} // 66, 2))
X, y = torch.randn({SAMPLES}, 1, 6, 6), torch.randint(2, ({SAMPLES},))
diagonal_fisher(net, (X[:4], y[:4]), kind="empirical")
before = peak()
assert diagonal_fisher(net, (X, y), kind="empirical").used == {SAMPLES}
print(peak() - before)
"""


@pytest.mark.skipif(not pathlib.Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_peak_memory_is_bounded():
    result = subprocess.run([sys.executable, "-W", "ignore", "-c", SCRIPT], capture_output=True, text=True, check=True)
    rise = int(result.stdout)
    print(f"peak rises by {rise / 1e6:.0f} MB; all gradients would take {4 * PARAMETERS * SAMPLES / 1e6:.0f} MB")
    assert 20e6 < rise < 500e6
