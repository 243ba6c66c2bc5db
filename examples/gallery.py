"""Each picture of hnbayes.plots, made from two small posteriors: a curve with noise, and three classes in the plane.

python examples/gallery.py                          # writes out/gallery/*.png
python examples/gallery.py --out docs/images/gallery    # renews those of the documentation
"""

from __future__ import annotations

import argparse
import pathlib
from typing import Any

import matplotlib
import torch

import hnbayes
from hnbayes import plots

NOISE = 0.3
SIZE, DPI, COLOURS = (5.4, 3.6), 80, 256  # of the pictures, which are to be small files


def curve(draws: int, seed: int) -> tuple[hnbayes.Posterior, torch.Tensor, torch.Tensor]:
    """The posterior of a network of one input, and 40 test points."""
    generator = torch.Generator().manual_seed(seed)
    X = 4 * torch.rand(80, 1, generator=generator) - 2
    X = X[(X < 0.2) | (X > 0.9)][:, None]  # a gap, where the band is to widen
    y = torch.sin(2 * X) + NOISE * torch.randn(X.shape, generator=generator)
    X_test = 4 * torch.rand(40, 1, generator=generator) - 2
    y_test = torch.sin(2 * X_test) + NOISE * torch.randn(X_test.shape, generator=generator)
    net = torch.nn.Sequential(torch.nn.Linear(1, 10), torch.nn.Tanh(), torch.nn.Linear(10, 1))
    options: dict[str, Any] = {
        "prior": 1.0,
        "max_tree_depth": 8,
        "map_steps": 5 * draws,
        "seed": seed,
        "progress": False,
    }
    return hnbayes.sample(net, X, y, warmup=draws, draws=draws, **options), X_test, y_test


def classes(draws: int, seed: int) -> tuple[hnbayes.Posterior, torch.Tensor, torch.Tensor]:
    """The posterior of a network that tells three overlapping clouds apart, and 300 test points."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.tensor([[0.0, 1.0], [-0.9, -0.5], [0.9, -0.5]])
    y = torch.randint(3, (400,), generator=generator)
    X = centres[y] + 0.7 * torch.randn(400, 2, generator=generator)
    net = torch.nn.Sequential(torch.nn.Linear(2, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))
    options: dict[str, Any] = {
        "likelihood": "categorical",
        "max_tree_depth": 6,
        "map_steps": 5 * draws,
        "seed": seed,
        "progress": False,
    }
    post = hnbayes.sample(net, X[:100], y[:100], warmup=draws, draws=draws, **options)
    return post, X[100:], y[100:]


def pictures(out: pathlib.Path, draws: int = 200, seed: int = 0) -> list[pathlib.Path]:
    """Draw them all, each in a file that is called as its function."""
    import matplotlib.pyplot as plt
    from PIL import Image

    post, X_test, y_test = curve(draws, seed)
    grid = torch.linspace(-3, 3, 80)[:, None]
    functions, observed = post.outputs(grid)[..., 0], (post.X, post.y)
    prior_functions = hnbayes.priors.Normal(0.0, 1.0).sample_functions(post.net, grid, 200, seed=seed)[None, ..., 0]
    test = post.predict(X_test)
    low, high = test["quantile"].sel(level=0.05), test["quantile"].sel(level=0.95)
    at_2 = post.outputs(torch.tensor([[2.0]]))[..., 0, 0]
    labels, X_labels, y_labels = classes(draws, seed)
    stats = labels.draws.stats

    def draw(name: str, *arguments: Any, **options: Any) -> pathlib.Path:
        with matplotlib.rc_context({"figure.dpi": DPI}):
            figure, axs = plt.subplots(
                1, 2 if name == "plot_prior_posterior" else 1, figsize=SIZE, layout="constrained"
            )
            options["axs" if name == "plot_prior_posterior" else "ax"] = axs
            getattr(plots, name)(*arguments, **options)
            path = out / f"{name}.png"
            figure.savefig(path)
            plt.close(figure)
        with Image.open(path) as image:
            image.convert("RGB").quantize(COLOURS).save(path, optimize=True)
        return path

    out.mkdir(parents=True, exist_ok=True)
    return [
        draw("plot_band", grid, functions, predictive=post.sample_data(grid)[..., 0], observed=observed),
        draw("plot_prior_posterior", grid, prior_functions, functions, observed=observed),
        draw("plot_predicted", y_test, test["mean"], low, high, label="y"),
        draw("plot_coverage", y_test, post.sample_data(X_test)[..., 0]),
        draw("plot_reliability", y_labels, labels.predict(X_labels)["probability"]),
        draw("plot_trace", at_2, label="prediction at x = 2"),
        draw("plot_ranks", at_2, label="prediction at x = 2"),
        draw("plot_energy", stats["energy"]),
        draw("plot_tree_depth", stats["tree_depth"], stats["reached_max_treedepth"]),
        draw("plot_lppd", post.log_likelihood(X_test, y_test)),
    ]


def main() -> None:
    """Parse the options and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("out/gallery"), help="folder for the PNGs")
    parser.add_argument("--draws", type=int, default=200, help="draws of each chain, after as many of warm-up")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    matplotlib.use("agg")
    for path in pictures(options.out, options.draws, options.seed):
        print(path)


if __name__ == "__main__":
    main()
