"""DiagGaussian: a Gaussian over the weights of a network, as Laplace approximations give it."""

from __future__ import annotations

import os
import pathlib
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Independent

from hnbayes._checks import check_finite, check_positive, describe
from hnbayes.laplace.precision_normal import PrecisionNormal, log_normaliser, refuse_improper
from hnbayes.params import ParamSpec
from hnbayes.rng import resolve_seed

__all__ = ["DiagGaussian", "PrecisionNormal"]

FORMAT = "hnbayes.laplace.DiagGaussian/1"


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

    Example:
        >>> prior = hnbayes.laplace.DiagGaussian(torch.zeros(2), torch.tensor([1.0, 0.0]))
        >>> task = hnbayes.laplace.DiagGaussian(torch.tensor([1.0, 3.0]), torch.tensor([3.0, 2.0]))
        >>> posterior = prior * task
        >>> posterior.mean, posterior.precision
        (tensor([0.7500, 3.0000]), tensor([4., 2.]))
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
        self,
        shape: Sequence[int] = (),
        *,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        base_precision: float | None = None,
    ) -> Tensor:
        """Draws of the weights, flat.

        Args:
            shape: how many.
            seed: a non-negative integer; None draws one from torch's global generator.
            generator: the stream to use instead of a seed.
            base_precision: the precision to draw with where it is 0; None refuses to.

        Returns:
            Tensor of shape `(*shape, D)`.

        Raises:
            ValueError: if a precision is 0 and there is no base precision, or both a seed and a generator are given.
        """
        precision = self.precision
        if base_precision is not None:
            base = check_positive("base_precision", base_precision)
            precision = torch.where(precision > 0, precision, base)
        refuse_improper(precision)
        if generator is not None and seed is not None:
            raise ValueError("give either a seed or a generator; received both.")
        if generator is None:
            generator = torch.Generator(self.mean.device).manual_seed(resolve_seed(seed))
        noise = torch.randn(
            (*shape, len(self.mean)), generator=generator, dtype=self.mean.dtype, device=self.mean.device
        )
        return self.mean + noise * precision.rsqrt()

    def distribution(self) -> Independent[PrecisionNormal]:
        """The same as a `torch.distributions` distribution with event shape (D,)."""
        return Independent(PrecisionNormal(self.mean, self.precision), 1)

    def __mul__(self, other: DiagGaussian) -> DiagGaussian:
        r"""The normalised product of two densities, such as a prior and the likelihood of a task.

        Precisions add up, and the mean is the average of the means that they weight:
        \(\tau = \tau_1 + \tau_2,\ \mu = (\tau_1 \mu_1 + \tau_2 \mu_2) / \tau\).
        Where both are 0, it is the first mean.

        Args:
            other: over the same weights.

        Returns:
            The product, with the spec of either.

        Raises:
            ValueError: if sizes, names or shapes of the weights, dtypes or devices differ.
        """
        if not isinstance(other, DiagGaussian):
            return NotImplemented
        mine, theirs = self.mean, other.mean
        if (mine.shape, mine.dtype, mine.device) != (theirs.shape, theirs.dtype, theirs.device):
            raise ValueError(
                f"Gaussians of a product must be over the same weights; received {describe(mine)} and "
                f"{describe(theirs)}."
            )
        if self.spec is not None and other.spec is not None and self.spec != other.spec:
            raise ValueError(
                "Gaussians of a product must have one spec; received "
                f"{', '.join(self.spec.names)} and {', '.join(other.spec.names)}. `over` brings one to the other's."
            )
        precision = self.precision + other.precision
        share = torch.where(precision > 0, other.precision / precision, 0.0)
        return DiagGaussian(mine + share * (theirs - mine), precision, self.spec or other.spec)

    def tempered(self, power: float) -> DiagGaussian:
        """The density to a power, normalised: its precision times that number.

        Args:
            power: at least 0; less than 1 widens the Gaussian, more narrows it.

        Raises:
            ValueError: if the power is negative or not finite.
        """
        if power != 0:
            check_positive("power", power)
        return DiagGaussian(self.mean, self.precision * power, self.spec)

    def over(self, spec: ParamSpec, mean: float = 0.0, precision: float = 0.0) -> DiagGaussian:
        """The Gaussian over the weights of another spec, such as that of a network with a new head.

        Args:
            spec: names and shapes of the new weights; those that this Gaussian knows keep their mean and precision.
            mean: of all others.
            precision: of all others; 0 says nothing of them.

        Raises:
            ValueError: if there is no spec here, or a weight has another shape.
        """
        if self.spec is None:
            raise ValueError("without a spec, it isn't known which numbers are which weights. Give a spec.")
        means, precisions = self.spec.unflatten(self.mean), self.spec.unflatten(self.precision)
        parts: list[tuple[Tensor, Tensor]] = []
        for name, shape in zip(spec.names, spec.shapes, strict=True):
            known = means.get(name)
            if known is not None and tuple(known.shape) != shape:
                raise ValueError(f"{name!r} must have shape {tuple(known.shape)}; received a spec with {shape}.")
            if known is not None:
                parts.append((known, precisions[name]))
            else:
                parts.append((self.mean.new_full(shape, mean), self.mean.new_full(shape, precision)))
        return DiagGaussian(spec.flatten([m for m, _ in parts]), spec.flatten([p for _, p in parts]), spec)

    def to(self, *args: Any, **kwargs: Any) -> DiagGaussian:
        """The same with another dtype or on another device; arguments as those of `Tensor.to`."""
        return DiagGaussian(self.mean.to(*args, **kwargs), self.precision.to(*args, **kwargs), self.spec)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to a file, which is complete or not there at all.

        Args:
            path: of the file.
        """
        target = pathlib.Path(path)
        temporary = target.with_name(f".{target.name}.{os.getpid()}")
        spec = None if self.spec is None else {"names": list(self.spec.names), "shapes": list(self.spec.shapes)}
        try:
            torch.save({"format": FORMAT, "mean": self.mean, "precision": self.precision, "spec": spec}, temporary)
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: torch.device | str | None = None) -> DiagGaussian:
        """Read what `save` wrote; no code of the file is run.

        Args:
            path: of the file.
            device: where to put it; None where it was.

        Raises:
            FileNotFoundError: if there is no file.
            ValueError: if it holds something else.
        """
        try:
            content = torch.load(path, map_location=device, weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
            raise ValueError(f"{path} must be a file that DiagGaussian.save wrote: {error}") from error
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise ValueError(f"{path} must be a file that DiagGaussian.save wrote; it holds {describe(content)}.")
        spec = content["spec"]
        return cls(content["mean"], content["precision"], spec and ParamSpec(spec["names"], spec["shapes"]))

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
