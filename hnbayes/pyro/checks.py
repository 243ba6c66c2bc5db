"""What a Pyro model must be for its density to be sampled: the same sites at every run, and nothing random in them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pyro.poutine as poutine
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from torch import Tensor, nn
from torch.distributions.constraints import Constraint
from torch.nn.modules.module import register_module_forward_pre_hook

from hnbayes.potentials.nn import refuse_training_mode


class ModelError(Exception):
    """The model isn't a density of a fixed set of sites.

    It's no ValueError, because an error of that kind at a proposed position would count as a divergence.
    """


class _SiteNames(Messenger):  # type: ignore[misc]
    """Notes the names of all sample sites."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def _pyro_post_sample(self, msg: Any) -> None:
        self.names.append(msg["name"])


class SameSites:
    """A model that refuses to run with other sites than at its first run.

    Args:
        model: a callable with Pyro primitives.
    """

    def __init__(self, model: Callable[..., Any]) -> None:
        self.model = model
        self.expected: set[str] | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model."""
        with _SiteNames() as seen:
            result = self.model(*args, **kwargs)
        names = set(seen.names)
        if self.expected is None:
            self.expected = names
        if names != self.expected:
            changes = [("with the new", names - self.expected), ("without", self.expected - names)]
            raise ModelError(
                "a model must have the same sites at every run; received a run "
                f"{' and '.join(f'{how} {_some(sites)}' for how, sites in changes if sites)}. Sample them all at "
                "every run (pyro.factor or poutine.mask can switch their effect), or write a mixture."
            )
        return result


def check_same_supports(first: Trace, second: Trace, sites: list[str]) -> None:
    """Raise ModelError if shape or support of a site differ between two runs.

    Pyro transforms each site by its support at the first run, so a support that depends on other sites would give the
    draws of another model.
    """
    for name in sites:
        one, other = first.nodes[name], second.nodes[name]
        if one["value"].shape != other["value"].shape:
            raise ModelError(
                f"a site must have the same shape at every run; received {tuple(one['value'].shape)} and then "
                f"{tuple(other['value'].shape)} for {name!r}. Fix its size by the data, not by other sites."
            )
        bounds, others = _bounds(one["fn"].support), _bounds(other["fn"].support)
        if len(bounds) != len(others) or not all(map(_equal, bounds, others)):
            raise ModelError(
                f"the support of a site must not depend on other sites; received other bounds of {name!r} at a "
                "second run. Sample it on a fixed support (such as the unit interval) and scale it."
            )


def explain_no_start(model: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Why Pyro may not have found a position of finite density."""
    trace = poutine.trace(model).get_trace(*args, **kwargs)
    for name, site in trace.nodes.items():
        if site["type"] != "sample" or not site["is_observed"] or not isinstance(site["value"], Tensor):
            continue
        missing = int(torch.isnan(site["value"]).sum()) if site["value"].is_floating_point() else 0
        if missing:
            return (
                f"observed values must not be NaN; received {missing} NaN of {site['value'].numel()} values at site "
                f"{name!r}. Drop or impute them, or pass obs_mask= to pyro.sample."
            )
    return (
        "the model must have a finite density, with a finite gradient, where it starts; received none in 100 starts. "
        "Check that the observations lie in the supports of their distributions and the scales are positive, choose "
        "another init_strategy (init_to_median, init_to_value), or give initial_params."
    )


@contextlib.contextmanager
def refusing_training_mode() -> Iterator[None]:
    """Raise ValueError if a network is run in training mode with dropout or batch normalisation in it."""
    called: list[nn.Module] = []
    hook = register_module_forward_pre_hook(lambda module, inputs: called.append(module))
    try:
        yield
    finally:
        hook.remove()
    for module in dict.fromkeys(called):
        refuse_training_mode(module)


def check_repeatable(function: Callable[[Tensor], Tensor], position: Tensor) -> None:
    """Raise ModelError if a potential gives two different values at one position."""
    with torch.no_grad():
        first, second = function(position), function(position)
    tolerance = 1e-8 if first.dtype == torch.float64 else 1e-4
    if not torch.allclose(first, second, rtol=tolerance, atol=tolerance, equal_nan=True):
        raise ModelError(
            f"a model must have one density at one position; received U = {float(first):.6g} and then "
            f"{float(second):.6g}. Something in it is random beside its sample sites: functional dropout, random "
            "augmentation, torch.randn. Take it out, or make it a site."
        )


def _bounds(support: Constraint) -> list[Tensor]:
    """The numbers that a constraint holds, nested ones included."""
    found = []
    for _, value in sorted(vars(support).items()):
        for item in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(item, Constraint):
                found.extend(_bounds(item))
            elif isinstance(item, (int, float, Tensor)):
                found.append(torch.as_tensor(item))
    return found


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)


def _some(names: set[str]) -> str:
    return ", ".join(map(repr, sorted(names)[:6])) + (", ..." if len(names) > 6 else "")
