"""Layers: finds a stack of dense layers in what a network does, operation by operation.

What is looked at is the captured forward pass, not the module: whatever changes what the network computes (a hook, a
reparametrised weight, a `forward` of a subclass, dropout) is seen as an operation that doesn't belong there.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from hnbayes.potentials.tracing import traced

aten = torch.ops.aten

# As dense.c numbers them.
ACTIVATIONS: dict[Any, int] = {
    aten.tanh.default: 1,
    aten.tanh_.default: 1,
    aten.relu.default: 2,
    aten.relu_.default: 2,
    aten.sigmoid.default: 3,
    aten.sigmoid_.default: 3,
    aten.softplus.default: 4,
    aten.silu.default: 5,
    aten.silu_.default: 5,
}
SOFTPLUS = (1.0, 20.0)  # slope and the point from which it goes on straight
SAME = {aten.view.default, aten._unsafe_view.default, aten.detach.default, aten.alias.default}
LOOKS = SAME | {
    *(aten.t.default, aten.transpose.int, aten.split_with_sizes.default, aten.slice.Tensor, aten.select.int),
    *(aten.unsqueeze.default, aten.squeeze.dim, operator.getitem),
}


class UnknownLayersError(Exception):
    """The network is no stack of dense layers."""


@dataclass(frozen=True)
class Layer:
    """One layer: activation(W x + b).

    Attributes:
        inputs, units: the shape of W is (units, inputs).
        activation: its number in dense.c; 0 is none.
        weight, bias: where W (row by row) and b stand in a position; bias is -1 where there is none.
    """

    inputs: int
    units: int
    activation: int
    weight: int
    bias: int


def find_layers(outputs: Callable[[Tensor], Tensor], inputs: Tensor, position: Tensor) -> list[Layer] | None:
    """The layers of a network, first to last, or None if it is something else.

    Args:
        outputs: the network's outputs for `inputs`, from a position (D,).
        inputs: (N, ...), contiguous.
        position: one at which the network is tried.
    """
    try:
        return _Search(traced(outputs, position), inputs, len(position)).layers()
    except Exception:  # a network that can't be captured, or of an unforeseen kind, is none of these
        return None


class _Search:
    """Walks from a network's outputs back to its inputs."""

    def __init__(self, graph: GraphModule, inputs: Tensor, dimension: int) -> None:
        self.graph, self.inputs = graph, inputs
        self.places = torch.arange(dimension)
        self.known: set[Node] = set()
        self.taken: set[int] = set()

    def layers(self) -> list[Layer]:
        nodes = list(self.graph.graph.nodes)
        at = self._same(nodes[-1].args[0])
        found: list[Layer] = []
        while not self._is_inputs(at):
            activation = ACTIVATIONS.get(at.target, 0)
            if activation:
                if at.target is aten.softplus.default and (*at.args[1:], *SOFTPLUS[len(at.args) - 1 :]) != SOFTPLUS:
                    raise UnknownLayersError
                self.known.add(at)
                at = self._same(at.args[0])
            bias, below, weight = self._product(at)
            self.known.add(at)
            units, start = self._weight(weight)
            found.append(Layer(units[1], units[0], activation, start, -1 if bias is None else self._bias(bias, units)))
            at = self._same(below)
        # What else is computed might change what a step before it sees, in place.
        strange = (n for n in nodes if n.op == "call_function" and n not in self.known and n.target not in LOOKS)
        if next(strange, None) is not None:
            raise UnknownLayersError
        return found[::-1]

    def _same(self, node: Any) -> Any:
        """The node that this one is, if it only looks at it in the same shape, or a flat look at the inputs."""
        while node.target in SAME:
            source = node.args[0]
            if _shape(node) != _shape(source) and not self._is_inputs(node):
                if _shape(node) != _shape(source)[:1] or node.users.keys() != {self._output()}:
                    raise UnknownLayersError
            elif self._is_inputs(node):
                return node
            node = source
        return node

    def _output(self) -> Node:
        return next(iter(reversed(self.graph.graph.nodes)))

    def _is_inputs(self, node: Any) -> bool:
        if len(_shape(node)) != 2:
            return False
        while node.target in SAME:
            node = node.args[0]
        if node.op != "get_attr":
            return False
        value = getattr(self.graph, str(node.target))
        return value is self.inputs or value.data_ptr() == self.inputs.data_ptr()

    def _product(self, node: Any) -> tuple[Any, Any, Any]:
        """(bias, inputs, transposed weight) of a product."""
        if node.kwargs:
            raise UnknownLayersError
        if node.target is aten.addmm.default:
            bias, below, weight = node.args
            return bias, below, weight
        if node.target is aten.mm.default:
            below, weight = node.args
            return None, below, weight
        raise UnknownLayersError

    def _places(self, node: Any) -> Any:
        """Which numbers of the position a node consists of."""
        if node.op == "placeholder":
            return self.places
        if node.target not in LOOKS:
            raise UnknownLayersError
        source, *others = node.args
        return node.target(self._places(source), *others, **node.kwargs)

    def _weight(self, transposed: Any) -> tuple[tuple[int, int], int]:
        """Shape of a weight (units, inputs) and where it starts in the position."""
        places = self._places(transposed).T
        return (places.shape[0], places.shape[1]), self._start(places)

    def _bias(self, node: Any, units: tuple[int, int]) -> int:
        places = self._places(node)
        if places.shape != (units[0],):
            raise UnknownLayersError
        return self._start(places)

    def _start(self, places: Tensor) -> int:
        """Where numbers that stand in a row begin; each may be used once."""
        start = int(places.flatten()[0])
        row = range(start, start + places.numel())
        if places.flatten().tolist() != list(row) or not self.taken.isdisjoint(row):
            raise UnknownLayersError
        self.taken.update(row)
        return start


def _shape(node: Any) -> tuple[int, ...]:
    return tuple(node.meta["val"].shape)
