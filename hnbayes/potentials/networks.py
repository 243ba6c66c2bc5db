"""A network's forward pass as a function of its weights, with any dimensions before their own."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from hnbayes._checks import check_count, describe
from hnbayes.potentials.nn import _as_function, refuse_training_mode


class NetworkFunction:
    """f(weights, inputs) for a `torch.nn.Module`, which is never changed; picklable if the module is.

    Args:
        net: the network. The trainable parameters, at the time of construction, are the weights; others are constants.
            A network with `param_shapes` and `forward(x, weights=[...])` goes in too.
        chunk_size: how many draws of the weights go through the network at once.

    Raises:
        TypeError: if an argument is of another kind.
        ValueError: if no parameter is trainable, or dropout or batch normalisation is in training mode.
    """

    def __init__(self, net: nn.Module, chunk_size: int = 128) -> None:
        if not isinstance(net, nn.Module):
            raise TypeError(f"net must be a torch.nn.Module; received {describe(net)}.")
        self.net = net
        self.chunk_size = check_count("chunk_size", chunk_size)
        refuse_training_mode(net)
        self.spec, _ = _as_function(net)
        self.shapes = dict(zip(self.spec.names, self.spec.shapes, strict=True))
        self._weights_from_outside = getattr(net, "param_shapes", None) is not None
        own = dict(net.named_parameters())
        self._constants = tuple(own.keys() - set(self.spec.names))
        self._one_by_one = False

    def like(self) -> dict[str, Tensor]:
        """For each parameter a tensor of its shape and dtype, on its device."""
        own = dict(self.net.named_parameters())
        return {name: own[name].detach() if name in own else torch.zeros(shape) for name, shape in self.shapes.items()}

    def batch_shape(self, weights: Mapping[str, Tensor]) -> tuple[int, ...]:
        """The dimensions before the parameters' own, to which those of all parameters broadcast."""
        return broadcast(*(w.shape[: w.ndim - len(self.shapes[name])] for name, w in weights.items()))

    def __call__(self, weights: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """The outputs.

        Args:
            weights: name -> tensor of shape (*lead, *shape), where the dimensions `lead` of all broadcast to `batch`.
            inputs: one set of inputs for all weights.

        Returns:
            Tensor of shape (*batch, ...), where ... is what the network gives for one set of weights.

        Raises:
            TypeError: if the network doesn't return one tensor.
            ValueError: if dropout or batch normalisation is in training mode.
        """
        refuse_training_mode(self.net)
        batch, shapes = self.batch_shape(weights), self.shapes
        if not batch:
            return self._apply(weights, inputs)
        rows = {name: w.expand(batch + shapes[name]).reshape(-1, *shapes[name]) for name, w in weights.items()}
        outputs = self._rows(rows, inputs)
        return outputs.reshape(batch + outputs.shape[1:])

    def _rows(self, rows: dict[str, Tensor], inputs: Tensor) -> Tensor:
        if not self._one_by_one:
            try:
                return vmap(self._apply, in_dims=(0, None), chunk_size=self.chunk_size)(rows, inputs)
            except RuntimeError as error:
                if isinstance(error, torch.OutOfMemoryError):
                    raise
                cause = error
            # What is wrong with the inputs is wrong with one row too, and surfaces here.
            self._apply({name: row[0] for name, row in rows.items()}, inputs)
            self._one_by_one = True
            warnings.warn(
                "the network can't be applied to several draws of its weights at once, so they are taken one after "
                f"another, which is slower. Cause: {cause}",
                UserWarning,
                stacklevel=2,
            )
        count = len(next(iter(rows.values())))
        return torch.stack([self._apply({name: row[i] for name, row in rows.items()}, inputs) for i in range(count)])

    def _apply(self, weights: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        output: Any
        if self._weights_from_outside:
            output = self.net.forward(inputs, weights=[weights[name] for name in self.spec.names])
        else:
            # Detached: were one unfrozen later, a guide's training would leave gradients in the caller's network.
            constants = {name: self.net.get_parameter(name).detach() for name in self._constants}
            output = functional_call(self.net, {**constants, **weights}, (inputs,))
        if not isinstance(output, Tensor):
            raise TypeError(f"the network must return one tensor; received {describe(output)}.")
        return output


def broadcast(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    """`torch.broadcast_shapes`, which torch leaves untyped."""
    return tuple(torch.broadcast_shapes(*shapes))  # type: ignore[no-untyped-call]
