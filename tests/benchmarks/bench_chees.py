"""Effective draws a gradient after warm-up, ChEES-HMC beside NUTS, with many chains.

    python tests/benchmarks/bench_chees.py                       # both problems, 64 chains
    python tests/benchmarks/bench_chees.py --draws 100 --rounds 3

The problems: a Gaussian of 100 dimensions with scales from 0.01 to 1, and a logistic regression of the size of the
German credit data (1000 data, 24 inputs and an intercept, prior N(0, 1)), whose data are synthetic: correlated inputs,
labels from the model. ArviZ's bulk ESS of all chains together, the least over the coordinates, of the coordinates and
of their squares about the mean; gradients are all leapfrog steps of all chains. Acceptance is the mean of all, and the
mean over transitions of the chains' harmonic mean.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable

import arviz
import numpy as np
import torch
from torch import Tensor

import hnbayes
from hnbayes.sampling import Draws, sample_potential


def gaussian() -> tuple[Callable[[Tensor], Tensor], int]:
    """N(0, diag(s^2)), s from 0.01 to 1 in equal steps of its logarithm."""
    scales = torch.logspace(-2, 0, 100, dtype=torch.float64)
    return lambda q: 0.5 * (q / scales).square().sum(), 100


def logistic() -> tuple[Callable[[Tensor], Tensor], int]:
    """A logistic regression of 1000 labels on 24 correlated inputs of unequal scale."""
    rng = np.random.default_rng(0)
    mixing = np.eye(24) + 0.2 * rng.standard_normal((24, 24))
    X = torch.tensor(np.column_stack([np.ones(1000), rng.standard_normal((1000, 24)) @ mixing]))
    weights = torch.tensor(0.5 * rng.standard_normal(25))
    sign = 2.0 * (torch.tensor(rng.random(1000)) < torch.sigmoid(X @ weights)).double() - 1.0
    return lambda q: torch.nn.functional.softplus(-sign * (X @ q)).sum() + 0.5 * q.square().sum(), 25


PROBLEMS = {"gaussian": gaussian, "logistic": logistic}


def least_ess(draws: Draws) -> tuple[float, float]:
    """The least ESS of the coordinates and of their squares about the mean."""
    x = draws.positions.numpy()
    found = []
    for values in (x, (x - x.mean((0, 1))) ** 2):
        found.append(min(float(arviz.ess(values[:, :, i])) for i in range(x.shape[-1])))
    return found[0], found[1]


def main() -> None:
    """Run both kernels on both problems, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument("--chains", type=int, default=64)
    parser.add_argument("--warmup", type=int, default=500)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=1, help="with different seeds")
    args = parser.parse_args()
    print(
        f"{'problem':<10}{'seed':>5} {'kernel':<7}{'steps':>7}{'accept':>8}{'harmonic':>10}{'ESS/grad q':>12}"
        f"{'of q^2':>9}{'s':>7}"
    )
    for name in args.problems:
        U, dimension = PROBLEMS[name]()
        for seed in range(args.rounds):
            start = torch.randn(
                args.chains, dimension, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
            )
            for kernel in ("chees", "nuts"):
                began = time.perf_counter()
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", hnbayes.SamplingWarning)
                    draws = sample_potential(
                        U, start, kernel=kernel, warmup=args.warmup, draws=args.draws, seed=seed, progress=False
                    )
                seconds = time.perf_counter() - began
                steps, accept = (float(draws.stats[s].double().mean()) for s in ("n_steps", "acceptance_rate"))
                harmonic = float((1 / (1 / draws.stats["acceptance_rate"].double()).mean(0)).mean())
                first, second = (ess / float(draws.stats["n_steps"].sum()) for ess in least_ess(draws))
                print(
                    f"{name:<10}{seed:>5} {kernel:<7}{steps:>7.1f}{accept:>8.2f}{harmonic:>10.2f}{first:>12.4f}"
                    f"{second:>9.4f}{seconds:>7.1f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
