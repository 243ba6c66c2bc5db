"""The parts of a model's potential, from which compiled code evaluates it where the network is a dense one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hnbayes.likelihoods import Bernoulli, Categorical, Gaussian, Likelihood
from hnbayes.likelihoods.gaussian import HALF_LOG_2PI
from hnbayes.posterior.coordinates import Coordinates
from hnbayes.potentials.dense import Loss, Normal, Parts
from hnbayes.priors import BoundPrior, Latent

LOSSES: dict[type[Likelihood], Loss] = {Gaussian: "squares", Categorical: "categorical", Bernoulli: "bernoulli"}


def potential_parts(
    bound: BoundPrior,
    learned: Sequence[Latent],
    likelihood: Likelihood,
    outputs: Callable[[Tensor], Tensor],
    X: Tensor,
    y: Tensor,
    like: Tensor,
) -> Parts | None:
    """U = -log p(position) - log p(y | outputs), taken apart; None for other likelihoods than these.

    Args:
        bound: the prior of the weights, whose latents come first in a position.
        learned: the likelihood's parameters, which come last.
        likelihood: of the data.
        outputs: the network's outputs for X, from a position (D,).
        X: inputs (N, ...).
        y: data as the likelihood takes them.
        like: a tensor of the dtype and device of positions.
    """
    loss = LOSSES.get(type(likelihood))
    if loss is None or (isinstance(likelihood, Gaussian) and likelihood.scale.shape):
        return None
    if y.is_floating_point() and loss != "categorical":
        y = y.to(like.dtype)
    scale = likelihood.scale if isinstance(likelihood, Gaussian) else None
    count = y.numel()

    factor, constant = 1.0, 0.0
    if scale is not None and not scale.learned:
        sigma = float(scale.fixed)  # type: ignore[arg-type]
        factor, constant = sigma**-2, count * (math.log(sigma) + HALF_LOG_2PI)

    def data_energy(value: Tensor, values: dict[str, Tensor]) -> Tensor:
        """-log p(y | outputs) from the loss."""
        if scale is None or not scale.learned:
            return value * factor + constant
        return value * values["sigma"].pow(-2) + count * values["sigma"].log() + count * HALF_LOG_2PI

    of_weights = Coordinates(bound.latents, like)
    moments = of_weights.moments() if bound.log_prob_func is None else None
    if moments is None:
        everything, weights = Coordinates((*bound.latents, *learned), like), sum(map(math.prod, bound.shapes.values()))

        def rest(q: Tensor, value: Tensor) -> Tensor:
            log_prior, values = everything.log_prob(q)
            if bound.log_prob_func is not None:
                log_prior = log_prior + bound.log_prob_func(q[:weights])
            return data_energy(value, values) - log_prior

        return Parts(outputs, X, y, loss, rest=rest)

    mean, precision, log_constant = moments
    if not learned:
        return Parts(outputs, X, y, loss, factor, constant - log_constant, Normal(mean, precision))
    small = Coordinates(learned, like)

    def rest_of_few(theta: Tensor, value: Tensor) -> Tensor:
        log_prior, values = small.log_prob(theta)
        return data_energy(value, values) - log_prior - log_constant

    zeros = like.new_zeros(small.spec.size)
    normal = Normal(torch.cat((mean, zeros)), torch.cat((precision, zeros)))
    return Parts(outputs, X, y, loss, normal=normal, rest=rest_of_few, rest_from=of_weights.spec.size)
