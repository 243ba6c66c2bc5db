r"""Squared gradients of samples from the inputs of linear layers and the gradients of their outputs.

With inputs \(x_{nu}\) and gradients \(\delta_{nu}\) of the outputs of sample n at the u-th use of a weight, its
gradient is \(\sum_u \delta_{nu} x_{nu}^T\). With one use its square is the outer product of the squares, and one
matrix product sums over samples, so no sample's gradient is ever formed. With several, such as the steps of a
recurrence, they are formed for some samples at a time, by one product over the uses.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, resolve_name


class NotLinearError(Exception):
    """A parameter is used otherwise than as weight or bias of linear layers."""


class LinearLayers(TorchFunctionMode):
    """Records calls of `linear` with parameters; refuses any other use of these.

    Parameters must not require gradients: the graph then begins at the output of the first layer, and gradients are
    taken with respect to the layers' outputs only.

    Args:
        params: the parameters.
        batch: how many samples there are.
        dim: along which they stand in outputs of three dimensions.

    Attributes:
        outputs: of the recorded calls, in their order.
        inputs: the same of their inputs.
        weights: for each parameter, the calls of which it is the weight.
        biases: for each parameter, the calls of which it is the bias.
    """

    def __init__(self, params: Sequence[Tensor], batch: int, dim: int = 0) -> None:
        super().__init__()
        self.params = tuple(params)
        self.index = {id(p): i for i, p in enumerate(params)}
        self.batch = batch
        self.dim = dim
        self.outputs: list[Tensor] = []
        self.inputs: list[Tensor] = []
        self.weights: list[list[int]] = [[] for _ in params]
        self.biases: list[list[int]] = [[] for _ in params]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.nn.functional.linear:
            return self._linear(*args, **kwargs)
        if any(id(value) in self.index for value in _tensors((args, kwargs))) and not _reads_only(func):
            raise NotLinearError(f"a parameter is used by {resolve_name(func)}")
        return func(*args, **kwargs)

    def by_use(self, values: Tensor) -> Tensor:
        """Inputs or outputs of one call as (uses, samples, features)."""
        return values.unsqueeze(0) if values.ndim == 2 else values.movedim(self.dim, 1)

    def _linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if id(input) in self.index:
            raise NotLinearError("a parameter is used as an input")
        output = torch.nn.functional.linear(input, weight, bias)
        called = len(self.outputs)
        for p, calls in ((weight, self.weights), (bias, self.biases)):
            if p is not None and id(p) in self.index:
                calls[self.index[id(p)]].append(called)
        if all(id(p) not in self.index for p in (weight, bias)):
            return output
        if output.ndim not in (2, 3) or output.shape[self.dim if output.ndim == 3 else 0] != self.batch:
            raise NotLinearError("a linear layer is applied to other things than samples")
        if not output.requires_grad:
            output = output.requires_grad_()
        self.inputs.append(input.detach())
        self.outputs.append(output)
        return output


class SumsOfSquares:
    """Sums over samples and terms of the squared gradients of the recorded layers' parameters.

    Args:
        layers: the layers.
        budget: bytes that gradients of samples may take where they must be formed.
    """

    def __init__(self, layers: LinearLayers, budget: int) -> None:
        self.layers = layers
        self.budget = budget
        self.sums = [torch.zeros_like(p) for p in layers.params]
        once = {calls[0] for calls in (*layers.weights, *layers.biases) if len(calls) == 1}
        # Squared gradients of outputs of samples, summed over terms, where a weight or bias is used once.
        self.squares = {call: torch.zeros_like(out) for call, out in enumerate(layers.outputs) if call in once}
        self.squares = {call: square for call, square in self.squares.items() if square.ndim == 2}
        # Inputs (uses, samples, features) of weights that are used several times.
        self.shared = {
            i: torch.cat([layers.by_use(layers.inputs[call]) for call in calls])
            for i, calls in enumerate(layers.weights)
            if calls and not self._used_once(calls)
        }

    def add(self, gradients: Sequence[Tensor | None]) -> None:
        """Add one term, given its gradient of each output; None where an output plays no part."""
        layers = self.layers
        for call, square in self.squares.items():
            gradient = gradients[call]
            if gradient is not None:
                square.addcmul_(gradient, gradient)

        def together(calls: Sequence[int]) -> Tensor:
            pairs = [(gradients[call], layers.outputs[call]) for call in calls]
            return torch.cat([layers.by_use(torch.zeros_like(out) if g is None else g) for g, out in pairs])

        for i, inputs in self.shared.items():
            self.sums[i] += self._weight(together(layers.weights[i]), inputs)
        for i, calls in enumerate(layers.biases):
            if calls and not self._used_once(calls):
                self.sums[i] += together(calls).sum(0).square().sum(0)

    def result(self) -> list[Tensor]:
        """The sums, one tensor a parameter."""
        for i, (weight, bias) in enumerate(zip(self.layers.weights, self.layers.biases, strict=True)):
            if self._used_once(weight):
                self.sums[i] += self.squares[weight[0]].mT @ self.layers.inputs[weight[0]].square()
            if self._used_once(bias):
                self.sums[i] += self.squares[bias[0]].sum(0)
        return self.sums

    def _used_once(self, calls: Sequence[int]) -> bool:
        return len(calls) == 1 and calls[0] in self.squares

    def _weight(self, gradients: Tensor, inputs: Tensor) -> Tensor:
        """Sum over samples of a weight's squared gradient: gradients (U, N, O) and inputs (U, N, I) give (O, I)."""
        rows = max(1, self.budget // (2 * gradients.shape[2] * inputs.shape[2] * inputs.element_size()))
        total = gradients.new_zeros(gradients.shape[2], inputs.shape[2])
        for g, x in zip(torch.split(gradients, rows, 1), torch.split(inputs, rows, 1), strict=True):
            total += torch.bmm(g.permute(1, 2, 0), x.permute(1, 0, 2)).square().sum(0)
        return total


def _tensors(values: Any) -> Iterator[Any]:
    for value in values.values() if isinstance(values, dict) else values:
        if isinstance(value, (list, tuple, dict)):
            yield from _tensors(value)
        else:
            yield value


# Attributes and methods that tell of a tensor what isn't its numbers.
_FORM = {
    *("shape", "dtype", "device", "ndim", "requires_grad", "is_leaf", "layout", "is_cuda"),
    *("size", "dim", "numel", "__len__"),
}


def _reads_only(func: Any) -> bool:
    name = getattr(func, "__name__", "")
    return (getattr(func.__self__, "__name__", "") if name == "__get__" else name) in _FORM
