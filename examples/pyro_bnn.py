"""A Bayesian neural network whose prior's scales are learned too, as a Pyro model with all chains in one batch.

    python examples/pyro_bnn.py                  # airfoil self-noise, at most 2 minutes
    python examples/pyro_bnn.py --quick          # at most 30 seconds
    python examples/pyro_bnn.py --rows 400 --hidden 30 --chains 8 --out out/larger

`BayesianNetwork` turns any `torch.nn.Module` into a Pyro model: here each layer's weights are N(0, scale^2) with a
scale that is a site of its own. `VectorizedMCMC` runs the chains of any Pyro model in one process. Writes posterior.nc,
trace.png, energy.png and predictive.png. Convergence is judged by the predictions and the scales: weights are not
identified.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
import time
import warnings
from typing import Any

import matplotlib
import numpy as np
import pyro
import torch
from bnn_regression import AIRFOIL, read_table
from pyro.infer.autoguide import init_to_uniform
from torch.distributions import HalfNormal

from hnbayes.likelihoods import Gaussian
from hnbayes.priors import HierarchicalNormal, Normal
from hnbayes.pyro import NUTS, BayesianNetwork, VectorizedMCMC

matplotlib.use("Agg")
import matplotlib.pyplot as plt

# Inputs that span orders of magnitude enter as logarithms.
LOGARITHMS = ("frequency_hz", "displacement_thickness_m")
QUICK = {"rows": 100, "hidden": 10, "warmup": 150, "draws": 100, "max_tree_depth": 6}
FULL = {"rows": 200, "hidden": 20, "warmup": 600, "draws": 500, "max_tree_depth": 10}


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("out/pyro_bnn"))
    parser.add_argument("--quick", action="store_true", help="fewer rows, units and draws")
    parser.add_argument("--rows", type=int, help=f"training rows ({FULL['rows']}; {QUICK['rows']} if --quick)")
    parser.add_argument("--hidden", type=int, help=f"hidden units ({FULL['hidden']}; {QUICK['hidden']})")
    parser.add_argument("--chains", type=int, default=4)
    parser.add_argument("--warmup", type=int, help=f"transitions of warm-up ({FULL['warmup']}; {QUICK['warmup']})")
    parser.add_argument("--draws", type=int, help=f"draws of a chain ({FULL['draws']}; {QUICK['draws']})")
    parser.add_argument("--seed", type=int, default=0, help="of rows, starts, chains and predictive draws")
    args = parser.parse_args()
    for name, value in (QUICK if args.quick else FULL).items():
        if getattr(args, name, None) is None:
            setattr(args, name, value)
    if min(args.hidden, args.chains) < 1 or min(args.rows, args.warmup) < 20 or args.draws < 10 or args.seed < 0:
        parser.error("at least 1 hidden unit and chain, 20 rows, 20 transitions of warm-up, 10 draws; no negative seed")
    return args


def load(rows: int, seed: int) -> tuple[dict[str, torch.Tensor], float, float]:
    """Standardised training and test data, and the mean and sd of the target, in decibels."""
    X, y, target = read_table(AIRFOIL, None)
    with AIRFOIL.open() as file:
        names = [name for name in file.readline().strip().split(",") if name != target]
    for column, name in enumerate(names):
        if name in LOGARITHMS:
            X[:, column] = np.log(X[:, column])
    order = np.random.default_rng(seed).permutation(len(y))
    test, train = order[:300], order[300 : 300 + rows]
    if len(train) < rows:
        raise ValueError(f"there are {len(y) - 300} training rows; received --rows {rows}")
    X = (X - X[train].mean(0)) / X[train].std(0)
    mean, sd = float(y[train].mean()), float(y[train].std())
    y = (y[:, None] - mean) / sd
    arrays = {"X": X[train], "y": y[train], "X_test": X[test], "y_test": y[test]}
    return {name: torch.tensor(array, dtype=torch.float32) for name, array in arrays.items()}, mean, sd


def main() -> None:
    """Build, sample, predict, report, draw."""
    args = arguments()
    try:
        data, mean, sd = load(args.rows, args.seed)
    except ValueError as error:
        print(f"pyro_bnn: error: {error}", file=sys.stderr)
        sys.exit(2)
    pyro.set_rng_seed(args.seed)
    net = torch.nn.Sequential(torch.nn.Linear(5, args.hidden), torch.nn.Tanh(), torch.nn.Linear(args.hidden, 1))

    # The model: two scales, four sites of weights, the noise, the data.
    prior = {"*.weight": HierarchicalNormal(HalfNormal(1.0)), "*.bias": Normal(0.0, 1.0)}
    model = BayesianNetwork(net, prior, Gaussian(scale=HalfNormal(1.0)))
    kernel = NUTS(model, max_tree_depth=args.max_tree_depth, init_strategy=init_to_uniform(radius=0.5))
    mcmc = VectorizedMCMC(kernel, args.draws, args.warmup, num_chains=args.chains, seed=args.seed)
    rows, tests = len(data["X"]), len(data["X_test"])
    print(f"{rows} training and {tests} test rows, {model.spec.size} weights, {args.chains} chains")
    began = time.monotonic()
    mcmc.run(data["X"], data["y"])
    seconds = time.monotonic() - began

    # (chains, draws, rows): the network's function for each draw of its weights, in decibels.
    samples = mcmc.get_samples(group_by_chain=True)
    functions = model.outputs(samples, data["X_test"])[..., 0].numpy() * sd + mean
    noise = samples["sigma"].numpy()[..., None] * sd
    forecast = functions + noise * np.random.default_rng(args.seed).standard_normal(functions.shape)
    observed = data["y_test"][:, 0].numpy() * sd + mean
    with warnings.catch_warnings():
        # ArviZ 0.x announces its successor once a day.
        warnings.simplefilter("ignore", FutureWarning)
        report(functions, forecast, observed, samples, mcmc, seconds)
        idata = mcmc.to_inference_data()
        args.out.mkdir(parents=True, exist_ok=True)
        idata.to_netcdf(str(args.out / "posterior.nc"))
        draw(args.out, idata, functions, forecast, observed)
    print(f"results in {args.out}")


def scales_of(samples: dict[str, Any]) -> list[str]:
    """The sites of the hyperparameters: those that are one number."""
    return [name for name, value in samples.items() if value.ndim == 2]


def report(
    functions: np.ndarray,
    forecast: np.ndarray,
    observed: np.ndarray,
    samples: dict[str, Any],
    mcmc: Any,
    seconds: float,
) -> None:
    """Print test error and coverage, and how far the chains agree."""
    import arviz as az

    low, high = np.quantile(forecast, (0.05, 0.95), axis=(0, 1))
    error = np.sqrt(np.mean((functions.mean((0, 1)) - observed) ** 2))
    print(f"test RMSE {error:.2f} dB (sd of the target {observed.std():.2f} dB), {seconds:.0f} s of sampling")
    print(f"90% intervals hold {np.mean((low <= observed) & (observed <= high)):.1%} of the test rows")
    columns = range(0, functions.shape[-1], max(1, functions.shape[-1] // 50))
    worst = max(float(az.rhat(np.ascontiguousarray(functions[..., k]))) for k in columns)
    divergences = int(mcmc.draws.stats["diverging"].sum())
    print(f"R-hat of predictions: at most {worst:.2f}; {divergences} divergent transitions")
    for name in scales_of(samples):
        value = samples[name].numpy()
        print(f"{name:>16}: {value.mean():.3f} +- {value.std():.3f}, R-hat {float(az.rhat(value)):.2f}")


def draw(out: pathlib.Path, idata: Any, functions: np.ndarray, forecast: np.ndarray, observed: np.ndarray) -> None:
    """ArviZ's plots of the hyperparameters and the energy, and predictions against what was observed."""
    import arviz as az

    names = [name for name, value in idata.posterior.items() if value.ndim == 2]
    az.plot_trace(idata, var_names=names, compact=False, figsize=(9, 2 * len(names)))
    plt.tight_layout()
    plt.savefig(out / "trace.png", dpi=110)
    plt.close("all")
    az.plot_energy(idata, figsize=(7, 4))
    plt.savefig(out / "energy.png", dpi=110)
    plt.close("all")
    centre = functions.mean((0, 1))
    low, high = np.quantile(forecast, (0.05, 0.95), axis=(0, 1))
    figure, axes = plt.subplots(figsize=(6, 5.5))
    axes.errorbar(
        observed, centre, yerr=[centre - low, high - centre], fmt="o", ms=3, lw=0.7, alpha=0.6, label="mean, 90% band"
    )
    ends = [min(observed.min(), low.min()), max(observed.max(), high.max())]
    axes.plot(ends, ends, color="0.4", lw=1, label="prediction = observation")
    axes.set(
        xlabel="observed sound pressure level (dB)", ylabel="predicted (dB)", title="Test rows of the airfoil data"
    )
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(out / "predictive.png", dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
