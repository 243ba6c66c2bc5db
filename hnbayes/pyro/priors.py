"""What a user may give as the prior of a network's weights, made into one prior for each parameter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal, TypeAlias

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Distribution

from hnbayes._checks import check_choice, check_positive, describe
from hnbayes.laplace.gaussian import DiagGaussian
from hnbayes.params import ParamSpec
from hnbayes.pyro.distributions import as_pyro, site_distributions, to_event

Shape: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class HierarchicalNormal:
    r"""Weights \(w \sim N(0, \tau^2)\) whose scale \(\tau\) is a site of its own, shared by a group of weights.

    Attributes:
        scale_prior: the prior of \(\tau\), a scalar distribution over positive numbers; a number s means HalfNormal(s).
        per: which weights share a scale: those of a "layer" (a submodule's weight and bias), "all", or those of one
            "parameter".
        centred: whether the site of a parameter holds the weights. If not, it is called `<parameter>_z` and holds
            \(z \sim N(0, 1)\), with \(w = \tau z\): the better choice where the data say little of single weights,
            as the posterior then has no funnel.
        name: what the scale's site is called: `<name>` for "all", `<layer>.<name>`, `<parameter>_<name>`.

    Raises:
        TypeError: if an attribute is of another kind.
        ValueError: if the prior isn't scalar or allows negative scales, or `per` is none of the words above.
    """

    scale_prior: Distribution | float = 1.0
    per: Literal["layer", "all", "parameter"] = "layer"
    centred: bool = True
    name: str = "prior_scale"

    def __post_init__(self) -> None:
        check_choice("per", self.per, ("layer", "all", "parameter"))
        check_choice("centred", self.centred, (True, False))
        object.__setattr__(self, "scale_prior", positive_prior("scale_prior", self.scale_prior))
        if self.scale_prior.batch_shape + self.scale_prior.event_shape:  # type: ignore[union-attr]
            raise ValueError(f"scale_prior must be scalar; received {describe(self.scale_prior)}. Use one number.")
        if not isinstance(self.name, str) or not self.name.isidentifier():
            raise ValueError(f"name must be an identifier; received {describe(self.name)}.")

    def site(self, parameter: str) -> str:
        """The name of the site of the scale that a parameter has."""
        if self.per == "parameter":
            return f"{parameter}_{self.name}"
        layer = parameter.rpartition(".")[0] if self.per == "layer" else ""
        return f"{layer}.{self.name}" if layer else self.name


@dataclass(frozen=True)
class Scaled:
    """The prior of one parameter, of shape `shape`, whose scale is the site `scale`."""

    scale: str
    scale_prior: Any
    shape: Shape
    source: HierarchicalNormal

    @property
    def centred(self) -> bool:
        """Whether the parameter's site holds the weights themselves."""
        return self.source.centred

    def __call__(self, scales: Mapping[str, Tensor]) -> dist.TorchDistribution:
        """The distribution of the parameter's site, given the scales (*batch,) that were sampled."""
        scale = scales[self.scale] if self.centred else torch.ones_like(scales[self.scale])
        wide = before(scale, self.shape).expand(tuple(scale.shape) + self.shape)
        return to_event(dist.Normal(torch.zeros_like(wide), wide), len(self.shape))


def before(values: Tensor, shape: Shape) -> Tensor:
    """Values (*batch,) with a dimension of 1 for each of `shape`, so that they multiply tensors (*batch, *shape)."""
    return values.reshape(tuple(values.shape) + (1,) * len(shape))


# A Pyro distribution with the parameter's shape as event shape, or a scale that is sampled.
ParameterPrior: TypeAlias = Any
Prior: TypeAlias = (
    float | Distribution | HierarchicalNormal | DiagGaussian | Mapping[str, Any] | Callable[[str, Shape], Any]
)


def positive_prior(what: str, prior: Any) -> dist.TorchDistribution:
    """A prior of a scale; a number s means HalfNormal(s).

    Raises:
        TypeError: if it is neither a number nor a distribution.
        ValueError: if it is a distribution of anything but positive numbers.
    """
    if not isinstance(prior, Distribution):
        return dist.HalfNormal(check_positive(what, prior))
    support: Any = prior.support
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    bound = getattr(support, "lower_bound", -1.0)
    if float(bound.min() if isinstance(bound, Tensor) else bound) < 0 or support.is_discrete:
        raise ValueError(f"{what} must be a distribution of positive numbers; received {prior}. Use HalfNormal(1.0).")
    return as_pyro(prior)


def resolve(prior: Prior, like: Mapping[str, Tensor], prefix: str = "") -> dict[str, ParameterPrior]:
    """One prior for each parameter.

    Args:
        prior: see `BayesianNetwork`.
        like: for each name a tensor of the shape, dtype and device that the parameter has.
        prefix: put before the names of the scales' sites.

    Returns:
        Name -> a Pyro distribution with the parameter's shape as its event shape, or `Scaled`.

    Raises:
        TypeError, ValueError: if the prior is of no kind that is known, or doesn't fit the parameters.
    """
    spec = ParamSpec(tuple(like), tuple(tuple(tensor.shape) for tensor in like.values()))
    if isinstance(prior, DiagGaussian):
        given: Mapping[str, Any] = site_distributions(_with_spec(prior, spec))
    elif isinstance(prior, Mapping):
        given = _matched(prior, spec)
    elif isinstance(prior, Distribution | HierarchicalNormal) or not callable(prior):
        given = dict.fromkeys(spec.names, prior)
    else:
        given = {name: prior(name, shape) for name, shape in zip(spec.names, spec.shapes, strict=True)}
    return {name: _of_parameter(name, given[name], tensor, prefix) for name, tensor in like.items()}


def scale_priors(priors: Mapping[str, ParameterPrior]) -> dict[str, dist.TorchDistribution]:
    """The sites of all scales.

    Raises:
        ValueError: if two priors would share a site.
    """
    sources: dict[str, Scaled] = {}
    for prior in priors.values():
        if isinstance(prior, Scaled) and sources.setdefault(prior.scale, prior).source is not prior.source:
            raise ValueError(
                f"each HierarchicalNormal needs scales of its own; two have the site {prior.scale!r}. Give one of "
                "them another name, or the same object to all parameters that shall share it."
            )
    return {site: prior.scale_prior for site, prior in sources.items()}


def _of_parameter(name: str, prior: Any, like: Tensor, prefix: str) -> ParameterPrior:
    shape = tuple(like.shape)
    if isinstance(prior, HierarchicalNormal):
        return Scaled(prefix + prior.site(name), as_pyro(prior.scale_prior, like), shape, prior)  # type: ignore[arg-type]
    if not isinstance(prior, Distribution):
        try:
            prior = dist.Normal(0.0, check_positive(f"the prior's standard deviation for {name!r}", prior))
        except TypeError as error:
            raise TypeError(f"{error} A prior is a number, a distribution or a HierarchicalNormal.") from None
    prior = as_pyro(prior, like)
    if prior.support.is_discrete:
        raise ValueError(f"the prior of weights must be continuous; received {prior} for {name!r}.")
    given = tuple(prior.batch_shape + prior.event_shape)
    kept = len(shape) - len(prior.event_shape)
    # One number for all or one for each: to broadcast (50,) against (50, 50) would be a guess of what was meant.
    fits = not given or (
        len(given) == len(shape)
        and given[kept:] == shape[kept:]
        and all(a in (1, b) for a, b in zip(given, shape, strict=True))
    )
    if not fits:
        raise ValueError(
            f"the prior of {name!r} must be scalar or have the parameter's shape, {shape}; received {given}. "
            "Reshape its arguments; dimensions of 1 are expanded."
        )
    return as_pyro(to_event(prior.expand(torch.Size(shape[:kept])), kept))


def _matched(patterns: Mapping[str, Any], spec: ParamSpec) -> dict[str, Any]:
    """Each parameter's prior: that of the first pattern which its name matches."""
    found: dict[str, Any] = {}
    used = set()
    for name in spec.names:
        pattern = next((pattern for pattern in patterns if fnmatchcase(name, pattern)), None)
        if pattern is None:
            raise ValueError(
                f"each parameter must match a pattern of the prior; {name!r} matches none of "
                f"{', '.join(map(repr, patterns)) or 'no patterns'}. Add '*' as the last one."
            )
        used.add(pattern)
        found[name] = patterns[pattern]
    if unused := [pattern for pattern in patterns if pattern not in used]:
        raise ValueError(
            f"each pattern of the prior must be the first match of some parameter; {unused[0]!r} is of none of "
            f"{', '.join(spec.names)}. Correct it, or put it before the more general ones."
        )
    return found


def _with_spec(gaussian: DiagGaussian, spec: ParamSpec) -> DiagGaussian:
    if gaussian.spec is None:
        return DiagGaussian(gaussian.mean, gaussian.precision, spec)
    ours, given = (dict(zip(s.names, s.shapes, strict=True)) for s in (spec, gaussian.spec))
    if ours != given:
        raise ValueError(f"the Gaussian must be over the parameters of this network, {ours}; it is over {given}.")
    return gaussian
