"""Three ways to a predictive distribution on small regression data: deep ensemble, MCLMC from its members, NUTS.

    python examples/uci_regression.py                          # airfoil, 3 seeds
    python examples/uci_regression.py --data yacht --splits 5  # random 90/10 splits, in the data's own units
    python examples/uci_regression.py --quick                  # budgets too small to mean anything

Networks of four hidden layers of 16 units with a learned scale of noise, for each input or one for all. The airfoil
data are split once (80/20, seed 0) and scored on standardised axes, as published results are; the seeds differ in
training and sampling.
Each finished run is a line of results.csv, which a later call doesn't repeat; one that was stopped while it sampled
goes on where it was (its seconds are those of the last process). Writes results.csv and scores.png.
"""

from __future__ import annotations

import argparse
import csv
import pathlib
import shutil
import time
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.model_selection import train_test_split

import hnbayes
from hnbayes import EnsembleTraining, Posterior
from hnbayes.kernels import MCLMC, NUTS
from hnbayes.likelihoods import Gaussian, HeteroscedasticGaussian

FOLDER = pathlib.Path(__file__).parent / "data"
METHODS = ("ensemble", "mclmc", "nuts")
NOISES = ("heteroscedastic", "constant")
COLUMNS = ("data", "split", "method", "members", "noise", "rmse", "nll_moments", "nll_mixture", "seconds")
TRAINING = EnsembleTraining(epochs=400, batch_size=64, learning_rate=0.01, patience=50)
QUICK = EnsembleTraining(epochs=20, batch_size=64, learning_rate=0.01, patience=10)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=("airfoil", "yacht", "energy"), default="airfoil")
    parser.add_argument("--splits", type=int, default=3, help="random splits; of airfoil, seeds on one split")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["ensemble", "mclmc"])
    parser.add_argument("--noise", choices=NOISES, default=NOISES[0], help="its scale is learned in either case")
    parser.add_argument("--members", type=int, default=10, help="networks of the ensemble, and chains")
    parser.add_argument("--draws", type=int, default=2500, help="transitions of 20 steps of 'mclmc' after warm-up")
    parser.add_argument("--warmup", type=int, default=500)
    parser.add_argument("--cores", type=int, help="processes that share the chains (default: one, of all threads)")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("out/uci_regression"))
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    if args.quick:
        args.members, args.warmup, args.draws = 2, 20, 20
    return args


@dataclass(frozen=True)
class Split:
    """Standardised training and test data, and what one unit of the target is in those that scores are given in."""

    X: torch.Tensor
    y: torch.Tensor
    X_test: torch.Tensor
    y_test: torch.Tensor
    unit: float


def load(name: str, number: int) -> Split:
    table = np.loadtxt(FOLDER / f"{name}.csv", delimiter=",", skiprows=1)
    share, seed = (0.2, 0) if name == "airfoil" else (0.1, number)
    train, test = train_test_split(table, test_size=share, random_state=seed)
    mean, sd = train.mean(0), train.std(0)
    sd[sd == 0] = 1.0
    train, test = (torch.tensor((part - mean) / sd, dtype=torch.float32) for part in (train, test))
    unit = 1.0 if name == "airfoil" else float(sd[-1])
    return Split(train[:, :-1], train[:, -1:], test[:, :-1], test[:, -1:], unit)


def network(inputs: int, outputs: int) -> torch.nn.Sequential:
    layers: list[torch.nn.Module] = []
    for size in (16, 16, 16, 16):
        layers += [torch.nn.Linear(inputs, size), torch.nn.Tanh()]
        inputs = size
    return torch.nn.Sequential(*layers, torch.nn.Linear(inputs, outputs))


def posterior(split: Split, method: str, number: int, args: argparse.Namespace, folder: pathlib.Path) -> Posterior:
    """The posterior by one method, from its checkpoint if there is one."""
    constant = args.noise == "constant"
    net = network(split.X.shape[1], 1 if constant else 2)
    likelihood = Gaussian(scale="learned") if constant else HeteroscedasticGaussian()
    model = {"likelihood": likelihood, "prior": 1.0, "seed": number}
    training = QUICK if args.quick else TRAINING
    if method == "ensemble":
        return hnbayes.deep_ensemble(net, split.X, split.y, members=args.members, training=training, **model)
    if any(folder.glob("checkpoint-*")):
        print(f"going on with {folder}")
        return hnbayes.resume(folder, net)
    draws = args.draws
    if method == "mclmc":
        # The squared energy error of a step, as a share of D, from the first to the last transition of warm-up.
        options = {"kernel": MCLMC(num_steps=20, energy_variance=(0.5, 0.1)), "metric": "unit", "thin": 5}
    else:
        # A transition is of 63 gradients at most, one of MCLMC of 40.
        options, draws = {"kernel": NUTS(max_tree_depth=6)}, max(1, draws * 40 // 63)
    return hnbayes.sample(
        net,
        split.X,
        split.y,
        chains=args.members,
        warmup=args.warmup,
        draws=draws,
        init=training,
        cores=args.cores,
        checkpoint=folder,
        checkpoint_every=30.0,
        **options,
        **model,
    )


def scores(found: Posterior, split: Split) -> dict[str, float]:
    """RMSE, and the mean negative log density of a Gaussian with the mixture's moments, and of the mixture itself."""
    table = found.predict(split.X_test, quantiles=())
    mean, sd = table["mean"].to_numpy(), table["sd"].to_numpy()
    residual = split.y_test[:, 0].numpy() - mean
    moments = 0.5 * np.log(2 * np.pi * sd**2) + 0.5 * (residual / sd) ** 2
    log_unit = float(np.log(split.unit))
    return {
        "rmse": float(np.sqrt((residual**2).mean())) * split.unit,
        "nll_moments": float(moments.mean()) + log_unit,
        "nll_mixture": -found.score(split.X_test, split.y_test)["lppd"] + log_unit,
    }


def read(path: pathlib.Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def append(path: pathlib.Path, row: dict[str, object]) -> None:
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if new:
            writer.writeheader()
        writer.writerow(row)


def summary(rows: list[dict[str, str]], name: str) -> None:
    print(f"\n{name}: means over runs")
    print(f"{'method':<10}{'noise':<17}{'runs':>4}{'RMSE':>9}{'NLL (moments)':>15}{'NLL (mixture)':>15}{'s':>7}")
    for method, noise, mine in groups(rows, name):
        rmse, moments, mixture, seconds = (np.mean([float(row[c]) for row in mine]) for c in COLUMNS[5:])
        print(f"{method:<10}{noise:<17}{len(mine):>4}{rmse:>9.4f}{moments:>15.3f}{mixture:>15.3f}{seconds:>7.0f}")


def groups(rows: list[dict[str, str]], name: str) -> list[tuple[str, str, list[dict[str, str]]]]:
    """The rows of each method and kind of noise that has any."""
    found = []
    for method in METHODS:
        for noise in NOISES:
            mine = [row for row in rows if (row["data"], row["method"], row["noise"]) == (name, method, noise)]
            if mine:
                found.append((method, noise, mine))
    return found


def plot(rows: list[dict[str, str]], name: str, path: pathlib.Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5, 3.5), layout="constrained")
    for method, noise, mine in groups(rows, name):
        label = f"{method}, {noise} noise"
        axes.scatter([float(r["rmse"]) for r in mine], [float(r["nll_moments"]) for r in mine], label=label)
    axes.set(xlabel="test RMSE", ylabel="test NLL (moment-matched)", title=f"{name}: lower and further left is better")
    axes.legend()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def main() -> None:
    args = arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    results = args.out / "results.csv"
    for number in range(args.splits):
        split = load(args.data, number)
        for method in args.methods:
            key = (args.data, str(number), method, str(args.members), args.noise)
            if key in {tuple(row[column] for column in COLUMNS[:5]) for row in read(results)}:
                print(f"{args.data} {number} {method}: in {results} already")
                continue
            folder = args.out / "runs" / "-".join(key)
            began = time.perf_counter()
            with warnings.catch_warnings():
                # Chains of different members don't agree; the mixture is judged by its predictions.
                warnings.simplefilter("ignore", hnbayes.SamplingWarning)
                found = posterior(split, method, number, args, folder)
            if found.draws.metadata.get("interrupted"):
                raise SystemExit(f"stopped; the same command goes on with {folder}")
            row = dict(zip(COLUMNS, key, strict=False)) | scores(found, split)
            append(results, row | {"seconds": round(time.perf_counter() - began, 1)})
            shutil.rmtree(folder, ignore_errors=True)
    rows = read(results)
    summary(rows, args.data)
    plot(rows, args.data, args.out / "scores.png")


if __name__ == "__main__":
    main()
