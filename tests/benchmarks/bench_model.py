"""One batched gradient of `hnbayes.sample`'s potential beside that of `nn_pot_energy`: what prior and likelihood cost.

    python tests/benchmarks/bench_model.py

A 5-50-1 tanh network on 1,200 rows, 4 chains, float32, one thread. Best of several rounds, in turns, so that a busy
machine slows both alike.
"""

from __future__ import annotations

import time

import torch
from torch import nn

import hnbayes
from hnbayes.likelihoods import Gaussian
from hnbayes.posterior import Model
from hnbayes.priors import FanInNormal, HierarchicalNormal, Normal

ROUNDS, CALLS, CHAINS = 15, 100, 4


def main() -> None:
    """Print microseconds and ratios."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 50), nn.Tanh(), nn.Linear(50, 1))
    X, y = torch.randn(1200, 5), torch.randn(1200, 1)
    potentials = {
        "nn_pot_energy, N(0, 1)": hnbayes.nn_pot_energy(net, X, y, hnbayes.log_prob_standard_normal_prior, 25.0)
    }
    for name, likelihood, prior in (
        ("Gaussian(0.2), Normal(0, 1)", Gaussian(0.2), Normal()),
        ("Gaussian(learned), FanInNormal", Gaussian("learned"), FanInNormal()),
        ("Gaussian(learned), HierarchicalNormal", Gaussian("learned"), HierarchicalNormal()),
    ):
        potentials[name] = Model(net, likelihood, prior, X).potential(X, y)
    best = dict.fromkeys(potentials, float("inf"))
    positions = {name: 0.1 * torch.randn(CHAINS, U.spec.size) for name, U in potentials.items()}
    for name, U in potentials.items():
        U.prepare(positions[name])
    for _ in range(ROUNDS):
        for name, U in potentials.items():
            began = time.perf_counter()
            for _ in range(CALLS):
                U.value_and_grad(positions[name])
            best[name] = min(best[name], (time.perf_counter() - began) / CALLS)
    baseline = next(iter(best.values()))
    for name, seconds in best.items():
        print(f"{name:40}{1e6 * seconds:8.0f} us {seconds / baseline:6.2f} x")


if __name__ == "__main__":
    main()
