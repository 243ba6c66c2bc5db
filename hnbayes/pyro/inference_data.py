"""A run of a Pyro model in ArviZ's format, with all groups that the model can give."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.infer.mcmc.api import MCMC
from torch import Tensor

from hnbayes import inference_data
from hnbayes._checks import check_count, describe
from hnbayes.params import ParamSpec
from hnbayes.pyro.model_potential import own_randomness
from hnbayes.pyro.per_draw import GivenModel, evaluate, is_deterministic, is_random, plate_dims, repeat
from hnbayes.pyro.runner import VectorizedMCMC
from hnbayes.rng import resolve_seed
from hnbayes.sampling.draws import Draws

Groups = dict[str, dict[str, Any]]


def to_inference_data(
    mcmc: Any,
    *,
    log_likelihood: bool = True,
    posterior_predictive: bool = True,
    prior: int = 500,
    seed: int | None = None,
    coords: Mapping[str, Any] | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
    attrs: Mapping[str, Any] | None = None,
    groups: Mapping[str, Any] | None = None,
) -> Any:
    """Hand a run of a Pyro model to ArviZ.

    The groups are `posterior` (on the sites' own scales, deterministic sites included), `sample_stats`,
    `observed_data`, and, where the model can give them, `log_likelihood` (of each datum), `posterior_predictive`,
    `prior` and `prior_predictive`; with `save_warmup=True` of the run also `warmup_posterior` and
    `warmup_sample_stats`. Dimensions have the names of the model's plates.

    Args:
        mcmc: a `VectorizedMCMC`, or a `pyro.infer.MCMC` with a kernel of `hnbayes.pyro`, after `run`.
        log_likelihood: whether to compute the log density of each datum at each draw. It can't be done for models with
            discrete latent sites, which have been summed out.
        posterior_predictive: whether to draw the observed sites anew for each draw.
        prior: how many draws of the prior and the prior predictive; 0 leaves them out.
        seed: of the predictive draws; None takes the run's own seed. Torch's random state is left as it is.
        coords: dimension (such as a plate) -> labels.
        dims: site -> names of its dimensions, in place of the plates' names.
        attrs: more attributes of each group.
        groups: more groups, as `hnbayes.to_inference_data` takes them.

    Returns:
        `arviz.InferenceData` where ArviZ 0.x is installed, `xarray.DataTree` where it is 1.x.

    Raises:
        TypeError: if it is no such run.
        RuntimeError: if it hasn't been run.
        ValueError: if names, dimensions and labels do not fit each other.

    Example:
        >>> import pyro
        >>> def model(y=None):
        ...     mu = pyro.sample("mu", pyro.distributions.Normal(0.0, 1.0))
        ...     with pyro.plate("data", 10):
        ...         pyro.sample("y", pyro.distributions.Normal(mu, 1.0), obs=y)
        >>> kernel = hnbayes.pyro.NUTS(model)
        >>> mcmc = hnbayes.pyro.VectorizedMCMC(kernel, 20, 20, 2, seed=0, disable_progbar=True)
        >>> mcmc.run(torch.ones(10))
        >>> idata = hnbayes.pyro.to_inference_data(mcmc, prior=0)
        >>> idata.log_likelihood["y"].shape
        (2, 20, 10)
    """
    check_count("prior", prior, 0)
    run = _as_run(mcmc)
    names: dict[str, list[str]] = {}
    added: Groups = {}
    if run.model is not None:
        with own_randomness(0), pyro.validation_enabled(False):
            trace = poutine.trace(run.model.model).get_trace(*run.model.args, **run.model.kwargs)
        names = plate_dims(trace)
        added["observed_data"] = _observed(trace)
        if log_likelihood:
            added["log_likelihood"] = _log_likelihood(run, trace)
        with own_randomness(resolve_seed(run.seed if seed is None else seed)):
            if posterior_predictive and added["observed_data"] and run.complete:
                drawn = evaluate(run.model.predictive, _flat(run.values), randomness="different")["observed"]
                added["posterior_predictive"] = _by_chain(drawn, run.draws)
            if prior:
                added |= _prior(run.model, prior)
    draws = run.with_deterministic_sites()
    variables = {name for group in added.values() for name in group} | set(draws.spec.names if draws.spec else ())
    return inference_data.to_inference_data(
        draws,
        coords=coords,
        dims={**{name: own for name, own in names.items() if name in variables}, **(dims or {})},
        attrs=attrs,
        groups={**{name: group for name, group in added.items() if group}, **(groups or {})},
    )


@dataclasses.dataclass(frozen=True)
class _Run:
    """What is needed of a run.

    Attributes:
        draws: the kept sites on their own scales.
        values: all sites, (C, S, *shape) each.
        warmup: the same of the warm-up, if it was kept.
        model: the model with its arguments; None for a run of a `potential_fn`.
        seed: the run's, if known.
        complete: whether `values` has all sites of the model.
    """

    draws: Draws
    values: dict[str, Tensor]
    warmup: dict[str, Tensor] | None
    model: GivenModel | None
    seed: int | None
    complete: bool = True

    def with_deterministic_sites(self) -> Draws:
        """The draws, with the model's deterministic sites as further variables."""
        sites = self.deterministic(self.values)
        if not sites or self.draws.spec is None:
            return self.draws
        spec = self.draws.spec
        wider = ParamSpec((*spec.names, *sites), (*spec.shapes, *(tuple(value.shape[2:]) for value in sites.values())))
        changes: dict[str, Any] = {"spec": wider, "positions": _widened(self.draws.positions, sites)}
        if self.draws.warmup_positions is not None and self.warmup is not None:
            changes["warmup_positions"] = _widened(self.draws.warmup_positions, self.deterministic(self.warmup))
        return dataclasses.replace(self.draws, **changes)

    def deterministic(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """The deterministic sites at some draws, (C, S, *shape) each."""
        if self.model is None or not self.complete:
            return {}
        chains, count = next(iter(values.values())).shape[:2]
        if count == 0:
            return {}
        sites = evaluate(self.model.likelihood, _flat(values))["deterministic"]
        return {name: value.reshape(chains, count, *value.shape[1:]) for name, value in sites.items()}


def _as_run(mcmc: Any) -> _Run:
    if isinstance(mcmc, VectorizedMCMC):
        draws, values, warmup = mcmc.to_draws(), mcmc.all_sites(), mcmc.warmup_sites()
        seed: int | None = draws.metadata["seed"]
    elif isinstance(mcmc, MCMC):
        draws, seed, warmup = _draws_of(mcmc), None, None
        values = mcmc.get_samples(group_by_chain=True)
    else:
        raise TypeError(
            f"mcmc must be a VectorizedMCMC, or a pyro.infer.MCMC with one of our kernels; received {describe(mcmc)}. "
            "For Draws use hnbayes.to_inference_data."
        )
    model = mcmc.kernel.model
    given = None if model is None else GivenModel(model, mcmc._args or (), mcmc._kwargs or {})
    complete = given is None or mcmc.kernel.save_params_are_all() or isinstance(mcmc, VectorizedMCMC)
    return _Run(draws, values, warmup, given, seed, complete)


def _draws_of(mcmc: MCMC) -> Draws:
    """The draws of Pyro's own runner, whose kernels have reported to it."""
    if mcmc._samples is None:
        raise RuntimeError("there are no draws yet; call run(...) first.")
    reports = mcmc._diagnostics
    if not all(isinstance(report, dict) and "sample_stats" in report for report in reports):
        raise TypeError(
            f"the kernel must be one of hnbayes.pyro; received {type(mcmc.kernel).__name__}. For Pyro's own kernels "
            "use arviz.from_pyro."
        )
    samples = {name: value.detach().cpu() for name, value in mcmc._samples.items()}
    spec = ParamSpec(tuple(samples), tuple(tuple(value.shape[2:]) for value in samples.values()))
    stats = [report["sample_stats"] for report in reports]
    return Draws(
        positions=spec.flatten(samples),
        stats={name: torch.from_numpy(np.stack([chain[name] for chain in stats])) for name in stats[0]},
        step_size=torch.tensor([report["step size"] for report in reports]),
        inverse_metric=torch.empty(0),
        spec=spec,
        metadata={"kernel": type(mcmc.kernel).__name__, "warmup": mcmc.warmup_steps, "draws": mcmc.num_samples},
    )


def _observed(trace: Any) -> dict[str, Any]:
    return {
        name: site["value"].detach().cpu()
        for name, site in trace.nodes.items()
        if is_random(site) and site["is_observed"] and not is_deterministic(site)
    }


def _log_likelihood(run: _Run, trace: Any) -> dict[str, Any]:
    latent = {name for name, site in trace.nodes.items() if is_random(site) and not site["is_observed"]}
    if run.model is None or not latent <= set(run.values):
        warnings.warn(
            "there is no log_likelihood, as it needs draws of all latent sites; there are none of "
            f"{', '.join(map(repr, sorted(latent - set(run.values))))} (discrete sites are summed out).",
            UserWarning,
            stacklevel=3,
        )
        return {}
    return _by_chain(evaluate(run.model.likelihood, _flat(run.values))["log_likelihood"], run.draws)


def _prior(model: GivenModel, count: int) -> Groups:
    try:
        sites = repeat(model.predictive, count)
    except NotImplementedError as error:  # an improper prior can't be drawn from
        warnings.warn(f"there are no draws of the prior: {error}", UserWarning, stacklevel=3)
        return {}
    latent = {**sites["latent"], **sites["deterministic"]}
    return {
        "prior": {name: value[None].cpu() for name, value in latent.items()},
        "prior_predictive": {name: value[None].cpu() for name, value in sites["observed"].items()},
    }


def _flat(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """(C, S, ...) -> (C * S, ...)."""
    return {name: value.reshape(-1, *value.shape[2:]) for name, value in values.items()}


def _by_chain(values: Mapping[str, Tensor], draws: Draws) -> dict[str, Any]:
    """(C * S, ...) -> (C, S, ...)."""
    lead = (draws.chains, draws.num_draws)
    return {name: value.reshape(*lead, *value.shape[1:]).cpu() for name, value in values.items()}


def _widened(positions: Tensor, sites: Mapping[str, Tensor]) -> Tensor:
    lead = positions.shape[:2]
    return torch.cat([positions, *(value.cpu().to(positions.dtype).reshape(*lead, -1) for value in sites.values())], -1)
