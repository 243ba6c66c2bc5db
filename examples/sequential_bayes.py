"""Sequential Bayes with a neural network: what one task taught becomes the prior of the next.

    python examples/sequential_bayes.py             # at most a minute
    python examples/sequential_bayes.py --quick     # some seconds

Bayes' rule needs no old data: the posterior of task 1 is the prior of task 2. The posterior of weights has no formula,
so a Gaussian with a diagonal precision stands in for it, and there are several to be had. Here it is

1. *EWC*: at the maximum of task 1's posterior, of precision prior + N x Fisher, which is Laplace's approximation;
2. *SI*: there too, of precision prior + 2 x importance, gathered while the network was trained;
3. *draws*: the Gaussian with mean and variances of draws of task 1's posterior by NUTS.

Each is the prior of task 2, sampled by NUTS; the third in Pyro too, whose draws must agree with the package's own. They
stand beside two bounds: task 2 alone, as if task 1 had never been, and the posterior of both tasks together, which is
what sequential Bayes would give if the Gaussian were exact.

The data are measurements of an airfoil's noise in a wind tunnel (its longest chord at angle 0): the sound level as a
function of frequency, scattered by the speed of the wind. Task 1 is the lower half of frequencies, task 2 the upper.
Writes table.csv and sequential_bayes.png.

The first and the third Gaussian differ in what they take for a weight's variance: given the other weights, or whatever
these are. Weights are correlated, so the third is wider; it keeps less, and is the more honest about each weight alone.

What a Gaussian without correlations can keep at all depends on the network. Units that each have a place, as the bumps
here, hold what is known of low and of high frequencies in different weights. With 8 tanh units, which reach everywhere,
the same program kept little of task 1.
"""

from __future__ import annotations

import argparse
import csv
import pathlib
import time
import warnings
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
import torch
from bnn_regression import AIRFOIL, read_table
from torch import Tensor, nn
from torch.func import functional_call, vmap

import hnbayes
from hnbayes.laplace import (
    DiagGaussian,
    compute_fisher,
    from_draws,
    from_ewc,
    from_si,
    si_compute_importance,
    si_post_optim_step,
    si_pre_optim_step,
)
from hnbayes.likelihoods import Gaussian
from hnbayes.pyro import NUTS, BayesianNetwork, VectorizedMCMC

UNITS = 9
CHAINS = 4
HEIGHT_SD = 1.5  # of a bump's height, before any task
NOISE = 0.5  # sd of a level around the curve, in units of the levels' sd: what the speeds of the wind make of it
DEPTH = 5  # of NUTS's trees


@dataclass(frozen=True)
class Part:
    """One task: points to learn from and points to test with, (N, 1) each, in standard units."""

    X: Tensor
    y: Tensor
    X_test: Tensor
    y_test: Tensor


class Bumps(nn.Module):
    """A radial-basis network: a sum of bumps with heights and centres to be learned, all of one width."""

    def __init__(self, units: int, reach: float = 2.5) -> None:
        super().__init__()
        self.width = 2 * reach / (units - 1)
        self.centres = nn.Parameter(torch.linspace(-reach, reach, units))
        self.heights = nn.Parameter(torch.zeros(units))

    def forward(self, x: Tensor) -> Tensor:
        """Levels (N, 1) at frequencies (N, 1)."""
        return torch.exp(-0.5 * ((x - self.centres) / self.width) ** 2) @ self.heights[:, None]

    def prior(self) -> DiagGaussian:
        """What is known before any task: centres near their places, heights around 0."""
        spec = hnbayes.ParamSpec.from_module(self)
        sds = torch.cat([torch.full_like(self.centres, self.width / 3), torch.full_like(self.heights, HEIGHT_SD)])
        return DiagGaussian(torch.cat([self.centres, self.heights]).detach(), sds.detach() ** -2, spec)


def load() -> tuple[list[Part], float]:
    """Both tasks, and the standard deviation of a level in decibels."""
    rows, level, _ = read_table(AIRFOIL, None)
    chosen = (rows[:, 1] == 0) & (rows[:, 2] == rows[:, 2].max())
    frequency, level = np.log10(rows[chosen, 0]), level[chosen]
    sd = float(level.std())
    x = torch.tensor((frequency - frequency.mean()) / frequency.std(), dtype=torch.float32)[:, None]
    y = torch.tensor((level - level.mean()) / sd, dtype=torch.float32)[:, None]
    middle = x.median()
    parts = []
    for half in (x[:, 0] <= middle, x[:, 0] > middle):
        X_half, y_half = x[half], y[half]
        test = torch.arange(len(X_half)) % 4 == 3
        parts.append(Part(X_half[~test], y_half[~test], X_half[test], y_half[test]))
    return parts, sd


def train(net: Bumps, prior: DiagGaussian, part: Part, steps: int) -> None:
    """Bring a network to the maximum of its posterior, and let SI watch."""
    params = list(net.parameters())
    optimizer = torch.optim.Adam(params, lr=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        # Sums over samples, not means: then the penalties' natural strength is 1.
        nll = (net(part.X) - part.y).square().sum() / (2 * NOISE**2)
        (nll - prior.log_prob(params)).backward()
        si_pre_optim_step(net, params)
        optimizer.step()
        si_post_optim_step(net, params)
        schedule.step()
    si_compute_importance(net, params)


def gaussians(
    net: Bumps, prior: DiagGaussian, part: Part, budget: dict[str, int], seed: int
) -> dict[str, DiagGaussian]:
    """Three Gaussians for the posterior of task 1, over the weights of a network that stands at its maximum."""
    params = list(net.parameters())
    # `proper_scaling` multiplies the mean Fisher matrix by the number of samples: Bayes' precision.
    compute_fisher(
        0,
        [(part.X, part.y)],
        params,
        None,
        net,
        regression=True,
        regression_lvar=NOISE**2,
        empirical_fisher=False,
        proper_scaling=True,
    )
    # All chains begin at the network's weights and so in the same mode. Most networks have many that are alike but for
    # the order and signs of hidden units; the Gaussian of draws from several would fit none.
    posterior = hnbayes.sample(
        net,
        part.X,
        part.y,
        likelihood=Gaussian(scale=NOISE),
        prior=prior,
        init="module",
        chains=CHAINS,
        max_tree_depth=DEPTH,
        seed=seed,
        progress=False,
        **budget,
    )
    # The Fisher matrix and SI's importances are of the data alone; the precision from before is added.
    fisher, importance = from_ewc(net, task_id=1), from_si(net)
    return {
        "EWC": DiagGaussian(fisher.mean, fisher.precision + prior.precision, prior.spec),
        "SI": DiagGaussian(importance.mean, importance.precision + prior.precision, prior.spec),
        "draws": from_draws(posterior.draws),
    }


def native(net: Bumps, X: Tensor, y: Tensor, prior: DiagGaussian, budget: dict[str, int], seed: int) -> Tensor:
    """Draws (S, D) of the posterior by the package's own interface. A `DiagGaussian` is a prior like any other."""
    posterior = hnbayes.sample(
        net,
        X,
        y,
        likelihood=Gaussian(scale=NOISE),
        prior=prior,
        init=prior.mean.expand(CHAINS, -1).clone(),
        chains=CHAINS,
        max_tree_depth=DEPTH,
        seed=seed,
        progress=False,
        **budget,
    )
    return posterior.draws.positions.reshape(-1, len(prior.mean))


def in_pyro(net: Bumps, X: Tensor, y: Tensor, prior: DiagGaussian, budget: dict[str, int], seed: int) -> Tensor:
    """The same posterior in Pyro, where the Gaussian is the distribution of the weights' sites."""
    model = BayesianNetwork(net, prior, likelihood=Gaussian(scale=NOISE))
    start = {name: w.expand(CHAINS, *w.shape).clone() for name, w in prior.spec.unflatten(prior.mean).items()}
    mcmc = VectorizedMCMC(
        NUTS(model, max_tree_depth=DEPTH),
        budget["draws"],
        budget["warmup"],
        num_chains=CHAINS,
        seed=seed,
        initial_params=start,
        disable_progbar=True,
    )
    mcmc.run(X, y)
    return prior.spec.flatten(mcmc.get_samples())


def curves(net: Bumps, spec: hnbayes.ParamSpec, draws: Tensor, X: Tensor) -> Tensor:
    """The network's outputs (S, N) at X for each draw."""
    with torch.no_grad():
        return vmap(lambda q: functional_call(net, spec.unflatten(q), (X,)))(draws)[..., 0]


def scores(outputs: Tensor, y: Tensor) -> tuple[float, float]:
    """Root mean squared error, and mean log density of the predictive mixture."""
    error = (outputs.mean(0) - y[:, 0]).square().mean().sqrt()
    log_p = torch.distributions.Normal(outputs, NOISE).log_prob(y[:, 0])
    return float(error), float((log_p.logsumexp(0) - np.log(len(outputs))).mean())


def draw_picture(path: pathlib.Path, parts: list[Part], grid: Tensor, found: dict[str, Tensor]) -> None:
    """A panel for each posterior: the mean curve, its 90% band and the data of both tasks."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 3, figsize=(12, 6.5), sharex=True, sharey=True)
    x = grid[:, 0]
    for axis, (name, outputs) in zip(axes.flat, found.items(), strict=True):
        low, high = torch.quantile(outputs, torch.tensor([0.05, 0.95]), dim=0)
        axis.fill_between(x, low, high, alpha=0.3, color="tab:blue", label="90% of curves")
        axis.plot(x, outputs.mean(0), color="tab:blue")
        for t, part in enumerate(parts):
            axis.plot(part.X, part.y, ".", color=("tab:red", "tab:green")[t], label=f"task {t + 1}")
        axis.axvline(float(parts[0].X.max()), color="grey", linewidth=0.5)
        axis.set_title(name, fontsize=10)
        axis.set_ylim(-4, 3)
    for axis in axes[-1]:
        axis.set_xlabel("log frequency (standardised)")
    for axis in axes[:, 0]:
        axis.set_ylabel("level (standardised)")
    axes[0, 0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    """Learn task 1, then task 2 with each prior; compare, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("out/sequential_bayes"))
    parser.add_argument("--quick", action="store_true", help="fewer draws")
    parser.add_argument("--seed", type=int, default=0, help="of the network, the starts and the chains")
    args = parser.parse_args()
    if args.seed < 0:
        parser.error("--seed must be at least 0")
    began = time.monotonic()
    warnings.filterwarnings("ignore", message=".*(tree depth|E-BFMI|diverged).*")  # short chains say so
    budget = {"warmup": 80, "draws": 60} if args.quick else {"warmup": 250, "draws": 250}
    parts, decibels = load()
    first, second = parts

    net = Bumps(UNITS)
    nothing, spec = net.prior(), hnbayes.ParamSpec.from_module(net)
    train(net, nothing, first, 500 if args.quick else 1500)
    beliefs = gaussians(net, nothing, first, budget, args.seed)

    draws = {"task 2 alone": native(net, second.X, second.y, nothing, budget, args.seed + 1)}
    for name, belief in beliefs.items():
        draws[f"prior from {name}"] = native(net, second.X, second.y, belief, budget, args.seed + 1)
    draws["prior from draws, in Pyro"] = in_pyro(net, second.X, second.y, beliefs["draws"], budget, args.seed + 2)
    both = torch.cat([first.X, second.X]), torch.cat([first.y, second.y])
    draws["both tasks together"] = native(net, *both, nothing, budget, args.seed + 1)

    print(f"{'':28}{'test RMSE (dB)':^20}{'log density a test point':^26}")
    print(f"{'':28}{'task 1':>10}{'task 2':>10}{'task 1':>13}{'task 2':>13}")
    table = []
    for name, rows in draws.items():
        (e1, d1), (e2, d2) = (scores(curves(net, spec, rows, part.X_test), part.y_test) for part in parts)
        print(f"{name:28}{e1 * decibels:10.2f}{e2 * decibels:10.2f}{d1:13.3f}{d2:13.3f}")
        table.append({"posterior": name, "rmse_1": e1 * decibels, "rmse_2": e2 * decibels, "lpd_1": d1, "lpd_2": d2})
    grid = torch.linspace(float(both[0].min()), float(both[0].max()), 100)[:, None]
    found = {name: curves(net, spec, rows, grid) for name, rows in draws.items()}
    own, pyros = found["prior from draws"], found["prior from draws, in Pyro"]
    apart = ((own.mean(0) - pyros.mean(0)).abs() / own.std(0)).max()
    print(f"natively and in Pyro: mean curves at most {apart:.2f} of a posterior sd apart")

    args.out.mkdir(parents=True, exist_ok=True)
    with (args.out / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    draw_picture(args.out / "sequential_bayes.png", parts, grid, found)
    print(f"time {time.monotonic() - began:.0f} s, results in {args.out}")


if __name__ == "__main__":
    main()
