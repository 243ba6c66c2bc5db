"""What a Pyro model says of each draw of its sites: log likelihoods, deterministic sites, predictions."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, TypeAlias

import pyro
import torch
from pyro import poutine
from pyro.distributions.unit import Unit
from pyro.poutine.subsample_messenger import _Subsample
from pyro.poutine.uncondition_messenger import UnconditionMessenger
from torch import Tensor
from torch.func import vmap
from torch.utils import _pytree as pytree

# Kind ("log_likelihood", "deterministic", "latent", "observed") -> site -> tensor.
Sites: TypeAlias = dict[str, dict[str, Tensor]]
CHUNK = 128


class _Unobserved(UnconditionMessenger):  # type: ignore[misc]
    """Draws observed sites anew, as `poutine.uncondition`, but leaves deterministic sites and factors as they are."""

    def _pyro_sample(self, msg: Any) -> None:
        if is_random(msg) and not is_deterministic(msg):
            super()._pyro_sample(msg)


class GivenModel:
    """A Pyro model with its arguments, to be run with given values of its latent sites.

    Args:
        model: a callable with Pyro primitives.
        args: its arguments.
        kwargs: its keyword arguments.
    """

    def __init__(self, model: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self.model = model
        self.args, self.kwargs = args, dict(kwargs)

    def likelihood(self, values: Mapping[str, Tensor]) -> Sites:
        """The log density of each datum, and the deterministic sites, at values of all latent sites."""
        result: Sites = {"log_likelihood": {}, "deterministic": {}}
        for name, site in self._sites(poutine.condition(self.model, data=dict(values))):
            if is_deterministic(site):
                result["deterministic"][name] = site["value"]
            elif name not in values and site["is_observed"]:
                result["log_likelihood"][name] = _log_prob(site)
        return result

    def predictive(self, values: Mapping[str, Tensor]) -> Sites:
        """All sites drawn anew, the observed ones too, but for those whose values are given."""
        result: Sites = {"latent": {}, "observed": {}, "deterministic": {}}
        model = poutine.condition(_Unobserved()(self.model), data=dict(values))
        for name, site in self._sites(model):
            if name in values:
                continue
            kind = "observed" if site["infer"].get("was_observed") else "latent"
            result["deterministic" if is_deterministic(site) else kind][name] = site["value"]
        return result

    def _sites(self, model: Callable[..., Any]) -> Iterator[tuple[str, Any]]:
        trace = poutine.trace(model).get_trace(*self.args, **self.kwargs)
        return ((name, site) for name, site in trace.nodes.items() if is_random(site))


def is_random(site: Any) -> bool:
    """Whether a node of a trace is a sample site with numbers: no plate, no `pyro.factor`, no parameter."""
    return site["type"] == "sample" and not isinstance(site["fn"], (_Subsample, Unit))


def is_deterministic(site: Any) -> bool:
    """Whether a site is one of `pyro.deterministic`."""
    return bool(site["infer"].get("_deterministic"))


def evaluate(
    function: Callable[[Mapping[str, Tensor]], Sites],
    values: Mapping[str, Tensor],
    randomness: Literal["error", "different"] = "error",
) -> Sites:
    """A function of one draw for many: in batches where `vmap` can, otherwise one draw after another.

    Args:
        function: of {site: (*shape)}.
        values: site -> draws (n, *shape).
        randomness: "different" if the function draws random numbers. If it doesn't, what `vmap` gives is compared
            with the function alone at the first draw and the last before it is trusted.

    Returns:
        What the function gives, each tensor with a first dimension of n.
    """
    count = len(next(iter(values.values())))

    def alone(row: int) -> Sites:
        return function({name: value[row] for name, value in values.items()})

    # Checks of arguments look at values, which tensors under vmap don't have.
    with torch.no_grad(), pyro.validation_enabled(False):
        try:
            result: Sites = vmap(function, chunk_size=CHUNK, randomness=randomness)(dict(values))
            if randomness == "different" or all(_agree(result, alone(row), row) for row in (0, count - 1)):
                return result
        except Exception:  # whatever stops vmap, the slower way below says what is wrong with the model itself
            pass
        rows = [alone(row) for row in range(count)]
        return pytree.tree_map(lambda *parts: torch.stack(parts), *rows)


def repeat(function: Callable[[Mapping[str, Tensor]], Sites], count: int) -> Sites:
    """A random function of no values, called so many times; each tensor has a first dimension of `count`."""
    with torch.no_grad(), pyro.validation_enabled(False):
        rows = [function({}) for _ in range(count)]
    return pytree.tree_map(lambda *parts: torch.stack(parts), *rows)


def plate_dims(trace: Any) -> dict[str, list[str]]:
    """Names of each site's dimensions: those of its plates, and `<site>_dim_<i>` for others.

    Args:
        trace: of one run of the model.
    """
    sites = {name: site for name, site in trace.nodes.items() if is_random(site)}
    result = {}
    for name, site in sites.items():
        shape = tuple(site["value"].shape)
        dims = [f"{name}_dim_{i}" for i in range(len(shape))]
        for frame in site["cond_indep_stack"]:
            # All dimensions of a deterministic site are those of an event, also where a plate accounts for them.
            event = 0 if is_deterministic(site) else len(site["fn"].event_shape)
            at = None if frame.dim is None else len(shape) - event + frame.dim
            if at is not None and 0 <= at < len(shape) and shape[at] == frame.size:
                # A dimension can't have the name of a variable.
                dims[at] = f"{frame.name}_plate" if frame.name in sites else frame.name
        result[name] = dims
    return result


def _log_prob(site: Any) -> Tensor:
    log_prob: Tensor = site["fn"].log_prob(site["value"])
    if isinstance(site["mask"], Tensor):
        log_prob = torch.where(site["mask"], log_prob, 0.0)
    return log_prob


def _agree(batched: Sites, alone: Sites, row: int) -> bool:
    pairs = itertools.zip_longest(pytree.tree_leaves(batched), pytree.tree_leaves(alone))
    return all(
        one is not None
        and other is not None
        and one.shape[1:] == other.shape
        and torch.allclose(one[row], other.to(one.dtype), rtol=1e-3, atol=1e-4, equal_nan=True)
        for one, other in pairs
    )
