r"""PrecisionNormal: the normal distribution given by a mean and a precision, which may be zero.

A precision of zero is what a Laplace approximation gives a weight that the data said nothing of. There the density is
improper: constant, so that it contributes nothing to a log density. That is a choice, as the limit of the normalised
density's logarithm is \(-\infty\): it keeps all log densities finite, and only a constant of the weights is left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, Normal, constraints
from torch.distributions.kl import register_kl
from torch.distributions.utils import _standard_normal, broadcast_all

LOG_2PI = math.log(2 * math.pi)


class _FiniteNonnegative(constraints.Constraint):
    """Numbers from 0 to the largest; not NaN, not infinity."""

    def check(self, value: Tensor) -> Tensor:
        return (value >= 0) & torch.isfinite(value)


class PrecisionNormal(Distribution):
    r"""The normal distribution of each element with mean \(\mu\) and precision \(\tau \ge 0\), the inverse variance.

    Where \(\tau > 0\), \(\log p(x) = \frac12 \log\frac{\tau}{2\pi} - \frac{\tau}{2} (x - \mu)^2\). Where \(\tau = 0\)
    the distribution is improper and \(\log p(x) = 0\). Elements are independent, as in `torch.distributions.Normal`:
    the event shape is (), so `expand`, `Independent` and, in `hnbayes.pyro`, `mask` and `to_event` apply.

    Where \(\tau = 0\), `mean` is \(\mu\), its limit; `variance` and `entropy` are infinite; and nothing can be sampled.
    KL(q, p) is \(E_q[\log q - \log p]\) with the log densities above: where p is improper it is minus the entropy
    of q, which may be negative; where q is improper it is infinite.

    Args:
        loc: \(\mu\), a number or a tensor that broadcasts against `precision`.
        precision: \(\tau\), finite and at least 0.
        validate_args: whether arguments and values are checked; None is torch's default.

    Raises:
        ValueError: if an argument is NaN or infinite, or a precision is negative (unless `validate_args` is False).

    Example:
        >>> flat = hnbayes.laplace.PrecisionNormal(torch.zeros(2), torch.tensor([4.0, 0.0]))
        >>> flat.stddev
        tensor([0.5000,    inf])
        >>> flat.log_prob(torch.tensor([0.0, 100.0]))[1]  # improper: it says nothing of this element
        tensor(0.)
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "loc": constraints.real,
        "precision": _FiniteNonnegative(),
    }
    support = constraints.real
    has_rsample = True

    def __init__(self, loc: Tensor | float, precision: Tensor | float, validate_args: bool | None = None) -> None:
        self.loc, self.precision = broadcast_all(loc, precision)
        super().__init__(self.loc.shape, validate_args=validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> PrecisionNormal:
        """The same distribution with a larger batch shape, as views of the same memory."""
        new: PrecisionNormal = self._get_checked_instance(PrecisionNormal, _instance)  # type: ignore[no-untyped-call]
        new.loc = self.loc.expand(torch.Size(batch_shape))
        new.precision = self.precision.expand(torch.Size(batch_shape))
        super(PrecisionNormal, new).__init__(torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def mean(self) -> Tensor:
        """The mean, also where the precision is 0."""
        return self.loc

    @property
    def mode(self) -> Tensor:
        """The mean, also where the precision is 0."""
        return self.loc

    @property
    def variance(self) -> Tensor:
        """1 / precision; infinite where that is 0."""
        return self.precision.reciprocal()

    @property
    def is_improper(self) -> Tensor:
        """Which elements have precision 0: a boolean tensor of the batch shape."""
        return self.precision == 0

    def log_prob(self, value: Tensor) -> Tensor:
        """The log density, normalised where the precision is positive and 0 where it is 0.

        Args:
            value: shape that broadcasts against the batch shape.

        Returns:
            The log density of each element.

        Raises:
            ValueError: if a value is NaN (unless `validate_args` is False).
        """
        if self._validate_args:
            self._validate_sample(value)
        return log_normaliser(self.precision) - 0.5 * self.precision * (value - self.loc).square()

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        r"""Differentiable draws \(\mu + \epsilon / \sqrt{\tau}\).

        Args:
            sample_shape: how many.

        Returns:
            Tensor of shape `(*sample_shape, *batch_shape)`.

        Raises:
            ValueError: if a precision is 0 (unless `validate_args` is False: the draws are infinite there).
        """
        # A check that reads numbers can't run under vmap, so it goes with the other checks of that kind.
        if self._validate_args:
            refuse_improper(self.precision)
        shape = self._extended_shape(torch.Size(sample_shape))
        noise = _standard_normal(shape, dtype=self.loc.dtype, device=self.loc.device)
        return self.loc + noise * self.precision.rsqrt()

    def entropy(self) -> Tensor:
        """The entropy of each element; infinite where the precision is 0."""
        return torch.where(self.is_improper, torch.inf, 0.5 - log_normaliser(self.precision))


def log_normaliser(precision: Tensor) -> Tensor:
    """The logarithm of sqrt(tau / 2 pi), and 0 where tau is 0, with a finite gradient there."""
    safe = torch.where(precision > 0, precision, 2 * math.pi)
    return 0.5 * (safe.log() - LOG_2PI)


def refuse_improper(precision: Tensor) -> None:
    """Raise ValueError if a precision is 0, where there is nothing to sample from."""
    zero = precision == 0
    if zero.any():
        first = tuple(torch.nonzero(zero)[0].tolist())
        raise ValueError(
            f"to sample, every precision must be greater than 0; received {int(zero.sum())} zeros among "
            f"{precision.numel()} precisions, the first at index {first}. There the distribution is improper: add the "
            "precision of a proper prior."
        )


def _expected_gap(q_mean: Tensor, q_entropy: Tensor, q_variance: Tensor, p: PrecisionNormal) -> Tensor:
    r"""\(E_q[\log q - \log p]\) of a normal q with these moments."""
    square = q_variance + (q_mean - p.loc).square()
    # An improper q has an infinite variance, of which 0 times is NaN; the entropy alone makes the sum infinite there.
    loss = torch.where(p.precision > 0, 0.5 * p.precision * square - log_normaliser(p.precision), 0.0)
    return torch.where(torch.isinf(q_entropy), torch.inf, loss - q_entropy)


@register_kl(PrecisionNormal, PrecisionNormal)  # type: ignore[no-untyped-call, untyped-decorator]
def _kl_precision_precision(q: PrecisionNormal, p: PrecisionNormal) -> Tensor:
    return _expected_gap(q.loc, q.entropy(), q.variance, p)


@register_kl(Normal, PrecisionNormal)  # type: ignore[no-untyped-call, untyped-decorator]
def _kl_normal_precision(q: Normal, p: PrecisionNormal) -> Tensor:
    return _expected_gap(q.loc, q.entropy(), q.variance, p)  # type: ignore[no-untyped-call]


@register_kl(PrecisionNormal, Normal)  # type: ignore[no-untyped-call, untyped-decorator]
def _kl_precision_normal(q: PrecisionNormal, p: Normal) -> Tensor:
    return _expected_gap(q.loc, q.entropy(), q.variance, PrecisionNormal(p.loc, p.scale**-2, validate_args=False))
