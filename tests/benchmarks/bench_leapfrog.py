"""What a leapfrog step costs inside HMC and NUTS, beside the bare batched gradient it can't do without.

Problem: the posterior of a 10-50-1 tanh network on scikit-learn's diabetes data, float32, N(0, 1) prior, Gaussian
noise of precision 2; D = 601. Rounds of bare gradient, HMC and NUTS alternate, and ratios are taken within a round,
because machines are noisy. Where the package `hypnettorch` is installed, its HMC runs on the same potential in the
same run.

    python tests/benchmarks/bench_leapfrog.py [--chains 4] [--threads 2] [--compile auto|true]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from sklearn.datasets import load_diabetes

import hnbayes
from hnbayes.kernels import HMC, NUTS
from hnbayes.rng import chain_streams

STEP_SIZE = 0.005
STEPS_PER_ROUND = 200


def diabetes_potential(compile: bool | str) -> hnbayes.Potential:
    """The network posterior on standardised data."""
    X, y = load_diabetes(return_X_y=True)
    inputs = torch.tensor((X - X.mean(0)) / X.std(0), dtype=torch.float32)
    targets = torch.tensor((y - y.mean()) / y.std(), dtype=torch.float32)[:, None]
    net = torch.nn.Sequential(torch.nn.Linear(10, 50), torch.nn.Tanh(), torch.nn.Linear(50, 1))
    return hnbayes.nn_pot_energy(
        net, inputs, targets, hnbayes.log_prob_standard_normal_prior, tau_pred=2.0, compile=compile
    )


def microseconds(call: Callable[[], object], repeats: int = STEPS_PER_ROUND) -> float:
    """Mean time of a call."""
    began = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - began) / repeats * 1e6


def main() -> None:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chains", type=int, default=4)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--compile", choices=["auto", "true"], default="auto")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)

    U = diabetes_potential(True if args.compile == "true" else "auto")
    positions = 0.3 * torch.randn(args.chains, U.spec.size)
    mode = U.prepare(positions)
    streams = [chain_streams(0, range(args.chains)) for _ in range(2)]
    hmc, nuts = HMC(num_steps=50), NUTS()
    hmc_state = hmc.init(U, positions, streams[0], STEP_SIZE)
    nuts_state = nuts.init(U, positions, streams[1], STEP_SIZE)
    jobs: dict[str, Callable[[], object]] = {
        "bare batched gradient": lambda: U.value_and_grad(positions),
        "leapfrog in HMC": lambda: hmc.advance(hmc_state),
        "leapfrog in NUTS": lambda: nuts.advance(nuts_state),
    }
    peer = hypnettorch_step(U, positions[0])
    if peer is not None:
        jobs["leapfrog in hypnettorch"] = peer
    for job in jobs.values():
        microseconds(job, 50)
    rounds = np.array([[microseconds(job) for job in jobs.values()] for _ in range(args.rounds)])

    print(f"{args.chains} chains, D = {U.spec.size}, {args.threads} threads, gradient {mode}; {args.rounds} rounds")
    print(f"{'':26}{'median us':>10}{'min us':>9}{'/ bare':>9}{'leapfrogs/s':>13}")
    per_bare = np.median(rounds / rounds[:, :1], axis=0)
    for column, name in enumerate(jobs):
        times = rounds[:, column]
        chains = 1 if name.endswith("hypnettorch") else args.chains
        rate = chains * 1e6 / np.median(times)
        print(f"{name:26}{np.median(times):10.0f}{times.min():9.0f}{per_bare[column]:9.2f}{rate:13,.0f}")
    if peer is not None:
        for name, column in (("HMC", 1), ("NUTS", 2)):
            speedup = np.median(args.chains * rounds[:, 3] / rounds[:, column])
            print(f"leapfrogs per second, {name} / hypnettorch: {speedup:.1f}")


def hypnettorch_step(U: hnbayes.Potential, position: torch.Tensor) -> Callable[[], object] | None:
    """A leapfrog step of hypnettorch's HMC on the same potential, at the cost of one in a chain; None without it."""
    try:
        from hypnettorch.utils.hmc import HMC as PeerHMC
    except ImportError:
        return None
    steps = 25
    chain = PeerHMC(position.clone(), U.function, stepsize=STEP_SIZE, num_steps=steps)
    calls = {"n": 0}

    def step() -> None:
        # Its chain takes whole states only: one of `steps` leapfrogs in so many calls.
        if calls["n"] % steps == 0:
            chain.simulate_chain(1)
        calls["n"] += 1

    return step


if __name__ == "__main__":
    main()
