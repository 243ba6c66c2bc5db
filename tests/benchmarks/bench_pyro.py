"""Effective draws per second of the same Pyro models: our NUTS in `VectorizedMCMC` beside Pyro's in `pyro.infer.MCMC`.

Four chains each, the same model object, the same lengths unless said otherwise, one after the other in one process.
The time is that of the whole `run`, warm-up and capture of graphs included. ESS is ArviZ's bulk ESS over all four
chains: of each quantity that matters, the smallest and the median. What matters are the sites' own numbers, but for the
network, whose weights are not identified: its predictions at 20 rows left out.

Pyro draws four chains one after another unless there are more than four cores; times of the process's CPU are given
too, as those are free of what else the machine does.

Schools and the regression take 1,000 transitions of warm-up and 1,000 draws a chain, and trees up to depth 10, both
libraries' defaults. Pyro would need half an hour for the network so: it takes 150 and 150 at depth 7, 7 minutes.

    python tests/benchmarks/bench_pyro.py [schools|logistic|network ...] [--draws 1000] [--pyro-draws 250]
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import MCMC, NUTS
from sklearn.datasets import load_diabetes

import hnbayes.pyro

Quantities = Callable[[dict[str, torch.Tensor]], np.ndarray]


def flat(samples: dict[str, torch.Tensor]) -> np.ndarray:
    """All numbers of all sites, (C, S, K)."""
    return np.concatenate([value.reshape(*value.shape[:2], -1).numpy() for value in samples.values()], -1)


def schools() -> tuple[Any, tuple[Any, ...], Quantities]:
    """Eight schools (Rubin 1981), not centred."""
    y = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
    sigma = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])

    def model(y: torch.Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
        tau = pyro.sample("tau", dist.HalfCauchy(5.0))
        with pyro.plate("school", 8):
            eta = pyro.sample("eta", dist.Normal(0.0, 1.0))
            pyro.sample("obs", dist.Normal(mu + tau * eta, sigma), obs=y)

    return model, (y,), flat


def logistic() -> tuple[Any, tuple[Any, ...], Quantities]:
    """Logistic regression on simulated data, N = 1,000, d = 20."""
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(1000, 20, generator=generator)
    true = 0.5 * torch.randn(20, generator=generator)
    y = torch.bernoulli(torch.sigmoid(X @ true + 0.3), generator=generator)

    def model(X: torch.Tensor, y: torch.Tensor) -> None:
        intercept = pyro.sample("intercept", dist.Normal(0.0, 1.0))
        coefficients = pyro.sample("coefficients", dist.Normal(torch.zeros(20), 1.0).to_event(1))
        with pyro.plate("data", len(X)):
            pyro.sample("obs", dist.Bernoulli(logits=X @ coefficients + intercept), obs=y)

    return model, (X, y), flat


def network() -> tuple[Any, tuple[Any, ...], Quantities]:
    """A 10-50-1 tanh network on scikit-learn's diabetes data, learned noise; predictions at 20 rows left out."""
    data, target = load_diabetes(return_X_y=True)
    X = torch.tensor((data - data.mean(0)) / data.std(0), dtype=torch.float32)
    y = torch.tensor((target - target.mean()) / target.std(), dtype=torch.float32)[:, None]
    net = torch.nn.Sequential(torch.nn.Linear(10, 50), torch.nn.Tanh(), torch.nn.Linear(50, 1))
    model = hnbayes.pyro.BayesianNetwork(net, 1.0, "gaussian")
    return model, (X[20:], y[20:]), lambda samples: model.outputs(samples, X[:20])[..., 0].numpy()


PROBLEMS = {"schools": schools, "logistic": logistic, "network": network}
DRAWS = {"schools": 1000, "logistic": 1000, "network": 150}
DEPTH = {"schools": 10, "logistic": 10, "network": 7}


def effective_sizes(draws: np.ndarray) -> np.ndarray:
    """ArviZ's bulk ESS of each of K quantities, from (C, S, K)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        import arviz as az
    return np.array([float(az.ess(np.ascontiguousarray(draws[..., k]))) for k in range(draws.shape[-1])])


def measure(mcmc: Any, args: tuple[Any, ...], quantities: Quantities) -> tuple[float, float, np.ndarray, np.ndarray]:
    """Wall and CPU seconds of a run, ESS of the quantities, and their means."""
    wall, cpu = time.perf_counter(), time.process_time()
    mcmc.run(*args)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    draws = quantities(mcmc.get_samples(group_by_chain=True))
    return wall, cpu, effective_sizes(draws), draws.mean((0, 1))


def main() -> None:
    """Run both on each problem and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("problems", nargs="*", default=list(PROBLEMS), choices=[*PROBLEMS, []])
    parser.add_argument("--draws", type=int, help="draws, and transitions of warm-up, of each chain")
    parser.add_argument("--pyro-draws", type=int, help="the same for Pyro's sampler, if it is to have fewer")
    parser.add_argument("--max-tree-depth", type=int)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    print(f"torch {torch.__version__}, pyro {pyro.__version__}, {torch.get_num_threads()} threads")
    print(f"{'problem':10} {'sampler':8} {'draws':>6} {'wall s':>8} {'CPU s':>8} {'ESS min':>8} {'median':>8} "
          f"{'min ESS/s':>10} {'per CPU s':>10}")  # fmt: skip
    for problem in args.problems:
        model, data, quantities = PROBLEMS[problem]()
        depth = args.max_tree_depth or DEPTH[problem]
        rates = {}
        means = {}
        for name in ("pyro", "hnbayes"):
            pyro.clear_param_store()
            pyro.set_rng_seed(args.seed)
            draws = args.pyro_draws if name == "pyro" and args.pyro_draws else args.draws or DRAWS[problem]
            runner: Any
            if name == "pyro":
                kernel = NUTS(model, max_tree_depth=depth)
                runner = MCMC(kernel, draws, draws, num_chains=4, disable_progbar=True)
            else:
                ours = hnbayes.pyro.NUTS(model, max_tree_depth=depth)
                runner = hnbayes.pyro.VectorizedMCMC(ours, draws, draws, num_chains=4, disable_progbar=True)
            wall, cpu, ess, means[name] = measure(runner, data, quantities)
            rates[name] = np.array([ess.min() / wall, ess.min() / cpu, np.median(ess) / wall])
            print(f"{problem:10} {name:8} {draws:6} {wall:8.1f} {cpu:8.1f} {ess.min():8.0f} {np.median(ess):8.0f} "
                  f"{rates[name][0]:10.2f} {rates[name][1]:10.2f}", flush=True)  # fmt: skip
        ratio = rates["hnbayes"] / rates["pyro"]
        apart = np.abs(means["hnbayes"] - means["pyro"]).max()
        print(
            f"{problem:10} ratio of ESS/s: {ratio[0]:.1f} (smallest), {ratio[2]:.1f} (median), {ratio[1]:.1f} by CPU "
            f"time; means differ by at most {apart:.3g}",
            flush=True,
        )


if __name__ == "__main__":
    main()
