"""Sums over samples of squared gradients, in the fastest of three ways that gives what plain autograd gives.

1. *Layer by layer*: where every parameter is used only as weight or bias of `torch.nn.functional.linear`, as in dense
   and recurrent layers, few or none of the samples' gradients are formed (`linear_layers.py`).
2. *Vectorised*: `torch.func.vmap` of one sample's gradient, for as many samples as fit in memory.
3. *One by one*: plain autograd, for functions that can't be vectorised.

The third is the reference: the first samples are computed with it, and a faster way whose result differs isn't used.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import vjp, vmap

from hnbayes._checks import check_finite, validation
from hnbayes.laplace.linear_layers import LinearLayers, SumsOfSquares
from hnbayes.laplace.recurrent import UnrolledRecurrence
from hnbayes.laplace.samples import Batch, Samples
from hnbayes.laplace.scores import LikelihoodScores, Scores

# (parameters, inputs, identifiers) -> output, samples along its first dimension.
Forward = Callable[[Sequence[Tensor], Tensor, Any], Tensor]
Way = Callable[[Sequence[Tensor], Batch, Tensor], list[Tensor]]

BUDGET = 256 * 2**20  # bytes that the gradients and activations of a piece may take


class SquaredGradients:
    """Sum over samples and terms of squared gradients with respect to each parameter.

    Args:
        forward: the network as a function of parameters and inputs.
        scores: what is differentiated.
        params: where; they may be any tensors, leaves or not.
        one_by_one: compute it one sample at a time.
    """

    def __init__(self, forward: Forward, scores: Scores, params: Sequence[Tensor], *, one_by_one: bool = False) -> None:
        self.forward = forward
        self.scores = scores
        # For the reference: the caller's own tensors, so that functions which close over them are seen.
        self.leaves = [p if p.requires_grad else p.detach().clone().requires_grad_() for p in params]
        self.params = tuple(p.detach() for p in params)
        self.way = "one by one" if one_by_one else ""
        self.terms = 1
        self.activations = 0

    def sum_over(self, samples: Samples) -> list[Tensor]:
        """The sums over all samples, in float64 where there is that.

        Raises:
            ValueError: if there are no samples, or what they give is not finite.
        """
        wide = [p.dtype if p.device.type == "mps" else torch.float64 for p in self.params]
        sums = [torch.zeros_like(p, dtype=dtype) for p, dtype in zip(self.params, wide, strict=True)]
        # Checks of distributions read numbers, and so can't run under vmap.
        with torch.enable_grad(), validation(False) as usual:
            for number, batch in enumerate(samples):
                if number == 0:
                    with validation(usual):
                        self._look(batch.part(0, 1))
                targets = self._targets(batch)
                if number == 0:
                    parts = self._choose(batch, targets)
                    samples.piece = self._piece()
                else:
                    parts = self._ways()[self.way](self.params, batch, targets)
                for total, part in zip(sums, parts, strict=True):
                    total += part
        for i, total in enumerate(sums):
            check_finite(f"the sum of squared gradients of params[{i}]", total)
        return sums

    def _look(self, sample: Batch) -> None:
        """Shapes and memory that one sample takes."""
        seen = {p.data_ptr() for p in [*self.params, *self.leaves]}
        kept: dict[int, int] = {}

        def pack(saved: Tensor) -> Tensor:
            if saved.data_ptr() not in seen:
                kept[saved.data_ptr()] = saved.numel() * saved.element_size()
            return saved

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
            output = self.forward(self.leaves, sample.inputs, sample.ids)
        self.activations = sum(kept.values()) + sample.inputs.numel() * sample.inputs.element_size()
        self.output = output.detach()
        self.scores.targets(sample, self.output)

    def _targets(self, batch: Batch) -> Tensor:
        scores = self.scores
        if isinstance(scores, LikelihoodScores) and scores.samples_targets:
            with torch.no_grad():
                return scores.draw(self._outputs(batch))
        return scores.targets(batch, self.output)

    def _outputs(self, batch: Batch) -> Tensor:
        if self.way == "layer by layer":
            return self.forward(self.params, batch.inputs, batch.ids)
        if self.way == "vectorised":
            one = vmap(lambda x: self.forward(self.params, x.unsqueeze(batch.dim), None)[0], in_dims=batch.dim)
            with UnrolledRecurrence():
                return one(batch.inputs)
        rows = [batch.part(i, i + 1) for i in range(len(batch))]
        return torch.cat([self.forward(self.params, row.inputs, row.ids) for row in rows])

    def _choose(self, batch: Batch, targets: Tensor) -> list[Tensor]:
        """Choose the fastest way that agrees with plain autograd on the first samples; returns their sums."""
        expected = self._one_by_one(self.params, batch, targets)
        for i, part in enumerate(expected):
            check_finite(f"the squared gradient of params[{i}]", part)
        if self.way:
            return expected
        cause = "its result differs from that of one sample at a time"
        # One sample doesn't show whether those of a batch depend on each other.
        for way in ("layer by layer", "vectorised")[len(batch) == 1 :]:
            try:
                result = self._ways()[way](self.params, batch, targets)
            except Exception as error:  # a caller's function may raise anything under a transform
                cause = f"{type(error).__name__}: {error}"
                continue
            if all(map(_close, result, expected)):
                self.way = way
                return expected
        self.way = "one by one"
        if len(batch) > 1:
            warnings.warn(
                "the gradients of several samples can't be computed at once, so it is done one sample at a time, which "
                f"is slower. Cause: {cause}",
                UserWarning,
                stacklevel=5,
            )
        return expected

    def _ways(self) -> dict[str, Way]:
        return {"layer by layer": self._by_layer, "vectorised": self._vectorised, "one by one": self._one_by_one}

    def _piece(self) -> int:
        gradients = sum(p.numel() * p.element_size() for p in self.params)
        if self.way == "layer by layer":
            return max(1, BUDGET // (3 * self.activations + 1))
        # A sample's gradients for a block of terms, their squares, and the activations with their gradients.
        block = self._block()
        return max(1, BUDGET // (gradients * (2 * block + 1) + self.activations * (2 * block + 1) + 1))

    def _block(self) -> int:
        """Terms whose gradients are formed at once."""
        gradients = sum(p.numel() * p.element_size() for p in self.params)
        return max(1, min(self.terms, BUDGET // (8 * gradients + 1)))

    def _one_by_one(self, params: Sequence[Tensor], batch: Batch, targets: Tensor) -> list[Tensor]:
        sums = [torch.zeros_like(p) for p in self.params]
        for i in range(len(batch)):
            sample = batch.part(i, i + 1)
            output = self.forward(self.leaves, sample.inputs, sample.ids)
            terms = self.scores.terms(output, targets[i : i + 1], sample.ids)[0]
            self.terms = len(terms)
            for m in range(len(terms) if terms.requires_grad else 0):
                more = m + 1 < len(terms)
                gradients = torch.autograd.grad(terms[m], self.leaves, retain_graph=more, allow_unused=True)
                for total, gradient in zip(sums, gradients, strict=True):
                    if gradient is not None:
                        total += gradient.square()
        return sums

    def _vectorised(self, params: Sequence[Tensor], batch: Batch, targets: Tensor) -> list[Tensor]:
        def squares(x: Tensor, target: Tensor) -> list[Tensor]:
            def terms(*params: Tensor) -> Tensor:
                return self.scores.terms(self.forward(params, x.unsqueeze(batch.dim), None), target.unsqueeze(0))[0]

            values, pull = vjp(terms, *params)  # type: ignore[misc]
            if len(values) == 1:
                return [gradient.square() for gradient in pull(torch.ones_like(values))]
            sums = [torch.zeros_like(p) for p in params]
            basis = torch.eye(len(values), dtype=values.dtype, device=values.device)
            for rows in torch.split(basis, self._block()):
                for i, gradients in enumerate(vmap(pull)(rows)):
                    sums[i] = sums[i] + gradients.square().sum(0)
            return sums

        with UnrolledRecurrence():
            gradients: list[Tensor] = vmap(squares, in_dims=(batch.dim, 0), randomness="different")(
                batch.inputs, targets
            )
        return [gradient.sum(0) for gradient in gradients]

    def _by_layer(self, params: Sequence[Tensor], batch: Batch, targets: Tensor) -> list[Tensor]:
        recorder = LinearLayers(params, len(batch), batch.dim)
        with recorder, UnrolledRecurrence():
            output = self.forward(params, batch.inputs, batch.ids)
        terms = self.scores.terms(output, targets, batch.ids)
        outputs = recorder.outputs
        if not outputs or not terms.requires_grad:
            return [torch.zeros_like(p) for p in params]
        last = terms.shape[1] - 1
        sums = SumsOfSquares(recorder, BUDGET)
        for m in range(terms.shape[1]):
            sums.add(torch.autograd.grad(terms[:, m].sum(), outputs, retain_graph=m < last, allow_unused=True))
        return sums.result()


def _close(one: Tensor, other: Tensor) -> bool:
    tolerance = torch.finfo(one.dtype).eps ** 0.5
    return torch.allclose(one, other, rtol=tolerance, atol=tolerance * float(other.abs().max() if other.numel() else 0))
