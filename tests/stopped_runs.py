"""A program that samples in children which a test may kill at any moment. One line in: a case; one line out: its child.

It imports torch once and forks, so that sixty runs don't take sixty imports.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import warnings

import torch

import hnbayes
from hnbayes.sampling import resume_potential, sample_potential

DIMENSION = 5
WARMUP, DRAWS = 40, 30


def potential(q):
    z = q / torch.linspace(0.5, 2.0, DIMENSION, dtype=q.dtype)
    return 0.5 * z.square().sum() + 0.05 * z[0] ** 4


def starts(chains):
    return torch.randn(chains, DIMENSION, generator=torch.Generator().manual_seed(3))


def options(kernel):
    return {"kernel": kernel, "warmup": WARMUP, "draws": DRAWS, "seed": 7, "save_warmup": True, "progress": False}


def slowly(event):
    """So that a run takes long enough to be hit."""
    time.sleep(0.002)


def sample(kernel, chains, potential=potential, **more):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return sample_potential(potential, starts(chains), **options(kernel), **more)


class Slow(hnbayes.Potential):
    """The potential, slow enough to be hit in worker processes, which callbacks don't slow down."""

    def __init__(self):
        super().__init__(potential)

    def value_and_grad(self, positions):
        time.sleep(0.001)
        return super().value_and_grad(positions)

    def value(self, positions):
        time.sleep(0.01)
        return super().value(positions)


def child(case):
    folder, cores = case["folder"], case["cores"]
    U = potential if cores is None else Slow()
    options = {"checkpoint_every": 0.01, "cores": cores, "callbacks": [slowly] if cores is None else []}
    if case["resume"]:
        result = resume_potential(folder, U, progress=False, **options)
    else:
        result = sample(case["kernel"], case["chains"], U, checkpoint=folder, storage=case["storage"], **options)
    print(json.dumps({"draws": result.num_draws, **result.metadata}), flush=True)


def main():
    # A shell that starts tests in the background has them ignore it, and their children with them.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)
    sample("nuts", 1)  # what is imported when it is first needed
    print("ready", flush=True)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            warnings.simplefilter("ignore")
            child(json.loads(line))
            os._exit(0)
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(json.dumps({"status": os.waitstatus_to_exitcode(status)}), flush=True)


if __name__ == "__main__":
    main()
