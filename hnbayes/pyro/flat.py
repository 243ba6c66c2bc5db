"""FlatPrior: the priors of all parameters as the prior of one vector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Independent

from hnbayes.params import ParamSpec
from hnbayes.potentials.networks import broadcast
from hnbayes.pyro.distributions import PrecisionNormal, to_event
from hnbayes.pyro.priors import ParameterPrior, Scaled, before


class FlatPrior:
    """The priors of all parameters as the distribution of one site of D numbers.

    Args:
        priors: as `resolve` gives them, all Gaussian.
        spec: the parameters' names and shapes.

    Raises:
        ValueError: if one of the priors is not Gaussian.
    """

    def __init__(self, priors: Mapping[str, ParameterPrior], spec: ParamSpec) -> None:
        self.spec = spec
        self.parts: list[Any] = [self._part(name, priors[name]) for name in spec.names]

    def __call__(self, scales: Mapping[str, Tensor]) -> dist.TorchDistribution:
        """The distribution, of event shape (D,).

        Args:
            scales: the sampled scales by site, of shape (*batch,).
        """
        batch: Any = broadcast(*(scale.shape for scale in scales.values()))
        means, precisions = [], []
        for size, part in zip(self.spec.sizes, self.parts, strict=True):
            mean, precision = part if isinstance(part, tuple) else (None, None)
            if isinstance(part, Scaled):
                scale = before(scales[part.scale], (1,))
                mean, precision = torch.zeros_like(scale), scale**-2 if part.centred else torch.ones_like(scale)
            means.append(mean.expand((*batch, size)))
            precisions.append(precision.expand((*batch, size)))
        return to_event(PrecisionNormal(torch.cat(means, -1), torch.cat(precisions, -1)), 1)

    @staticmethod
    def _part(name: str, prior: ParameterPrior) -> Any:
        if isinstance(prior, Scaled):
            return prior
        shape, base = prior.event_shape, prior.base_dist if isinstance(prior, Independent) else prior
        if type(base) is dist.Normal:
            mean, precision = base.loc, base.scale**-2
        elif type(base) is PrecisionNormal:
            mean, precision = base.loc, base.precision
        else:
            raise ValueError(
                f"flat=True makes one Gaussian of all priors, which therefore must be Gaussian; {name!r} has {base}. "
                "Use one site for each parameter."
            )
        return mean.expand(shape).reshape(-1), precision.expand(shape).reshape(-1)
