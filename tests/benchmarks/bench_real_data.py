"""Real data: the posterior of a small network beside the same network trained alone and a linear model.

    python tests/benchmarks/bench_real_data.py                    # all five, some minutes each on one core
    python tests/benchmarks/bench_real_data.py yacht --draws 200  # one of them, fewer draws

For each data set: RMSE or accuracy, LPPD (log predictive density of a point), coverage of the central 90% interval, and
how far the chains agree about the predictions of every test point (the worst rank-normalised split R-hat). A split of
80/20 drawn from the seed; inputs and real targets are standardised by the training part. Needs scikit-learn.

What seed 0 gave, of the posterior and (of the network trained alone), all five in one go, by one thread, on two cores
that others used too:

                 error            LPPD             90% coverage  worst R-hat (share of test points at most 1.05)
    airfoil      0.228 (0.275)    0.037 (-0.155)   0.943         1.02 (100%), 914 s
    yacht        0.059 (0.051)    1.470 (1.264)    0.918         1.01 (100%), 65 s
    energy       0.049 (0.052)    1.592 (1.379)    0.856         1.02 (100%), 121 s
    digits       0.978 (0.953)   -0.107 (-0.125)                 1.03 (100%), 19 s
    breast_cancer 0.965 (0.956)  -0.081 (-0.083)                 1.01 (100%), 3 s

Priors and noise were chosen with --validate, on a fifth of the training part. On airfoil and yacht the noise is fixed
and the prior says which inputs matter. With learned noise, chains on them don't agree (R-hat of airfoil 1.82 after 700
transitions, of yacht 1.98 with the prior here and 1.11 with a smoother one): the smaller the noise, the slower the
hidden layer moves. What is fixed is paid for elsewhere. On airfoil the prior with twice the scales in the first layer
predicts better (error 0.203, LPPD 0.100), but 97% of the test points lie in its intervals of 90%, and with a noise of
0.21 (LPPD 0.188, coverage 0.960) R-hat is 1.19. With --validate, scales 1.4 times those here gave coverage 0.938 and
LPPD -0.079 after 200 transitions, those here 0.925 and -0.119: they were taken for their coverage.
"""

from __future__ import annotations

import argparse
import json
import math
import pathlib
import time
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.linear_model import LogisticRegressionCV, RidgeCV
from torch import Tensor, nn

import hnbayes.posterior
from hnbayes.diagnostics import ess, rhat, within_chain_rhat
from hnbayes.likelihoods import Categorical, Gaussian, Likelihood
from hnbayes.priors import FanInNormal, HierarchicalNormal, Normal

DATA = pathlib.Path(__file__).parents[2] / "examples" / "data"


@dataclass(frozen=True)
class Setting:
    """A data set and how it is modelled."""

    classes: int
    hidden: int
    prior: Any
    warmup: int = 400
    draws: int = 600
    depth: int = 7
    target_accept: float = 0.8
    metric: str = "diag"
    adaptation: str = "per-chain"
    output_layer: str = "weights"
    noise: float | str = "learned"  # a standard deviation, in units of the target's


def smooth(inputs: float, output: float) -> dict[str, FanInNormal]:
    """Priors of the first layer, which says how fast functions bend, and of the output layer: how far they reach."""
    return {"0.*": FanInNormal(inputs), "*": FanInNormal(output)}


# Which inputs matter: for airfoil as fixed scales, half of those that make the training data of seed 0 likeliest (under
# smoother functions chains move faster, and intervals are less wide), so that the prior is a plain normal one, which
# compiled C evaluates; for yacht learned along with the rest.
AIRFOIL = {
    "0.weight": torch.distributions.Normal(0.0, torch.tensor([[2.0, 1.0, 1.0, 0.5, 1.0]])),
    "0.bias": Normal(0.0, 1.5),
    "*": FanInNormal(3.0),
}
YACHT = {"0.weight": HierarchicalNormal(1.0, per="input"), "0.bias": Normal(0.0, 1.0), "*": FanInNormal(3.0)}

SETTINGS = {
    "airfoil": Setting(0, 50, AIRFOIL, 300, 400, 11, noise=0.25),
    "yacht": Setting(0, 50, YACHT, 150, 200, 7, output_layer="whitened", noise=0.05),
    "energy": Setting(0, 50, smooth(0.5, 1.0), 150, 200, 7, output_layer="whitened"),
    "digits": Setting(10, 20, {"0.*": FanInNormal(2.0, 1.0), "*": FanInNormal(6.0, 1.0)}, 200, 300, 6),
    "breast_cancer": Setting(2, 20, FanInNormal(2.0, 1.0), 150, 250, 6),
}


def read(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Inputs (N, D) and targets (N,)."""
    if name in ("digits", "breast_cancer"):
        data = load_digits() if name == "digits" else load_breast_cancer()
        return data.data, data.target
    table = np.loadtxt(DATA / f"{name}.csv", delimiter=",", skiprows=1)
    return table[:, :-1], table[:, -1]


def network(inputs: int, setting: Setting, seed: int) -> nn.Sequential:
    """One hidden layer of tanh units."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(inputs, setting.hidden), nn.Tanh(), nn.Linear(setting.hidden, setting.classes or 1))


def train(net: nn.Module, X: Tensor, y: Tensor, likelihood: Likelihood, seed: int, steps: int = 2000) -> float:
    """Train a network alone, stopping at the best of a held-out tenth; returns the held-out root mean square error."""
    order = torch.randperm(len(X), generator=torch.Generator().manual_seed(seed))
    held, kept = order[: len(X) // 10], order[len(X) // 10 :]
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    best, weights = math.inf, {}
    for step in range(steps):
        optimizer.zero_grad()
        (-likelihood.log_prob(net(X[kept]), y[kept]).mean()).backward()
        optimizer.step()
        schedule.step()
        if step % 10 == 0:
            with torch.no_grad():
                loss = float(-likelihood.log_prob(net(X[held]), y[held]).mean())
            if loss < best:
                best, weights = loss, {name: p.detach().clone() for name, p in net.named_parameters()}
    net.load_state_dict(weights)
    with torch.no_grad():
        return float((net(X[held]) - y[held]).square().mean().sqrt()) if y.is_floating_point() else math.nan


def real_scores(mean: np.ndarray, sd: float, truth: np.ndarray) -> dict[str, float]:
    """RMSE, LPPD and coverage of normal predictions."""
    z = (truth - mean) / sd
    lppd = -0.5 * z**2 - math.log(sd) - 0.5 * math.log(2 * math.pi)
    return {
        "rmse": math.sqrt(np.square(truth - mean).mean()),
        "lppd": lppd.mean(),
        "coverage": (abs(z) < 1.6449).mean(),
    }


def label_scores(probabilities: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Accuracy and LPPD of class probabilities."""
    found = probabilities[np.arange(len(truth)), truth]
    return {"accuracy": (probabilities.argmax(1) == truth).mean(), "lppd": np.log(found.clip(1e-300)).mean()}


def agreement(post: Any, X: Tensor, classes: int) -> dict[str, float]:
    """Over predictions of all test points: R-hat between chains and within each, and the least effective draws."""
    outputs = post.outputs(X)
    functions = outputs.softmax(-1) if classes else outputs[..., 0]
    between, within = rhat(functions), within_chain_rhat(functions)
    return {
        "worst_rhat": float(between.max()),
        "agreeing": float((between <= 1.05).mean()),
        "worst_within": float(within.max()),
        "least_ess": float(ess(functions).min()),
    }


def run(name: str, setting: Setting, seed: int, chains: int, validate: bool = False) -> dict[str, Any]:
    """All figures of one data set; to `validate`, the training part is split once more and the test part left alone."""
    X, y = read(name)
    order = np.random.default_rng(seed).permutation(len(y))
    rows, test = order[len(y) // 5 :], order[: len(y) // 5]
    if validate:
        rows, test = rows[len(rows) // 5 :], rows[: len(rows) // 5]
    spread = X[rows].std(0)
    X = (X - X[rows].mean(0)) / np.where(spread > 0, spread, 1.0)
    likelihood: Likelihood = Categorical()
    if not setting.classes:
        y = (y - y[rows].mean()) / y[rows].std()
        likelihood = Gaussian(setting.noise)
    inputs, held = (torch.tensor(X[part], dtype=torch.float32) for part in (rows, test))
    targets = torch.tensor(y[rows], dtype=torch.long if setting.classes else torch.float32)
    targets = targets if setting.classes else targets[:, None]

    alone = network(X.shape[1], setting, seed)
    sd = train(alone, inputs, targets, Categorical() if setting.classes else Gaussian(1.0), seed)
    with torch.no_grad():
        output = alone(held).double()
    found: dict[str, Any] = {}
    if setting.classes:
        linear = LogisticRegressionCV(Cs=8, max_iter=2000).fit(X[rows], y[rows])
        found["linear"] = label_scores(linear.predict_proba(X[test]), y[test])
        found["alone"] = label_scores(output.softmax(-1).numpy(), y[test])
    else:
        linear = RidgeCV(np.logspace(-3, 4, 60)).fit(X[rows], y[rows])
        found["linear"] = real_scores(linear.predict(X[test]), (y[rows] - linear.predict(X[rows])).std(), y[test])
        found["alone"] = real_scores(output[:, 0].numpy(), sd, y[test])

    began = time.monotonic()
    post = hnbayes.posterior.sample(
        network(X.shape[1], setting, seed),
        inputs,
        targets,
        likelihood=likelihood,
        prior=setting.prior,
        chains=chains,
        warmup=setting.warmup,
        draws=setting.draws,
        max_tree_depth=setting.depth,
        target_accept=setting.target_accept,
        metric=setting.metric,
        adaptation=setting.adaptation,
        output_layer=setting.output_layer,
        seed=seed,
        progress=False,
    )
    seconds = time.monotonic() - began
    found["NUTS"] = post.score(held, y[test])
    stats = post.draws.stats
    found["run"] = {
        "seconds": seconds,
        **agreement(post, held, setting.classes),
        "divergences": int(stats["diverging"].sum()),
        "steps": float(stats["n_steps"].double().mean()),
        "cut": float(stats["reached_max_treedepth"].double().mean()),
    }
    return found


def show(name: str, found: dict[str, Any]) -> None:
    """One data set's rows of the table."""
    for model in ("NUTS", "alone", "linear"):
        row = found[model]
        error = row.get("rmse", row.get("accuracy"))
        coverage = f"{row['coverage']:.3f}" if "coverage" in row else ""
        chains = ""
        if model == "NUTS":
            run = found["run"]
            chains = f"{run['worst_rhat']:.3f} ({run['agreeing']:.0%} at most 1.05), {run['seconds']:.0f} s"
        print(f"{name:14}{model:8}{error:9.4f}{row['lppd']:9.3f}{coverage:>10}   {chains}", flush=True)


def main() -> None:
    """Run what was asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*SETTINGS, []], help="data sets (all)")
    parser.add_argument("--chains", type=int, default=4)
    parser.add_argument("--warmup", type=int)
    parser.add_argument("--draws", type=int)
    parser.add_argument("--hidden", type=int)
    parser.add_argument("--depth", type=int)
    parser.add_argument("--metric", choices=["diag", "dense"])
    parser.add_argument("--adaptation", choices=["per-chain", "pooled"])
    parser.add_argument("--output-layer", choices=["weights", "whitened"])
    parser.add_argument("--target-accept", type=float)
    parser.add_argument("--noise", type=float, help="a fixed standard deviation of the noise")
    parser.add_argument("--scale", type=float, help="of a FanInNormal prior")
    parser.add_argument("--input-scale", type=float, help="the same of the first layer; needs --scale")
    parser.add_argument("--validate", action="store_true", help="score on a fifth of the training part instead")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if not args.json:
        print(f"{'':22}{'error':>9}{'LPPD':>9}{'90% cov.':>10}   worst R-hat of predictions")
    for name in args.names or SETTINGS:
        changed = {
            key: value
            for key in (
                "warmup",
                "draws",
                "hidden",
                "depth",
                "metric",
                "adaptation",
                "target_accept",
                "output_layer",
                "noise",
            )
            if (value := getattr(args, key))
        }
        if args.scale:
            changed["prior"] = smooth(args.input_scale or args.scale, args.scale)
        setting = Setting(**{**SETTINGS[name].__dict__, **changed})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = run(name, setting, args.seed, args.chains, args.validate)
        if args.json:
            print(json.dumps({name: found}), flush=True)
        else:
            show(name, found)
            print("   ", {key: round(value, 3) for key, value in found["run"].items()}, flush=True)


if __name__ == "__main__":
    main()
