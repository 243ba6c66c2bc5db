r"""Scores: functions of a network's output whose squared gradients, summed, are a sample's diagonal Fisher.

For the empirical Fisher there is one function, \(\log p(y_n | x_n)\). An expectation over targets is a sum of several:
over the classes c of a softmax, \(\sum_c p_c (\nabla \log p_c)^2 = \sum_c (\nabla [\sqrt{p_c} \log p_c])^2\) with the
root held constant; for a Gaussian of variance v, \(\sum_k (\nabla f_k / \sqrt{v})^2\). Steps of a time series are
independent given the inputs and their scores have mean zero, so their Fisher matrices add up.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from hnbayes._checks import describe
from hnbayes.laplace.samples import Batch


class Scores(ABC):
    """What is differentiated: a (B, M) array of numbers of the outputs of B samples.

    Attributes:
        samples_targets: whether the targets are drawn from the network's own predictions.
    """

    samples_targets = False

    def targets(self, batch: Batch, output: Tensor) -> Tensor:
        """The targets as `terms` takes them, the samples along the first dimension, checked against one output."""
        return batch.targets.new_zeros(len(batch))

    @abstractmethod
    def terms(self, output: Tensor, targets: Tensor, ids: Any = None) -> Tensor:
        """The (B, M) numbers.

        Args:
            output: of B samples, along its first dimension.
            targets: as `targets` gives them.
            ids: the samples' identifiers, if asked for.
        """


@dataclass(frozen=True)
class EmpiricalSoftmax(Scores):
    """log p(label), summed over the steps of a time series."""

    time_series: bool = False
    one_hot: bool | None = None

    def targets(self, batch: Batch, output: Tensor) -> Tensor:
        """As in `Scores`."""
        check_logits(output, self.time_series)
        return as_labels(batch.targets.movedim(batch.target_dim, 0), output, self.one_hot)

    def terms(self, output: Tensor, targets: Tensor, ids: Any = None) -> Tensor:
        """As in `Scores`."""
        return output.log_softmax(-1).gather(-1, targets.unsqueeze(-1)).flatten(1).sum(1, keepdim=True)


@dataclass(frozen=True)
class ExactSoftmax(Scores):
    """sqrt(p) log p of each class and step, the root held constant."""

    time_series: bool = False

    def targets(self, batch: Batch, output: Tensor) -> Tensor:
        """As in `Scores`."""
        check_logits(output, self.time_series)
        return super().targets(batch, output)

    def terms(self, output: Tensor, targets: Tensor, ids: Any = None) -> Tensor:
        """As in `Scores`."""
        log_p = output.log_softmax(-1)
        return ((0.5 * log_p.detach()).exp() * log_p).flatten(1)


@dataclass(frozen=True)
class EmpiricalGaussian(Scores):
    """log p(y) of a Gaussian, summed over outputs and steps."""

    variance: float

    def targets(self, batch: Batch, output: Tensor) -> Tensor:
        """As in `Scores`."""
        return as_values(batch.targets.movedim(batch.target_dim, 0), output)

    def terms(self, output: Tensor, targets: Tensor, ids: Any = None) -> Tensor:
        """As in `Scores`."""
        return (output - targets).square().flatten(1).sum(1, keepdim=True) * (-0.5 / self.variance)


@dataclass(frozen=True)
class ExactGaussian(Scores):
    """f / sqrt(v) of each output and step."""

    variance: float

    def terms(self, output: Tensor, targets: Tensor, ids: Any = None) -> Tensor:
        """As in `Scores`."""
        return output.flatten(1) / math.sqrt(self.variance)


@dataclass(frozen=True)
class LikelihoodScores(Scores):
    """log p(y) of any likelihood: of the data's targets, or of `draws` targets drawn from it.

    Attributes:
        distribution: from the outputs of B samples to a distribution of batch shape (B, ...).
        draws: how many targets are drawn for a sample; 0 takes those of the data.
        generator: of the draws.
    """

    distribution: Callable[[Tensor], Distribution]
    draws: int = 0
    generator: torch.Generator | None = None

    @property
    def samples_targets(self) -> bool:  # type: ignore[override]
        """Whether targets are drawn."""
        return self.draws > 0

    def targets(self, batch: Batch, output: Tensor) -> Tensor:
        """As in `Scores`."""
        expected = self._shape(output)
        if self.samples_targets:
            return super().targets(batch, output)
        targets = batch.targets.movedim(batch.target_dim, 0)
        if tuple(targets.shape[1:]) != expected:
            raise ValueError(
                f"targets must have shape (N, {', '.join(map(str, expected))}), as the likelihood; received "
                f"{describe(targets)}."
            )
        return targets

    def draw(self, output: Tensor) -> Tensor:
        """Targets (B, draws, ...) of a likelihood at outputs of B samples."""
        if self.generator is None:
            raise ValueError("to draw targets, a generator is needed; received none.")
        distribution = self.distribution(output)
        if isinstance(distribution, torch.distributions.Categorical):
            flat = distribution.probs.reshape(-1, distribution.probs.shape[-1])
            draws = torch.multinomial(flat, self.draws, replacement=True, generator=self.generator)
            return draws.reshape(*distribution.batch_shape, self.draws).movedim(-1, 1)
        # Distributions draw from the global stream, which is put back.
        seed = int(torch.randint(2**31, (), generator=self.generator, device=self.generator.device))
        with torch.random.fork_rng(devices=[output.device] if output.device.type == "cuda" else []):
            torch.manual_seed(seed)
            return distribution.sample((self.draws,)).movedim(0, 1)

    def terms(self, output: Tensor, targets: Tensor, ids: Any = None) -> Tensor:
        """As in `Scores`."""
        distribution = self.distribution(output)
        if not self.draws:
            return distribution.log_prob(targets).reshape(len(output), -1).sum(1, keepdim=True)
        log_p = distribution.log_prob(targets.movedim(1, 0)).movedim(0, 1)
        return log_p.reshape(len(output), self.draws, -1).sum(-1) / math.sqrt(self.draws)

    def _shape(self, output: Tensor) -> tuple[int, ...]:
        distribution = self.distribution(output)
        return (*distribution.batch_shape[1:], *distribution.event_shape)


class CustomScores(Scores):
    """A caller's negative log-likelihood of one sample.

    Args:
        nll: from (output, target, identifiers), in the layout of network and data, to a number.
        dim: along which samples stand in an output of the network, 0 or 1.
    """

    def __init__(self, nll: Callable[[Tensor, Tensor, Any], Tensor], dim: int = 0) -> None:
        self.nll = nll
        self.dim = dim
        self.target_dim = 0

    def targets(self, batch: Batch, output: Tensor) -> Tensor:
        """As in `Scores`."""
        self.target_dim = batch.target_dim
        return batch.targets.movedim(batch.target_dim, 0)

    def terms(self, output: Tensor, targets: Tensor, ids: Any = None) -> Tensor:
        """As in `Scores`."""
        if len(output) != 1:
            raise ValueError("custom_nll takes one sample at a time.")
        value = self.nll(output.movedim(0, self.dim), targets.movedim(0, self.target_dim), ids)
        if not isinstance(value, Tensor) or value.numel() != 1:
            raise ValueError(f"custom_nll must return one number for a sample, a tensor; received {describe(value)}.")
        return -value.reshape(1, 1)


def check_logits(output: Tensor, time_series: bool) -> None:
    """Raise ValueError unless outputs of samples are logits (B, C), or (B, S, C) for time series."""
    if output.ndim != (3 if time_series else 2):
        layout = "[S, N, F] for time series" if time_series else "(N, classes)"
        raise ValueError(f"the network's output must have shape {layout}; received {output.ndim} dimensions.")


def as_labels(targets: Tensor, output: Tensor, one_hot: bool | None) -> Tensor:
    """Labels (B,) or (B, S) from labels or one-hot rows, checked against outputs (., C) or (., S, C).

    Raises:
        ValueError: if shapes don't fit, numbers are no labels, or labels are out of range.
    """
    lead, classes = output.ndim - 1, output.shape[-1]
    if one_hot is None:
        one_hot = targets.ndim == output.ndim and targets.shape[-1] == classes and classes > 1
    if one_hot:
        if targets.ndim != output.ndim or targets.shape[-1] != classes:
            raise ValueError(f"one-hot targets must have {classes} columns, as outputs; received {describe(targets)}.")
        if not ((targets == 0) | (targets == 1)).all() or not (targets.sum(-1) == 1).all():
            raise ValueError("one-hot targets must hold a single 1 in each row and else 0; received other numbers.")
        return targets.argmax(-1)
    if targets.ndim == output.ndim and targets.shape[-1] == 1:
        targets = targets.squeeze(-1)
    if targets.ndim != lead or targets.shape[1:] != output.shape[1:lead]:
        raise ValueError(
            f"labels must have one number for each sample{' and step' if lead > 1 else ''}; received "
            f"{describe(targets)} for outputs of shape (N, {', '.join(map(str, output.shape[1:]))})."
        )
    labels = targets.long()
    if targets.is_floating_point() and not torch.equal(labels.to(targets.dtype), targets):
        raise ValueError("labels must be whole numbers; received others. Use regression=True for values.")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise ValueError(
            f"labels must lie in 0..{classes - 1}, as there are {classes} outputs; received labels from {low} to "
            f"{high}. A target_manipulator can count them from 0."
        )
    return labels


def as_values(targets: Tensor, output: Tensor) -> Tensor:
    """Regression targets of the outputs' shape and dtype; (B,) goes with outputs (B, 1).

    Raises:
        ValueError: if shapes don't fit.
    """
    if targets.shape[1:] != output.shape[1:] and (*targets.shape[1:], 1) == tuple(output.shape[1:]):
        targets = targets.unsqueeze(-1)
    if targets.shape[1:] != output.shape[1:]:
        raise ValueError(
            f"targets must have the shape of the outputs, (N, {', '.join(map(str, output.shape[1:]))}); received "
            f"{describe(targets)}. They would be broadcast."
        )
    return targets.to(output.dtype)
