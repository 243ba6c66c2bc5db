"""A Fisher matrix needs memory for a piece of the data, not for all of it."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest

SCRIPT = """
import re, sys, torch
from torch import nn
from hnbayes.laplace import diagonal_fisher
torch.set_num_threads(1)
parameters, samples = int(sys.argv[1]), int(sys.argv[2])

def peak():  # of this program; getrusage tells the parent's too
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024

net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(64, parameters // 66), nn.ReLU(),
                    nn.Linear(parameters // 66, 2))
X, y = torch.randn(samples, 1, 6, 6), torch.randint(2, (samples,))
diagonal_fisher(net, (X[:4], y[:4]), kind="empirical")
before = peak()
assert diagonal_fisher(net, (X, y), kind="empirical").used == samples
print(peak() - before)
"""


@pytest.mark.skipif(not pathlib.Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
@pytest.mark.parametrize(
    ("parameters", "samples", "bound"),
    [(100_000, 5_000, 0.5e9), pytest.param(1_000_000, 10_000, 2e9, marks=pytest.mark.slow)],
)
def test_peak_memory_is_bounded(parameters, samples, bound):
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, str(parameters), str(samples)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    rise = int(result.stdout)
    print(f"peak rises by {rise / 1e6:.0f} MB; all gradients would take {4 * parameters * samples / 1e6:.0f} MB")
    assert 20e6 < rise < bound
