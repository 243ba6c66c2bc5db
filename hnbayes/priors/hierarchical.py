"""HierarchicalNormal: weights whose scale is itself learned."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.distributions import Distribution, Normal

from hnbayes._checks import check_choice, describe
from hnbayes._distributions import bare, filled, own_shape, positive_distribution, to_event
from hnbayes.priors.groups import PER, before, check_name, group_name
from hnbayes.priors.independent import fan_in, number
from hnbayes.priors.prior import BoundPrior, Latent, Prior, Shape, Values, check_like


@dataclass(frozen=True)
class HierarchicalNormal(Prior):
    r"""Weights \(w \sim N(0, \tau^2)\) whose scale \(\tau\) is learned, shared by a group of weights.

    Attributes:
        scale_prior: the prior of \(\tau\), a scalar distribution over positive numbers; a number s means HalfNormal(s).
        per: which weights share a scale: those of a "layer" (a submodule's weight and bias), "all", those of one
            "parameter", or the weights of each "input" of a layer, so that the data can say which inputs matter
            (automatic relevance determination; Neal 1996, Bayesian Learning for Neural Networks, section 4.1). With
            "input" a parameter of shape (outputs, inputs, ...) has scales (inputs,), a bias has one scale.
        centred: whether the latent of a parameter holds the weights. If not, it is called `<parameter>_z` and holds
            \(z \sim N(0, 1)\), with \(w = \tau z\): the better choice where the data say little of single weights,
            as the posterior then has no funnel.
        fan_in: whether the scale of a weight among n inputs of its unit is \(\tau / \sqrt n\), as in `FanInNormal`.
        name: what the scale is called: `<name>` for "all", `<layer>.<name>`; `<parameter>_<name>` for the others.

    Raises:
        TypeError: if an attribute is of another kind.
        ValueError: if the prior isn't scalar or allows negative scales, or `per` is none of the words above.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1))
        >>> prior = hnbayes.priors.HierarchicalNormal(scale_prior=1.0, per="layer")
        >>> bound = prior.bind(dict(net.named_parameters()))
        >>> [latent.name for latent in bound.latents][:3]
        ['0.prior_scale', '2.prior_scale', '0.weight_z']
        >>> prior.sample(net, 10, seed=0)["0.weight"].shape
        torch.Size([10, 3, 2])
    """

    scale_prior: Distribution | float = 1.0
    per: Literal["layer", "all", "parameter", "input"] = "layer"
    centred: bool = False
    fan_in: bool = False
    name: str = "prior_scale"

    def __post_init__(self) -> None:
        check_choice("per", self.per, (*PER, "input"))
        check_choice("centred", self.centred, (True, False))
        check_choice("fan_in", self.fan_in, (True, False))
        object.__setattr__(self, "scale_prior", positive_distribution("scale_prior", self.scale_prior))
        if own_shape(self.scale_prior):  # type: ignore[arg-type]
            raise ValueError(f"scale_prior must be scalar; received {describe(self.scale_prior)}. Use one number.")
        check_name(self.name)

    def scale_name(self, parameter: str) -> str:
        """The name of the scale that a parameter has."""
        return group_name(parameter, "parameter" if self.per == "input" else self.per, self.name)

    def bind(self, like: Values) -> BoundPrior:
        """See `Prior.bind`."""
        check_like(like)
        shapes = {name: tuple(tensor.shape) for name, tensor in like.items()}
        scales: dict[str, Distribution] = {}
        for name, tensor in like.items():
            each = filled(bare(self.scale_prior, tensor), self._inputs(shapes[name]))  # type: ignore[arg-type]
            scales.setdefault(self.scale_name(name), each)
        latents = [Latent.fixed(name, distribution) for name, distribution in scales.items()]
        latents += [self._latent(name, tensor) for name, tensor in like.items()]

        def weights(values: Values) -> dict[str, Tensor]:
            if self.centred:
                return {name: values[name] for name in shapes}
            return {
                name: values[f"{name}_z"] * self._scale_of(values[self.scale_name(name)], shape)
                for name, shape in shapes.items()
            }

        def latents_of(given: Values) -> dict[str, Tensor]:
            values = {scale: self._typical_scale(scale, given, shapes) for scale in scales}
            for name, shape in shapes.items():
                tau = self._scale_of(values[self.scale_name(name)], shape)
                values[name if self.centred else f"{name}_z"] = given[name] if self.centred else given[name] / tau
            return values

        return BoundPrior(shapes, tuple(latents), weights, latents_of)

    def _typical_scale(self, scale: str, weights: Values, shapes: Mapping[str, Shape]) -> Tensor:
        """The root mean square of the weights that share a scale, which is kept away from 0."""
        of_group = {
            name: weights[name] / self._factor(shape)
            for name, shape in shapes.items()
            if self.scale_name(name) == scale
        }
        if any(self._inputs(shapes[name]) for name in of_group):
            ((_, alone),) = of_group.items()  # scales of inputs are shared by no other parameter
            squares = alone.square().transpose(0, 1).flatten(1).mean(1)
        else:
            squares = torch.cat([part.reshape(-1) for part in of_group.values()]).square().mean()
        return squares.sqrt().clamp_min(1e-3)

    def _inputs(self, shape: Shape) -> Shape:
        """The shape of the scales that a parameter has."""
        return shape[1:2] if self.per == "input" else ()

    def _scale_of(self, tau: Tensor, shape: Shape) -> Tensor:
        """The scale of each weight of a parameter, which multiplies tensors (*batch, *shape)."""
        scaled = tau * self._factor(shape)
        if not self._inputs(shape):
            return before(scaled, shape)
        return before(scaled, shape[2:]).unsqueeze(-len(shape))

    def _factor(self, shape: Shape) -> float:
        return 1.0 / math.sqrt(fan_in(shape)) if self.fan_in and len(shape) > 1 else 1.0

    def _latent(self, name: str, like: Tensor) -> Latent:
        shape = tuple(like.shape)
        if not self.centred:
            return standard_normal(f"{name}_z", like)
        scale = self.scale_name(name)

        def distribution(values: Values) -> Distribution:
            tau = values[scale]
            batch = tuple(tau.shape)[: tau.ndim - len(self._inputs(shape))]
            wide = self._scale_of(tau, shape).expand(batch + shape)
            return to_event(Normal(torch.zeros_like(wide), wide, validate_args=False), len(shape))

        return Latent(name, shape, distribution, (scale,))


def standard_normal(name: str, like: Tensor) -> Latent:
    """A latent of independent standard normal numbers, of a tensor's shape, dtype and device."""
    normal = Normal(number(0.0, like), number(1.0, like), validate_args=False)
    return Latent.fixed(name, filled(normal, like.shape), auxiliary=True)
