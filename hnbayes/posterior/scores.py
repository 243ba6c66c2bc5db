"""Scores of predictions against data."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hnbayes.posterior import summaries
from hnbayes.posterior.forward import Forward

Array = NDArray[Any]
CALIBRATION_BINS = 15
CRPS_SAMPLES = 4000


def score(
    forward: Forward, X: Tensor, y: Tensor, task: str, level: float, seed: int, weights: Tensor | None = None
) -> dict[str, float]:
    """Scores, means over the data; see `Posterior.score`. Weights are of draws, (M,)."""
    rows: dict[str, list[Array]] = {}
    for number, (block, outputs) in enumerate(forward.blocks(X)):
        data = y[block]
        found = {"lppd": lppd(forward.log_prob(outputs, data), weights)}
        distribution = forward.distribution(outputs)
        if task == "classification":
            found |= {
                "probability": summaries.average(summaries.class_probabilities(distribution), weights).cpu().numpy()
            }
        else:
            found |= _numbers(distribution, data, level, seed + number, weights)
        for name, values in found.items():
            rows.setdefault(name, []).append(values)
    columns = {name: np.concatenate(values) for name, values in rows.items()}
    if task == "classification":
        truth = y.cpu().numpy()
        probabilities = as_categories(columns.pop("probability"), truth)
        return {
            "accuracy": float((probabilities.argmax(-1) == truth).mean()),
            "lppd": float(columns["lppd"].mean()),
            "brier": brier(probabilities, truth),
            "ece": calibration_error(probabilities, truth),
        }
    return {
        "rmse": math.sqrt(float(columns["square"].mean())),
        "lppd": float(columns["lppd"].mean()),
        "crps": float(columns["crps"].mean()),
        "coverage": float(columns["covered"].mean()),
        "interval_width": float(columns["width"].mean()),
    }


def _numbers(distribution: Any, y: Tensor, level: float, seed: int, weights: Tensor | None) -> dict[str, Array]:
    truth = y.double().cpu().numpy()
    tails = (0.5 * (1 - level), 0.5 * (1 + level))
    low, high = summaries.quantiles(distribution, tails, seed, weights)
    samples = summaries.draw(distribution, seed, CRPS_SAMPLES, weights).double().cpu().numpy()
    return {
        "square": np.square(summaries.average(distribution.mean.double(), weights).cpu().numpy() - truth),
        "crps": crps(samples, truth),
        "covered": (low <= truth) & (truth <= high),
        "width": high - low,
    }


def lppd(log_likelihood: Tensor, weights: Tensor | None = None) -> Array:
    """The log of the mean density of each data point, (N,), from log densities (M, N) and weights (M,)."""
    if weights is None:
        total = torch.logsumexp(log_likelihood.double(), 0) - math.log(len(log_likelihood))
    else:
        total = torch.logsumexp(log_likelihood.double() + weights.double().log()[:, None], 0)
    result: Array = total.cpu().numpy()
    return result


def crps(samples: Array, truth: Array) -> Array:
    r"""The continuous ranked probability score of each number, \(E|X - y| - \frac12 E|X - X'|\).

    Gneiting and Raftery (2007), eq. 21. The second expectation is over pairs of different draws, so it is unbiased.

    Args:
        samples: draws of the predictive distribution (n, ...).
        truth: what was observed (...).
    """
    n = len(samples)
    ranks = (2 * np.arange(1, n + 1) - n - 1).reshape(-1, *[1] * truth.ndim)
    gaps = 2 * (ranks * np.sort(samples, axis=0)).sum(0) / (n * (n - 1)) if n > 1 else 0.0
    result: Array = np.abs(samples - truth).mean(0) - 0.5 * gaps
    return result


def as_categories(probabilities: Array, truth: Array) -> Array:
    """Probabilities of all classes in the last dimension, from those, or from the probability of 1."""
    if probabilities.ndim > truth.ndim:
        return probabilities
    return np.stack([1 - probabilities, probabilities], axis=-1)


def brier(probabilities: Array, truth: Array) -> float:
    """The mean over data of the sum over classes of (p - [class observed])^2 (Brier 1950).

    Args:
        probabilities: (..., K).
        truth: labels (...).
    """
    observed = np.eye(probabilities.shape[-1])[truth.astype(int)]
    return float(np.square(probabilities - observed).sum(-1).mean())


def calibration_error(probabilities: Array, truth: Array, bins: int = CALIBRATION_BINS) -> float:
    """The expected calibration error of the likeliest class, over bins of equal width (Guo et al. 2017, eq. 3).

    Args:
        probabilities: (..., K).
        truth: labels (...).
        bins: how many.
    """
    confidence = probabilities.max(-1).reshape(-1)
    right = (probabilities.argmax(-1) == truth).reshape(-1)
    bin_of = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gap = np.bincount(bin_of, confidence - right, bins)
    return float(np.abs(gap).sum() / len(confidence))
