"""One run of one sampler in a process of its own; prints one line of JSON."""

from __future__ import annotations

import argparse
import importlib
import json
import pathlib
import resource
import sys
import time
import warnings

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from nuts.outcome import Job, Sampler
from nuts.problems import PROBLEMS

SAMPLERS = {
    "hnbayes": ("with_hnbayes", "sample"),
    "numpyro": ("with_numpyro", "sample"),
    "numpyro-parallel": ("with_numpyro", "sample_parallel"),
    "blackjax": ("with_blackjax", "sample"),
    "pyro": ("with_pyro", "sample"),
    "hypnettorch": ("with_hypnettorch", "sample"),
}


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sampler", choices=SAMPLERS)
    parser.add_argument("problem", choices=PROBLEMS)
    for name in ("chains", "warmup", "draws", "seed"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--target-accept", type=float, default=0.8)
    args = parser.parse_args()
    warnings.simplefilter("ignore")

    problem = PROBLEMS[args.problem]()
    module, function = SAMPLERS[args.sampler]
    began = time.perf_counter()
    sample: Sampler = getattr(importlib.import_module(f"nuts.{module}"), function)
    importing, imported_mib = time.perf_counter() - began, peak_mib()
    outcome = sample(Job(problem, args.chains, args.warmup, args.draws, args.seed, args.target_accept))
    peak = peak_mib()
    quantities = problem.quantities(outcome.positions).astype(np.float64)
    report = {
        "sampler": args.sampler,
        "problem": args.problem,
        "chains": args.chains,
        "warmup": args.warmup,
        "draws": args.draws,
        "seed": args.seed,
        "importing_s": importing,
        "wall_s": outcome.wall,
        "preparing_s": outcome.preparing,
        "gradients": outcome.gradients,
        "draw_gradients": outcome.draw_gradients,
        "divergences": outcome.divergences,
        "peak_mib": peak,
        "imported_mib": imported_mib,
        "energies": outcome.energies.tolist(),
        "ess": effective_sizes(quantities).tolist(),
        "means": quantities.mean((0, 1)).tolist(),
        "sds": quantities.std((0, 1)).tolist(),
        "extra": outcome.extra,
    }
    print(json.dumps(report))


def effective_sizes(draws: np.ndarray) -> np.ndarray:
    """ArviZ's bulk ESS of each of K quantities, from (C, S, K)."""
    import arviz as az

    return np.array([float(az.ess(np.ascontiguousarray(draws[..., k]), method="bulk")) for k in range(draws.shape[-1])])


def peak_mib() -> float:
    """The most memory that the process has held, in MiB."""
    unit = 1024 if sys.platform == "darwin" else 1
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit / 1024


if __name__ == "__main__":
    main()
