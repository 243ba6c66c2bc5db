"""Bias of minibatch samplers against their step size, on a conjugate linear regression.

    python tests/benchmarks/bench_minibatch.py        # prints a table, writes out/minibatch_bias.png
    python tests/benchmarks/bench_minibatch.py --quick

The posterior is known: 100 data, 3 weights, noise of variance 1. Each run begins at exact draws of it. What is printed
is the variance of the draws beside the posterior's, the mean over the weights, for batches of 20 and of all data. The
steps of SGHMC are given as those of SGLD that go as far, 2 epsilon / friction.
"""

from __future__ import annotations

import argparse
import pathlib

import torch

import hnbayes
from hnbayes.likelihoods import Gaussian

DATA, WEIGHTS, FRICTION = 100, 3, 0.1


def main() -> None:
    """Run, print, plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("out"))
    parser.add_argument("--quick", action="store_true", help="two step sizes, few draws")
    args = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(DATA, WEIGHTS, dtype=torch.float64, generator=generator)
    truth = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    y = (X @ truth)[:, None] + torch.randn(DATA, 1, dtype=torch.float64, generator=generator)
    covariance = torch.linalg.inv(X.T @ X + torch.eye(WEIGHTS))
    mean = covariance @ X.T @ y[:, 0]
    chains = 64 if args.quick else 400
    z = torch.randn(chains, WEIGHTS, dtype=torch.float64, generator=generator)
    start = mean + z @ torch.linalg.cholesky(covariance).T
    steps = [1e-3, 8e-3] if args.quick else [2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3, 8e-3]
    net = torch.nn.Linear(WEIGHTS, 1, bias=False).double()
    table: dict[tuple[str, int], list[float]] = {}
    for kernel in ("sgld", "sghmc"):
        for batch in (20, DATA):
            for step in steps:
                found = hnbayes.sample_minibatch(
                    net,
                    X,
                    y,
                    likelihood=Gaussian(1.0),
                    kernel=kernel,
                    step_size=step if kernel == "sgld" else 0.5 * FRICTION * step,
                    batch_size=batch,
                    init=start,
                    chains=chains,
                    warmup=100 if args.quick else 300,
                    draws=100 if args.quick else 600,
                    thin=5,
                    seed=0,
                    progress=False,
                )
                ratio = found.draws.positions.var((0, 1)) / covariance.diagonal()
                table.setdefault((kernel, batch), []).append(float(ratio.mean()))
    print("variance beside the posterior's\n" + f"{'step size':<22}" + "".join(f"{step:>9.2g}" for step in steps))
    for (kernel, batch), ratios in table.items():
        print(f"{kernel + ', batches of ' + str(batch):<22}" + "".join(f"{ratio:>9.3f}" for ratio in ratios))
    plot(steps, table, args.out)


def plot(steps: list[float], table: dict[tuple[str, int], list[float]], folder: pathlib.Path) -> None:
    """Draw the table."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    figure, axes = pyplot.subplots(figsize=(5, 3.2), layout="constrained")
    for (kernel, batch), ratios in table.items():
        label = f"{kernel}, {'all data' if batch == DATA else f'batches of {batch}'}"
        axes.plot(steps, ratios, "o-" if batch != DATA else "o--", label=label)
    axes.axhline(1.0, color="black", linewidth=0.8)
    axes.set(xscale="log", xlabel="step size, as that of SGLD", ylabel="variance / posterior's")
    axes.set_xticks(steps, [f"{step:g}" for step in steps], fontsize=8)
    axes.minorticks_off()
    axes.legend(fontsize=8)
    figure.savefig(folder / "minibatch_bias.png", dpi=80)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
