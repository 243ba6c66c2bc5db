r"""Summaries of the posterior predictive distribution, the mixture of the draws' distributions of the data.

With M draws of weights, \(p(y) = \frac1M \sum_m p(y \mid f(x, w_m))\). Its variance is the sum of the mean of the
draws' variances (the noise) and the variance of the draws' means (what is not known of the weights).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Distribution

from hnbayes.posterior.forward import base_of
from hnbayes.rng import seeded

Array = NDArray[Any]
# Enough that the Monte Carlo error of a 5% quantile is 2% of a standard deviation.
ENOUGH_SAMPLES = 10_000
# Halvings of a quantile's bracket: down to the dtype's own precision.
BISECTIONS = {torch.float32: 26, torch.float64: 50}


def average(values: Tensor, weights: Tensor | None) -> Tensor:
    """The mean over the first dimension, M, with weights (M,) of sum 1; None weighs all alike."""
    if weights is None:
        return values.mean(0)
    return torch.tensordot(weights.to(values), values, dims=1)


def variance(values: Tensor, weights: Tensor | None) -> Tensor:
    """The variance over the first dimension, likewise."""
    if weights is None:
        return values.var(0, correction=0)
    return average((values - average(values, weights)).square(), weights)


def moments(distribution: Any, weights: Tensor | None = None) -> dict[str, Array]:
    """Mean, sd, and its parts sd_noise and sd_weights.

    Args:
        distribution: batch shape (M, B).
        weights: of the components, (M,); None weighs all alike.

    Returns:
        Name -> (B, *event).
    """
    means, variances = distribution.mean.double(), distribution.variance.double()
    noise, unknown = average(variances, weights), variance(means, weights)
    return {
        "mean": average(means, weights).cpu().numpy(),
        "sd": (noise + unknown).sqrt().cpu().numpy(),
        "sd_noise": noise.sqrt().cpu().numpy(),
        "sd_weights": unknown.sqrt().cpu().numpy(),
    }


def class_probabilities(distribution: Distribution) -> Tensor:
    """Of each draw, the probability of each class (M, B, K), or of 1 (M, B, ...)."""
    probabilities: Tensor = base_of(distribution).probs
    return probabilities.double()


def classes(distribution: Distribution, weights: Tensor | None = None) -> dict[str, Array]:
    """Class probabilities and what is uncertain of them.

    `entropy` is that of the mean probabilities in nats, `mutual_information` the part of it that comes from the weights
    (Depeweg et al. 2018), `label` the likeliest class.
    """
    each = class_probabilities(distribution)
    mean = average(each, weights)
    noise, unknown = average(each * (1 - each), weights), variance(each, weights)
    binary = not isinstance(base_of(distribution), torch.distributions.Categorical)
    total, single = _entropy(mean, binary), average(_entropy(each, binary), weights)
    label = (mean > 0.5).long() if binary else mean.argmax(-1)
    return {
        "probability": mean.cpu().numpy(),
        "sd": (noise + unknown).sqrt().cpu().numpy(),
        "sd_noise": noise.sqrt().cpu().numpy(),
        "sd_weights": unknown.sqrt().cpu().numpy(),
        "label": label.cpu().numpy(),
        "entropy": total.cpu().numpy(),
        "mutual_information": (total - single).clamp_min(0).cpu().numpy(),
    }


def _entropy(p: Tensor, binary: bool) -> Tensor:
    terms = -torch.xlogy(p, p)
    return terms - torch.xlogy(1 - p, 1 - p) if binary else terms.sum(-1)


def quantiles(distribution: Distribution, levels: Sequence[float], seed: int, weights: Tensor | None = None) -> Array:
    """Quantiles of the mixture, of each number of a datum by itself.

    By bisection of its distribution function where torch knows that of the components, else from draws.

    Args:
        distribution: batch shape (M, B).
        levels: between 0 and 1.
        seed: of the draws.
        weights: of the components, (M,); None weighs all alike.

    Returns:
        (levels, B, *event).
    """
    base = base_of(distribution)
    try:
        return np.stack([_bisect(base, level, weights).cpu().numpy() for level in levels])
    except NotImplementedError:
        samples = draw(distribution, seed, ENOUGH_SAMPLES, weights).cpu().numpy()
        method: Any = "inverted_cdf" if base.support.is_discrete else "linear"
        result: Array = np.quantile(samples, np.asarray(levels), axis=0, method=method)
        return result


def draw(distribution: Distribution, seed: int, least: int = 1, weights: Tensor | None = None) -> Tensor:
    """Draws of the data, equally many of each component, or in proportion to weights, and at least so many.

    Returns:
        (R * M, B, *event) for a whole R.
    """
    count = distribution.batch_shape[0]
    repeats = math.ceil(least / count)
    if weights is None:
        with seeded(seed):
            samples: Tensor = distribution.sample(torch.Size((repeats,)))
        return samples.flatten(0, 1)
    ends = torch.floor(weights.double().cumsum(0) * (repeats * count) + 0.5)
    ends[-1] = repeats * count
    shares = torch.diff(ends, prepend=ends.new_zeros(1)).long()
    with seeded(seed):
        samples = distribution.sample(torch.Size((int(shares.max()),)))
    taken = torch.arange(len(samples), device=shares.device)[:, None] < shares
    return samples[taken]


def _bisect(base: Any, level: float, weights: Tensor | None) -> Tensor:
    """Where the mean of the components' distribution functions is `level`: between their own quantiles."""
    shape = tuple(base.batch_shape)
    single = base.icdf(torch.full(shape, level, dtype=base.mean.dtype, device=base.mean.device))
    low, high = single.amin(0), single.amax(0)
    for _ in range(BISECTIONS[single.dtype]):
        middle = 0.5 * (low + high)
        below = average(base.cdf(middle.expand(shape)), weights) < level
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (0.5 * (low + high)).double()
