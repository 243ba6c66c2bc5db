"""Horseshoe: most weights near zero, some of them free."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import HalfCauchy, InverseGamma

from hnbayes._checks import check_choice, check_positive
from hnbayes._distributions import filled
from hnbayes.priors.groups import PER, Per, before, check_name, group_name
from hnbayes.priors.hierarchical import standard_normal
from hnbayes.priors.independent import number
from hnbayes.priors.prior import BoundPrior, Latent, Prior, Values, check_like


@dataclass(frozen=True)
class Horseshoe(Prior):
    r"""The regularised horseshoe (Piironen and Vehtari 2017, Electron. J. Statist. 11, eq. 2.8), non-centred.

    \[w = z \tau \tilde\lambda, \quad \tilde\lambda^2 = \frac{c^2 \lambda^2}{c^2 + \tau^2 \lambda^2}, \quad
    z \sim N(0, 1), \quad \lambda \sim C^+(0, 1), \quad \tau \sim C^+(0, \tau_0), \quad
    c^2 \sim \text{Inv-Gamma}(\nu / 2, \nu s^2 / 2)\]

    A weight w has latents `<parameter>_z` and `<parameter>_local` (lambda); a group has `<name>_global` (tau) and
    `<name>_slab` (c squared), as `HierarchicalNormal` names them.

    Attributes:
        global_scale: \(\tau_0 > 0\). Section 3 of the paper: about \(p_0 / (D - p_0)\) over the root of the number of
            data, if \(p_0\) of D weights are thought to matter.
        slab_scale: \(s > 0\): weights that are free have about this size.
        slab_df: \(\nu > 0\): how heavy the tails of free weights are.
        per: which weights share tau and c: those of a "layer", "all", or those of one "parameter".
        name: see above.

    Raises:
        TypeError, ValueError: if an attribute is none of the above.

    Example:
        >>> prior = hnbayes.priors.Horseshoe(global_scale=0.1)
        >>> w = prior.sample(torch.nn.Linear(20, 1), 200, seed=0)["weight"].abs()
        >>> bool(w.median() < 0.1 < 1 < w.max())  # most weights are small, few are large
        True
    """

    global_scale: float = 0.1
    slab_scale: float = 2.0
    slab_df: float = 4.0
    per: Per = "layer"
    name: str = "horseshoe"

    def __post_init__(self) -> None:
        for name in ("global_scale", "slab_scale", "slab_df"):
            object.__setattr__(self, name, check_positive(name, getattr(self, name)))
        check_choice("per", self.per, PER)
        check_name(self.name)

    def group(self, parameter: str) -> str:
        """The name of the group that a parameter belongs to."""
        return group_name(parameter, self.per, self.name)

    def bind(self, like: Values) -> BoundPrior:
        """See `Prior.bind`."""
        check_like(like)
        shapes = {name: tuple(tensor.shape) for name, tensor in like.items()}
        latents: list[Latent] = []
        for group in dict.fromkeys(map(self.group, like)):
            latents += self._shared(group, next(iter(like.values())))
        for name, tensor in like.items():
            local = HalfCauchy(number(1.0, tensor), validate_args=False)
            latents.append(Latent.fixed(f"{name}_local", filled(local, tensor.shape)))
            latents.append(standard_normal(f"{name}_z", tensor))

        def weight(name: str, values: Values) -> Tensor:
            shape = shapes[name]
            tau = before(values[f"{self.group(name)}_global"], shape)
            slab = before(values[f"{self.group(name)}_slab"], shape)
            wide = tau * values[f"{name}_local"]
            return values[f"{name}_z"] * wide * (1 + wide.square() / slab).rsqrt()

        def weights(values: Values) -> dict[str, Tensor]:
            return {name: weight(name, values) for name in shapes}

        def latents_of(given: Values) -> dict[str, Tensor]:
            values: dict[str, Tensor] = {}
            for name in shapes:
                values |= self._typical(name, given[name])
            return values

        return BoundPrior(shapes, tuple(latents), weights, latents_of)

    def _typical(self, name: str, weights: Tensor) -> dict[str, Tensor]:
        """Latents of given weights: z is 1 or -1 up to the size of the slab, lambda what is left."""
        tau, slab = weights.new_tensor(self.global_scale), weights.new_tensor(self.slab_scale**2)
        size = weights.abs().clamp_min(1e-6)
        within = torch.minimum(size, 0.9 * slab.sqrt())
        local = within / tau * (1 - within.square() / slab).rsqrt()
        z = torch.where(weights < 0, -1.0, 1.0) * size / within
        group = self.group(name)
        return {f"{name}_z": z, f"{name}_local": local, f"{group}_global": tau, f"{group}_slab": slab}

    def _shared(self, group: str, like: Tensor) -> list[Latent]:
        shape, rate = self.slab_df / 2, self.slab_df * self.slab_scale**2 / 2
        slab = InverseGamma(number(shape, like), number(rate, like), validate_args=False)
        spread = HalfCauchy(number(self.global_scale, like), validate_args=False)
        return [Latent.fixed(f"{group}_global", spread), Latent.fixed(f"{group}_slab", slab)]
