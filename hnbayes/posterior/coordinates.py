r"""Coordinates: latents on their own scales, and the unconstrained vector that samplers move.

A latent \(\theta\) with support S is sampled as \(q = T^{-1}(\theta)\), where T takes all real numbers to S
(`torch.distributions.biject_to`), with the density \(p(T(q)) \lvert \det T'(q) \rvert\).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, HalfNormal, Independent, Normal, biject_to, constraints
from torch.distributions.transforms import ExpTransform

from hnbayes.laplace.precision_normal import PrecisionNormal, log_normaliser
from hnbayes.params import ParamSpec
from hnbayes.priors import Latent


class Coordinates:
    """The unconstrained axes of some latents.

    Args:
        latents: in sampling order.
        like: a tensor of the dtype and device of positions.

    Attributes:
        latents: as given.
        spec: the latents' names, and their shapes on the unconstrained axes, as they are laid out in a position (D,).
    """

    def __init__(self, latents: Sequence[Latent], like: Tensor) -> None:
        self.latents = tuple(latents)
        self._transforms: dict[str, Any] = {}
        shapes: list[tuple[int, ...]] = []
        values: dict[str, Tensor] = {}
        for latent in self.latents:
            transform = _transform(latent.distribution(values))
            if not latent.depends:
                self._transforms[latent.name] = transform
            shape = latent.shape if transform is None else tuple(transform.inverse_shape(torch.Size(latent.shape)))
            zeros = like.new_zeros(shape)
            values[latent.name] = zeros if transform is None else transform(zeros)
            shapes.append(shape)
        self.spec = ParamSpec(tuple(latent.name for latent in self.latents), tuple(shapes))
        self._gaussian = _FlatGaussian(self.latents, self.spec, like)
        self._constant = self._gaussian.constant
        # Scales are half-normal by default, for which torch takes a dozen operations, and as many backwards.
        self._half_normal: dict[str, float] = {}
        for latent in self._gaussian.others:
            base = None if latent.depends else _base(latent.distribution({}))
            if type(base) is HalfNormal and not base.batch_shape:
                precision = float(base.scale) ** -2
                self._half_normal[latent.name] = -0.5 * precision
                self._constant += 0.5 * math.log(2 * precision / math.pi)

    def constrain(self, position: Tensor) -> tuple[dict[str, Tensor], Tensor | float]:
        """The latents on their own scales.

        Args:
            position: (D,); for several at once, use `torch.func.vmap`.

        Returns:
            Name -> value, and the logarithm of the transformation's Jacobian determinant.
        """
        values: dict[str, Tensor] = {}
        log_jacobian: Tensor | float = 0.0
        parts = self.spec.unflatten(position)
        for latent in self.latents:
            transform = self._transform(latent, values)
            free = parts[latent.name]
            if transform is None:
                values[latent.name] = free
                continue
            values[latent.name] = transform(free)
            log_jacobian = log_jacobian + transform.log_abs_det_jacobian(free, values[latent.name]).sum()
        return values, log_jacobian

    def unconstrain(self, values: Mapping[str, Tensor]) -> Tensor:
        """The position (D,) of values on their own scales, the inverse of `constrain`."""
        free = {}
        for latent in self.latents:
            transform = self._transform(latent, values)
            free[latent.name] = values[latent.name] if transform is None else transform.inv(values[latent.name])
        return self.spec.flatten(free)

    def unconstrain_one(self, latent: Latent, value: Tensor) -> Tensor:
        """The unconstrained numbers of a latent that depends on no other."""
        transform = self._transforms[latent.name]
        return value if transform is None else transform.inv(value)

    def is_real(self, latent: Latent) -> bool:
        """Whether a latent may have any real value, whatever those are that it depends on."""
        return latent.name in self._transforms and self._transforms[latent.name] is None

    def log_prob(self, position: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The log density of a position on the unconstrained axes.

        Args:
            position: (D,).

        Returns:
            The log density, normalised, Jacobian included; and the latents on their own scales.
        """
        values, log_jacobian = self.constrain(position)
        # Not 0 + ...: a captured graph would add it in every evaluation.
        result = (
            self._gaussian(position) + log_jacobian if isinstance(log_jacobian, Tensor) else self._gaussian(position)
        )
        for latent in self._gaussian.others:
            result = result + self._log_density(latent, values)
        return result + self._constant, values

    def moments(self) -> tuple[Tensor, Tensor, float] | None:
        """Mean and precision (D,) and the density's constant, if all latents are normal; None otherwise."""
        return None if self._gaussian.others else (*self._gaussian.moments, self._constant)

    def _log_density(self, latent: Latent, values: Mapping[str, Tensor]) -> Tensor:
        """The log density of a latent that isn't normal, up to `_constant`."""
        value = values[latent.name]
        if latent.name in self._half_normal:
            return self._half_normal[latent.name] * value.square().sum()
        density: Tensor = latent.distribution(values).log_prob(value)
        return density

    def _transform(self, latent: Latent, values: Mapping[str, Tensor]) -> Any:
        if latent.name in self._transforms:
            return self._transforms[latent.name]
        return _transform(latent.distribution(values))


class _FlatGaussian:
    """The log density, up to `constant`, of all latents that are normal whatever the others are, in one pass.

    A network has many tensors; a term for each would cost more than the arithmetic.
    """

    def __init__(self, latents: Sequence[Latent], spec: ParamSpec, like: Tensor) -> None:
        mean, precision = like.new_zeros(spec.size), like.new_zeros(spec.size)
        self.others: list[Latent] = []
        self.constant = 0.0
        for latent in latents:
            moments = None if latent.depends else gaussian_moments(latent.distribution({}))
            if moments is None:
                self.others.append(latent)
                continue
            at = slice(spec.indices(latent.name).start, spec.indices(latent.name).stop)
            mean[at], precision[at] = (m.expand(latent.shape).reshape(-1) for m in moments)
            self.constant += float(log_normaliser(precision[at].double()).sum())
        self.moments = mean, precision
        # None stands for what is the same for all, so that nothing is computed for it.
        self._mean = mean if bool((mean != 0).any()) else None
        self._precision: Tensor | float = precision
        if bool((precision == precision[:1]).all()):
            self._precision = float(precision[0])

    def __call__(self, position: Tensor) -> Tensor:
        squares = (position if self._mean is None else position - self._mean).square()
        if isinstance(self._precision, float):
            return -0.5 * self._precision * squares.sum()
        return -0.5 * (self._precision * squares).sum()


def gaussian_moments(distribution: Distribution) -> tuple[Tensor, Tensor] | None:
    """Mean and precision of independent normal numbers; None for any other distribution."""
    base = _base(distribution)
    if isinstance(base, PrecisionNormal):
        return base.loc, base.precision
    if type(base) is Normal:
        return base.loc, base.scale.double().square().reciprocal().to(base.scale.dtype)
    return None


def _base(distribution: Any) -> Any:
    while isinstance(distribution, Independent):
        distribution = distribution.base_dist
    return distribution


def _transform(distribution: Distribution) -> Any:
    """From all real numbers to the distribution's support; None where these are all real numbers."""
    support: Any = distribution.support
    base = support
    while hasattr(base, "base_constraint"):
        base = base.base_constraint
    if base is constraints.real:
        return None
    if isinstance(getattr(base, "lower_bound", None), (int, float)) and base.lower_bound == 0 and _is_half_line(base):
        return ExpTransform()  # torch's adds the bound, 0, to it
    return biject_to(support)


def _is_half_line(constraint: Any) -> bool:
    return isinstance(constraint, (type(constraints.nonnegative), type(constraints.positive)))
