"""Where chains start: at draws of the prior, near modes, at the network's own weights, or where the user says."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import vmap

from hnbayes._checks import check_choice, describe
from hnbayes.posterior.model import Model
from hnbayes.posterior.output_layer import WhitenedOutput
from hnbayes.potentials.base import Potential
from hnbayes.priors import Latent
from hnbayes.rng import seeded

INITS = ("map", "prior", "module", "ensemble")
LEARNING_RATE = 0.03
# Distinguishes the randomness of a start from that of the chain, whose streams are (seed, chain).
START_KEY = 1
# An optimiser may go no further than this share of the prior into either tail of a scale.
TAIL = 0.005
# How far starts are from the network's weights if the prior can't be drawn from.
SPREAD = 0.1


def starts(
    model: Model,
    U: Potential,
    init: Any,
    chain_ids: Sequence[int],
    seed: int,
    map_steps: int,
    whitened: WhitenedOutput | None = None,
) -> Tensor:
    """Positions (C, D) on the axes that are sampled.

    Args:
        model: the model.
        U: its potential.
        init: "map", "prior", "module", or a tensor (C, D); "ensemble" is `hnbayes.posterior.ensemble`'s.
        chain_ids: the chains' numbers: chain c starts at a function of (seed, c).
        seed: of the draws.
        map_steps: steps of the optimiser.
        whitened: where the output layer has axes of its own, which U then is a function of.

    Raises:
        TypeError, ValueError: if `init` is none of the above, or "prior" is asked of a prior that can't be drawn from.
    """

    def on_axes(positions: Tensor) -> Tensor:
        return positions if whitened is None else whitened.from_weights(positions)

    if isinstance(init, Tensor):
        return on_axes(_checked(init, model, len(chain_ids)))
    check_choice("init", init, INITS)
    if init == "module":
        position = at_weights(model, model.function.like())
        # With the output layer integrated out where it is whitened.
        return _fit_learned(model, U, on_axes(position.repeat(len(chain_ids), 1)), map_steps)
    rows = [_prior_draw(model, _start_seed(seed, chain), strict=init == "prior") for chain in chain_ids]
    if init == "prior":
        return on_axes(torch.stack(rows))
    # Far from the data's output layer epsilon would be huge: the climb begins near its conditional posterior instead.
    positions = torch.stack(rows) if whitened is None else whitened.standardised(torch.stack(rows))
    return _climb(U, positions, bounds_of(model, seed), map_steps)


def _checked(init: Tensor, model: Model, chains: int) -> Tensor:
    if not init.is_floating_point():
        raise TypeError(f"init must be a floating-point tensor (C, D); received {describe(init)}.")
    if tuple(init.shape) != (chains, model.spec.size):
        raise ValueError(
            f"init must have shape (chains, D) = ({chains}, {model.spec.size}), positions on the unconstrained axes of "
            f"{', '.join(model.spec.names)}; received {tuple(init.shape)}."
        )
    return init.detach().to(model.like)


def _start_seed(seed: int, chain: int) -> int:
    return int(np.random.SeedSequence(seed, spawn_key=(chain, START_KEY)).generate_state(1)[0])


def _prior_draw(model: Model, seed: int, strict: bool) -> Tensor:
    """A draw of the prior as a position (D,); near the network's weights, unless `strict`, if there are no draws."""
    values: dict[str, Tensor] = {}
    with seeded(seed):
        try:
            if model.bound.log_prob_func is not None:
                raise ValueError("it is a function.")
            for latent in model.coordinates.latents:
                values[latent.name] = latent.distribution(values).sample()
            position = model.coordinates.unconstrain(values)
            if not torch.isfinite(position).all():
                raise ValueError("its draws are not finite.")
        except (ValueError, NotImplementedError) as error:
            if strict:
                raise ValueError(
                    f"init='prior' needs a prior that can be drawn from; {model.prior!r} can't: {error} "
                    "Use init='map' or 'module'."
                ) from error
            position = at_weights(model, model.function.like())
            position = position + SPREAD * torch.randn(len(position), dtype=position.dtype).to(position.device)
        return position


def at_weights(model: Model, weights: Mapping[str, Tensor]) -> Tensor:
    """The position (D,) that stands for some weights; learned parameters at the middle of their axes."""
    values = model.bound.values_of(weights)
    middle = model.coordinates.constrain(model.like.new_zeros(model.spec.size))[0]
    return model.coordinates.unconstrain({**values, **{name: middle[name] for name in model.learned}})


@dataclass(frozen=True)
class Bounds:
    """What an optimiser keeps to, each (D,): the size of its steps (0 holds a coordinate), and the ends of its way."""

    scale: Tensor
    low: Tensor
    high: Tensor


def bounds_of(model: Model, seed: int) -> Bounds:
    r"""Steps in proportion to the prior's spread; scales kept within all but the last tails of their priors.

    A mode needs guards that a posterior doesn't: the joint density of weights and a noise scale grows without limit
    where a network interpolates its data, and that of weights and their own scale (the funnel's neck) where both go
    to 0. So a scale stays within its prior's central 99%, and one on which the distribution of weights depends is held.
    """
    spec, held = model.spec, {name for latent in model.coordinates.latents for name in latent.depends}
    scale = model.like.new_ones(spec.size)
    low, high = torch.full_like(scale, -torch.inf), torch.full_like(scale, torch.inf)
    with seeded(_start_seed(seed, 0)):
        for latent in model.coordinates.latents:
            at = slice(spec.indices(latent.name).start, spec.indices(latent.name).stop)
            if latent.name in held:
                scale[at] = 0.0
            elif (draws := _draws(model, latent)) is not None:
                scale[at] = draws.std().clamp(1e-3, 10.0)
                if not model.coordinates.is_real(latent):
                    low[at], high[at] = draws.quantile(TAIL), draws.quantile(1 - TAIL)
    return Bounds(scale, low, high)


def _draws(model: Model, latent: Latent) -> Tensor | None:
    """About a thousand draws of a latent's numbers on the unconstrained axis; None if it has no draws of its own."""
    if latent.depends:
        return None
    distribution = latent.distribution({})
    try:
        draws = distribution.sample(torch.Size((max(2, 1000 // max(1, math.prod(latent.shape))),)))
    except (ValueError, NotImplementedError):
        return None
    free = vmap(lambda value: model.coordinates.unconstrain_one(latent, value))(draws).reshape(-1)[:100_000]
    return free if bool(torch.isfinite(free).all()) else None


def _fit_learned(model: Model, U: Potential, positions: Tensor, steps: int) -> Tensor:
    """Positions with the likelihood's parameters fitted, and the weights where they were."""
    if not model.learned:
        return positions
    bounds = bounds_of(model, 0)
    scale = torch.zeros_like(bounds.scale)
    for name in model.learned:
        at = model.spec.indices(name)
        scale[at.start : at.stop] = 1.0
    return _climb(U, positions, Bounds(scale, bounds.low, bounds.high), min(steps, 300))


def _climb(U: Potential, positions: Tensor, bounds: Bounds, steps: int) -> Tensor:
    """Towards a mode of each chain by Adam, all in one batch; the best position on each way."""
    if steps == 0:
        return positions
    start = positions.clamp(bounds.low, bounds.high)
    moved = torch.zeros_like(start, requires_grad=True)  # in units of the prior's spread
    optimizer = torch.optim.Adam([moved], lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    best, lowest = start.clone(), torch.full_like(start[:, 0], torch.inf)
    for _ in range(steps):
        with torch.no_grad():
            here = (start + bounds.scale * moved).clamp(bounds.low, bounds.high)
        values, gradients = U.value_and_grad(here)
        better = values < lowest
        best[better], lowest[better] = here[better], values[better]
        moved.grad = torch.nan_to_num(gradients * bounds.scale, 0.0, 0.0, 0.0)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            # Back to the bounds, lest what lies beyond them has to be undone first.
            inside = (start + bounds.scale * moved).clamp(bounds.low, bounds.high)
            moved.copy_(torch.where(bounds.scale > 0, (inside - start) / bounds.scale.clamp_min(1e-12), 0.0))
    return best
