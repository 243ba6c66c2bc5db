"""What bnn_regression.py reports: scores, convergence of the predictions, a summary and three pictures."""

from __future__ import annotations

import csv
import math
import pathlib
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np

import hnbayes

matplotlib.use("Agg")
import matplotlib.pyplot as plt

BLUE, ORANGE, GREY = "#0072B2", "#E69F00", "#666666"  # Okabe and Ito's colours, told apart by the colour-blind
LOG_2PI = math.log(2 * math.pi)


@dataclass(frozen=True)
class Forecast:
    """Predictive distributions of N targets.

    Attributes:
        mean: (N,).
        sd: (N,).
        draws: draws of each target, (S, N), if the distribution is no Gaussian.
        components: means (S, N) and standard deviations (S, 1) of the Gaussians that it is a mixture of.
    """

    mean: np.ndarray
    sd: np.ndarray
    draws: np.ndarray | None = None
    components: tuple[np.ndarray, np.ndarray] | None = None

    def interval(self, level: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
        """Ends of the central interval, (N,) each."""
        tail = (1 - level) / 2
        if self.draws is not None:
            low, high = np.quantile(self.draws, [tail, 1 - tail], axis=0)
            return low, high
        half = 1.6448536269514722 * self.sd  # the 95% quantile of N(0, 1): the level is 0.9
        return self.mean - half, self.mean + half

    def scores(self, truth: np.ndarray) -> tuple[float, float, float]:
        """Root mean squared error, mean negative log density, and coverage of the 90% interval."""
        rmse = math.sqrt(np.mean((self.mean - truth) ** 2))
        means, sds = self.components or (self.mean[None], self.sd[None])
        log_densities = -0.5 * ((truth - means) / sds) ** 2 - np.log(sds) - 0.5 * LOG_2PI
        nll = -np.mean(np.logaddexp.reduce(log_densities, axis=0) - math.log(len(log_densities)))
        low, high = self.interval()
        return rmse, float(nll), float(np.mean((low <= truth) & (truth <= high)))


def mixture_forecast(predictions: np.ndarray, noise: np.ndarray) -> Forecast:
    """The posterior predictive distribution.

    Args:
        predictions: of each draw, (C, S, N).
        noise: standard deviation of each draw, (C, S).
    """
    means, sds = predictions.reshape(-1, predictions.shape[-1]), noise.reshape(-1, 1)
    draws = means + sds * np.random.default_rng(0).standard_normal(means.shape)
    sd = np.sqrt(means.var(0) + np.mean(sds**2))
    return Forecast(means.mean(0), sd, draws, (means, sds))


def convergence(predictions: np.ndarray, noise: np.ndarray, draws: hnbayes.Draws) -> str:
    """R-hat and effective sample sizes of predictions and noise, and what the sampler reports, as text."""
    import arviz as az

    dataset = az.convert_to_dataset({"prediction": predictions, "noise": noise})
    rhat, ess = az.rhat(dataset), az.ess(dataset)
    r, e = rhat["prediction"].values, ess["prediction"].values
    stats = draws.stats
    energy = stats["energy"].numpy()
    bfmi = hnbayes.diagnostics.bfmi(energy)
    gradients = int(stats["n_steps"].sum())
    return (
        f"R-hat of predictions: worst {r.max():.3f}, median {np.median(r):.3f}; of the noise "
        f"{float(rhat['noise']):.3f}\n"
        f"ESS of predictions: worst {e.min():.0f}, median {np.median(e):.0f}; of the noise {float(ess['noise']):.0f}\n"
        f"{int(stats['diverging'].sum())} divergences, lowest E-BFMI {bfmi.min():.2f}, {gradients:,} gradients after "
        f"warm-up, mean tree depth {float(stats['tree_depth'].double().mean()):.1f}\n" + verdict(float(r.max()))
    )


def verdict(worst: float) -> str:
    """What the worst R-hat of the predictions means."""
    if worst <= 1.05:
        return "the chains agree about the function"
    if worst <= 1.2:
        return "the chains nearly agree about the function: fine for predictions, run longer for tails"
    return (
        "the chains have not found each other yet: the mixture still predicts well, but run longer to trust its spread"
    )


def save_summary(path: pathlib.Path, predictions: np.ndarray, noise: np.ndarray) -> None:
    """Mean, sd, quantiles, R-hat and ESS of the noise and of each test point's prediction, as CSV."""
    import arviz as az

    names = ["noise_sd", *(f"prediction[{i}]" for i in range(predictions.shape[-1]))]
    values = np.concatenate([noise[..., None], predictions], axis=-1)
    dataset = az.convert_to_dataset({"x": values})
    columns = {
        "mean": values.mean((0, 1)),
        "sd": values.std((0, 1)),
        "q05": np.quantile(values, 0.05, axis=(0, 1)),
        "q95": np.quantile(values, 0.95, axis=(0, 1)),
        "r_hat": az.rhat(dataset)["x"].values,
        "ess_bulk": az.ess(dataset)["x"].values,
        "ess_tail": az.ess(dataset, method="tail")["x"].values,
    }
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["quantity", *columns])
        for name, *row in zip(names, *columns.values(), strict=True):
            writer.writerow([name, *(f"{value:.5g}" for value in row)])


def save_plots(
    out: pathlib.Path,
    idata: Any,
    predictions: np.ndarray,
    noise: np.ndarray,
    forecast: Forecast,
    truth: np.ndarray,
    y_mean: float,
    y_sd: float,
    target: str,
) -> None:
    """Draw trace.png, energy.png and predictive.png."""
    _trace(out / "trace.png", predictions * y_sd + y_mean, noise * y_sd, truth, target)
    _energy(out / "energy.png", idata)
    low, high = (end * y_sd + y_mean for end in forecast.interval())
    _predictive(out / "predictive.png", forecast.mean * y_sd + y_mean, low, high, truth, target)


def _trace(path: pathlib.Path, predictions: np.ndarray, noise: np.ndarray, truth: np.ndarray, target: str) -> None:
    """Noise and the predictions at the test points where the chains agree best, median and worst."""
    between = predictions.mean(1).std(0) / predictions.std((0, 1))
    order = np.argsort(between)
    points = [order[0], order[len(order) // 2], order[-1]]
    figure, axes = plt.subplots(4, 2, figsize=(10, 9), width_ratios=[1, 3], layout="constrained")
    titles = ["noise sd", *(f"prediction, {kind} agreement" for kind in ("best", "median", "worst"))]
    for row, (title, values) in enumerate(zip(titles, [noise, *(predictions[..., p] for p in points)], strict=True)):
        for chain, series in enumerate(values):
            colour = plt.get_cmap("viridis")(chain / max(len(values) - 1, 1) * 0.9)
            axes[row, 0].hist(series, bins=25, histtype="step", density=True, color=colour)
            axes[row, 1].plot(series, color=colour, linewidth=0.8, label=f"chain {chain}")
        axes[row, 0].set_title(title, fontsize=10)
        axes[row, 0].set_yticks([])
        if row:
            axes[row, 1].axhline(truth[points[row - 1]], color=ORANGE, linestyle="--", linewidth=1.2, label="observed")
        axes[row, 1].set_ylabel(target if row else "")
    axes[3, 1].set_xlabel("draw")
    axes[3, 1].legend(ncols=5, fontsize=8, loc="upper center", bbox_to_anchor=(0.4, -0.22), frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _energy(path: pathlib.Path, idata: Any) -> None:
    """Energies of the draws beside their changes: where the second are much narrower, chains explore slowly."""
    energy = idata["sample_stats"]["energy"].values
    figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
    bins = np.linspace(-4, 4, 50) * energy.std()
    ax.hist((energy - energy.mean()).ravel(), bins, density=True, color=BLUE, alpha=0.6, label="energy, less its mean")
    ax.hist(np.diff(energy).ravel(), bins, density=True, color=ORANGE, alpha=0.6, label="change from draw to draw")
    bfmi = hnbayes.diagnostics.bfmi(energy)
    ax.set_title("E-BFMI of the chains: " + ", ".join(f"{value:.2f}" for value in bfmi), fontsize=10)
    ax.set_xlabel("energy")
    ax.set_ylabel("density")
    ax.legend(frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _predictive(
    path: pathlib.Path, mean: np.ndarray, low: np.ndarray, high: np.ndarray, truth: np.ndarray, target: str
) -> None:
    """Test points: prediction with its 90% band against the observed value."""
    inside = (low <= truth) & (truth <= high)
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6), width_ratios=[1, 1.5], layout="constrained")
    for mask, colour, label in ((inside, BLUE, "observed within the band"), (~inside, ORANGE, "outside")):
        errors = [mean[mask] - low[mask], high[mask] - mean[mask]]
        left.errorbar(
            truth[mask], mean[mask], errors, fmt="o", markersize=2.5, linewidth=0.6, color=colour, label=label
        )
    ends = [min(truth.min(), low.min()), max(truth.max(), high.max())]
    left.plot(ends, ends, color=GREY, linewidth=1)
    left.set(xlabel=f"observed {target}", ylabel="predicted, 90% band", xlim=ends, ylim=ends)
    left.legend(frameon=False, fontsize=8)
    order = np.argsort(mean)
    rank = np.arange(len(order))
    right.fill_between(rank, low[order], high[order], color=BLUE, alpha=0.3, linewidth=0, label="90% band")
    right.plot(rank, mean[order], color=BLUE, linewidth=1.2, label="predicted")
    right.scatter(rank, truth[order], s=7, color=np.where(inside[order], GREY, ORANGE), zorder=3, label="observed")
    right.set(xlabel="test points in the order of their prediction", ylabel=target)
    right.set_title(f"{inside.mean():.0%} of {len(truth)} test points lie within their 90% band", fontsize=10)
    right.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)
