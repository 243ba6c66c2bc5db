"""FlatSite: the Gaussian latents of all parameters as one vector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Independent, Normal

from hnbayes.laplace.precision_normal import PrecisionNormal as TorchPrecisionNormal
from hnbayes.params import ParamSpec
from hnbayes.potentials.networks import broadcast
from hnbayes.priors import BoundPrior, Latent
from hnbayes.pyro.distributions import PrecisionNormal, to_event


class FlatSite:
    """One site of D numbers in place of one for each parameter.

    Latents that are no parameter's own (scales that are learned) stay sites of their own.

    Args:
        bound: the prior of a network's parameters.

    Raises:
        ValueError: if a parameter has no latent of its shape.
    """

    def __init__(self, bound: BoundPrior) -> None:
        own = {name: latent for latent in bound.latents for name in (latent.name, latent.name.removesuffix("_z"))}
        missing = [name for name, shape in bound.shapes.items() if name not in own or own[name].shape != shape]
        if missing:
            raise ValueError(f"flat=True needs a latent for each parameter; received none for {missing[0]!r}.")
        self.latents = [own[name] for name in bound.shapes]
        self.spec = ParamSpec(tuple(latent.name for latent in self.latents), tuple(bound.shapes.values()))
        standard = any(latent.name not in bound.shapes for latent in self.latents)
        self.name = "weights_z" if standard else "weights"
        self.others = [latent for latent in bound.latents if latent not in self.latents]

    def distribution(self, values: Mapping[str, Tensor]) -> dist.TorchDistribution:
        """The distribution, of event shape (D,), given the values (*batch, *shape) of the other latents.

        Raises:
            ValueError: if one of the priors is not Gaussian.
        """
        parts = [_gaussian(latent, values) for latent in self.latents]
        batch: Any = broadcast(*(mean.shape[:-1] for mean, _ in parts))
        means = torch.cat([mean.expand(*batch, -1) for mean, _ in parts], -1)
        precisions = torch.cat([precision.expand(*batch, -1) for _, precision in parts], -1)
        return to_event(PrecisionNormal(means, precisions), 1)

    def split(self, value: Tensor) -> dict[str, Tensor]:
        """The latents' values (*batch, *shape) that the site's value (*batch, D) holds."""
        return self.spec.unflatten(value)


def _gaussian(latent: Latent, values: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and precision of a latent, (*batch, size) each."""
    distribution: Any = latent.distribution(values)
    base = distribution.base_dist if isinstance(distribution, Independent) else distribution
    if isinstance(base, TorchPrecisionNormal):
        precision = base.precision
    elif isinstance(base, Normal):
        precision = base.scale**-2
    else:
        raise ValueError(
            f"flat=True makes one Gaussian of all priors, which therefore must be Gaussian; {latent.name!r} has {base}."
            " Use one site for each parameter."
        )
    shape = tuple(distribution.batch_shape)
    full = shape + latent.shape
    return base.loc.expand(full).reshape(*shape, -1), precision.expand(full).reshape(*shape, -1)
