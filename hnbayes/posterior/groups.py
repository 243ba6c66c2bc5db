"""A posterior as ArviZ data, with all groups that its statistics and plots ask for."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import vmap

from hnbayes import inference_data
from hnbayes._checks import check_count
from hnbayes.posterior import summaries
from hnbayes.posterior.data import as_inputs
from hnbayes.posterior.forward import Forward
from hnbayes.posterior.posterior import MEMORY_LIMIT, Posterior
from hnbayes.priors import Latent
from hnbayes.rng import seeded
from hnbayes.sampling import Draws

DATA = "y"


@torch.no_grad()
def to_inference_data(
    posterior: Posterior,
    *,
    predictions: Any = None,
    log_likelihood: bool = True,
    predictive: bool = True,
    prior_draws: int = 500,
    save_warmup: bool = True,
    seed: int = 0,
    coords: Mapping[str, Any] | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
    attrs: Mapping[str, Any] | None = None,
    groups: Mapping[str, Any] | None = None,
) -> Any:
    """Hand a posterior to ArviZ.

    The groups: `posterior` (weights, hyperparameters and parameters of the likelihood under their names, each on its
    own scale), `sample_stats`, `log_likelihood`, `log_prior` (the sum over all parameters), `posterior_predictive`,
    `prior` and `prior_predictive` (none if the prior can't be drawn from), `observed_data`, `constant_data`,
    `predictions` and `predictions_constant_data`, `warmup_posterior` and `warmup_sample_stats`. The data are called
    "y", with the dimension `point`, and inputs "X". Groups of data that would take more than 2 GiB are left out, with
    a warning.

    Args:
        posterior: what `hnbayes.sample` returned.
        predictions: new inputs, for draws of their data.
        log_likelihood: whether to compute it.
        predictive: whether to draw data at the inputs that were sampled with.
        prior_draws: how many draws of the prior; 0 for none.
        save_warmup: whether warm-up draws, where they were kept, are included.
        seed: of draws of data and prior.
        coords: see `hnbayes.to_inference_data`, as for the rest.
        dims: names of dimensions.
        attrs: more attributes.
        groups: more groups.

    Returns:
        `arviz.InferenceData` where ArviZ 0.x is installed, `xarray.DataTree` where it is 1.x.

    Raises:
        TypeError, ValueError: if an argument is none of the above.
    """
    prior_draws, seed = check_count("prior_draws", prior_draws, 0), check_count("seed", seed, 0)
    found: dict[str, Any] = {"log_prior": {"log_prior": posterior.log_prior()}}
    data = _single(posterior.y, 1)
    found["observed_data"] = {DATA: data}
    found["constant_data"] = {"X": _numbers(posterior.X)}
    bytes_a_draw = 8 * data.size
    if (log_likelihood or predictive) and not posterior.fits(bytes_a_draw):
        warnings.warn(
            "the groups log_likelihood and posterior_predictive would take more than 2 GiB each and are left out.",
            UserWarning,
            stacklevel=3,
        )
        log_likelihood = predictive = False
    if log_likelihood:
        found["log_likelihood"] = {DATA: posterior.log_likelihood()}
    if predictive:
        found["posterior_predictive"] = {DATA: _single(posterior.sample_data(posterior.X, seed=seed), 3)}
    if prior_draws:
        found |= _of_prior(posterior, prior_draws, seed)
    if predictions is not None:
        new = as_inputs(predictions, posterior.model.like)
        found["predictions"] = {DATA: _single(posterior.sample_data(new, seed=seed), 3)}
        found["predictions_constant_data"] = {"X": _numbers(new)}
    named = {"X": ["point", *[f"feature_{i}" if i else "feature" for i in range(posterior.X.ndim - 1)]]}
    named[DATA] = ["point", *[f"output_{i}" if i else "output" for i in range(data.ndim - 1)]]
    return inference_data.to_inference_data(
        own_scale(posterior),
        save_warmup=save_warmup,
        groups={**found, **(groups or {})},
        dims={**named, **(dims or {})},
        coords=coords,
        attrs={"likelihood": repr(posterior.model.likelihood), "prior": repr(posterior.model.prior), **(attrs or {})},
    )


def own_scale(posterior: Posterior) -> Draws:
    """The draws with weights and parameters on their own scales in place of unconstrained positions."""
    model, draws = posterior.model, posterior.draws
    spec = model.named

    def converted(positions: Tensor) -> Tensor:
        flat = positions.reshape(-1, positions.shape[-1]).to(model.like.device)
        reported = spec.flatten(model.reported(flat)).cpu()
        return reported.reshape(*positions.shape[:-1], spec.size)

    warmup = draws.warmup_positions
    if warmup is not None:
        warmup = converted(warmup) if warmup.shape[1] else warmup.new_empty(*warmup.shape[:2], spec.size)
    return dataclasses.replace(
        draws, positions=converted(draws.positions), warmup_positions=warmup, spec=spec, ragged_positions=None
    )


def _of_prior(posterior: Posterior, count: int, seed: int) -> dict[str, Any]:
    """Draws of the prior and of data under it, as one chain; empty if there are none to be had."""
    model = posterior.model
    try:
        values = model.bound.sample(count, seed)
    except (ValueError, NotImplementedError):
        return {}
    values |= _learned_draws(model.learned, count, seed + 1)
    positions = vmap(model.coordinates.unconstrain)(values)
    reported = {name: value[None].cpu() for name, value in model.reported(positions).items()}
    forward = Forward(model, positions, MEMORY_LIMIT)
    parts = [
        summaries.draw(forward.distribution(outputs), seed + number)
        for number, (_, outputs) in enumerate(forward.blocks(posterior.X))
    ]
    return {"prior": reported, "prior_predictive": {DATA: _single(torch.cat(parts, 1)[None].cpu(), 3)}}


def _learned_draws(learned: Mapping[str, Latent], count: int, seed: int) -> dict[str, Tensor]:
    with seeded(seed):
        return {name: latent.distribution({}).sample(torch.Size((count,))) for name, latent in learned.items()}


def _single(data: Tensor, leading: int) -> NDArray[Any]:
    """Data without the dimension of a single output after their `leading` ones."""
    if data.ndim == leading + 1 and data.shape[-1] == 1:
        data = data[..., 0]
    return _numbers(data)


def _numbers(tensor: Tensor) -> NDArray[Any]:
    array: NDArray[Any] = tensor.detach().cpu().numpy()
    return array
