"""NUTS in one batch beside the same chains spread over worker processes: time, gradients a second, what starting costs.

    python tests/benchmarks/bench_cores.py [--problem diabetes] [--cores none 1 2] [--rounds 1]

"none" is one batch in one process, with torch's own threads. Starting is what a run takes beyond its sampling: imports
of the workers, sending the potential, capturing its graph, gathering draws; a run of one transition is timed for it.
scikit-learn has the data of diabetes and digits.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings

import torch
from nuts.problems import PROBLEMS

import hnbayes


def main() -> None:
    """Print one line a run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problem", choices=PROBLEMS, default="diabetes")
    parser.add_argument("--cores", nargs="+", default=["none", "1", "2"])
    parser.add_argument("--rounds", type=int, default=1)
    for name in ("chains", "warmup", "draws"):
        parser.add_argument(f"--{name}", type=int)
    args = parser.parse_args()
    kind = PROBLEMS[args.problem]
    problem = kind() if isinstance(kind, type) else kind
    chains, warmup, draws = (getattr(args, name) or getattr(kind, name) for name in ("chains", "warmup", "draws"))
    U = problem.torch_potential()
    print("cores  wall s  gradients/s  CPU s  start: wall s  CPU s  (gradients)", flush=True)
    for seed in range(args.rounds):
        start = torch.from_numpy(problem.starts(chains, seed))
        for text in args.cores:
            options = {"seed": seed, "cores": None if text == "none" else int(text), "progress": False}
            began, before = time.perf_counter(), cpu_seconds()
            hnbayes.sample_potential(U, start, warmup=0, draws=1, step_size=1e-4, adapt_step_size=False, **options)
            starting, start_cpu = time.perf_counter() - began, cpu_seconds() - before
            U.reset()
            began, before = time.perf_counter(), cpu_seconds()
            found = hnbayes.sample_potential(U, start, warmup=warmup, draws=draws, save_warmup=True, **options)
            wall, busy = time.perf_counter() - began, cpu_seconds() - before
            steps = sum(int(stats["n_steps"].sum()) for stats in (found.warmup_stats, found.stats))
            print(
                f"{text:>5} {wall:7.1f} {steps / wall:12,.0f} {busy:6.1f} {starting:14.2f} {start_cpu:6.1f}  ({steps})",
                flush=True,
            )
            U.reset()


def cpu_seconds() -> float:
    """What this process and the workers that have ended have taken of CPUs; other programs don't lengthen it much."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
