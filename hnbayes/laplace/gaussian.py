"""DiagGaussian: a Gaussian over the weights of a network, as Laplace approximations give it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.distributions import Independent

from hnbayes._checks import check_finite, describe
from hnbayes.laplace.precision_normal import PrecisionNormal, log_normaliser, refuse_improper
from hnbayes.params import ParamSpec
from hnbayes.rng import resolve_seed

__all__ = ["DiagGaussian", "PrecisionNormal"]


@dataclass(frozen=True, eq=False, repr=False)
class DiagGaussian:
    """A Gaussian over all weights of a network with a diagonal precision matrix, entries of which may be 0.

    It is a `prior_log_prob_func` of `nn_pot_energy`. What it is given is copied and detached.

    Attributes:
        mean: shape (D,), float32 or float64.
        precision: shape (D,), of the same dtype and device, finite and at least 0; improper where 0.
        spec: names and shapes of the parameters, in the order in which they make up the D numbers, if known.

    Raises:
        TypeError: if an argument is of another kind.
        ValueError: if shapes, dtypes or devices differ, or numbers are not in range.
    """

    mean: Tensor
    precision: Tensor
    spec: ParamSpec | None = None
    _log_constant: float = field(init=False)

    def __post_init__(self) -> None:
        for name in ("mean", "precision"):
            value = getattr(self, name)
            if not isinstance(value, Tensor) or not value.is_floating_point():
                raise TypeError(f"{name} must be a floating-point tensor of shape (D,); received {describe(value)}.")
            if value.ndim != 1 or not len(value):
                raise ValueError(f"{name} must have shape (D,); received {describe(value)}. Flatten it.")
            check_finite(name, value)
            object.__setattr__(self, name, value.detach().clone())
        mean, precision = self.mean, self.precision
        if (mean.shape, mean.dtype, mean.device) != (precision.shape, precision.dtype, precision.device):
            raise ValueError(
                "mean and precision must have one shape, dtype and device; received "
                f"{describe(mean)} and {describe(precision)}."
            )
        if (precision < 0).any():
            at = int(precision.argmin())
            raise ValueError(f"precision must be at least 0; received {precision[at].item()} at index {at}.")
        if self.spec is not None and not isinstance(self.spec, ParamSpec):
            raise TypeError(f"spec must be a ParamSpec or None; received {describe(self.spec)}.")
        if self.spec is not None and self.spec.size != len(mean):
            raise ValueError(f"spec must describe as many numbers as mean has, {len(mean)}; received {self.spec.size}.")
        object.__setattr__(self, "_log_constant", float(log_normaliser(precision.double()).sum()))

    def __repr__(self) -> str:
        improper = int((self.precision == 0).sum())
        return f"DiagGaussian({len(self.mean)} numbers, {improper} of them improper)"

    def __call__(self, params: Tensor | Mapping[str, Tensor] | Sequence[Tensor]) -> Tensor:
        """`log_prob`."""
        return self.log_prob(params)

    def log_prob(self, params: Tensor | Mapping[str, Tensor] | Sequence[Tensor]) -> Tensor:
        """The log density, normalised over the elements whose precision is positive.

        Args:
            params: shape (D,), or (C, D) for several at once; or the parameters by name, or in the spec's order,
                each with the same leading dimensions, if any, before its own shape.

        Returns:
            Shape (), or (C,).

        Raises:
            TypeError: if params are not floating-point.
            ValueError: if shapes or names don't fit, or they are not flat and there is no spec.
        """
        q = self._flat(params)
        mean, precision = self.mean.to(q), self.precision.to(q)
        return self._log_constant - 0.5 * (precision * (q - mean).square()).sum(-1)

    def sample(
        self, shape: Sequence[int] = (), *, seed: int | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draws of the weights, flat.

        Args:
            shape: how many.
            seed: a non-negative integer; None draws one from torch's global generator.
            generator: the stream to use instead of a seed.

        Returns:
            Tensor of shape `(*shape, D)`.

        Raises:
            ValueError: if a precision is 0, or both a seed and a generator are given.
        """
        refuse_improper(self.precision)
        if generator is not None and seed is not None:
            raise ValueError("give either a seed or a generator; received both.")
        if generator is None:
            generator = torch.Generator(self.mean.device).manual_seed(resolve_seed(seed))
        noise = torch.randn(
            (*shape, len(self.mean)), generator=generator, dtype=self.mean.dtype, device=self.mean.device
        )
        return self.mean + noise * self.precision.rsqrt()

    def distribution(self) -> Independent[PrecisionNormal]:
        """The same as a `torch.distributions` distribution with event shape (D,)."""
        return Independent(PrecisionNormal(self.mean, self.precision), 1)

    def _flat(self, params: Tensor | Mapping[str, Tensor] | Sequence[Tensor]) -> Tensor:
        if not isinstance(params, Tensor):
            if self.spec is None:
                raise ValueError("without a spec, the weights must be one flat tensor (D,) or (C, D). Give a spec.")
            return self.spec.flatten(params)
        if not params.is_floating_point():
            raise TypeError(f"params must be floating-point; received {describe(params)}. Convert with .float().")
        if params.ndim < 1 or params.shape[-1] != len(self.mean):
            raise ValueError(f"params must have shape ({len(self.mean)},), or that last; received {describe(params)}.")
        return params
