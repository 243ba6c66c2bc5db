"""Records what a function does to tensors, as a graph of plain operations.

It gives what `make_fx` gives for real tensors on a CPU, but that imports torch's compiler, which takes longer than many
a run of a small model. What it records is compared with the function before it is used (see `evaluators.build`).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_aggregate
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten


class UnrecordableError(Exception):
    """The function's operations depend on values, or on tensors of another kind."""


def recorded(function: Callable[..., Any], arguments: Sequence[Tensor], table: Mapping[Any, Any]) -> GraphModule:
    """What a function does to tensors like these.

    Args:
        function: of tensors, whose results are tensors or nested tuples of them.
        arguments: plain tensors on the CPU.
        table: for operations that are to be written in terms of others, functions that do so.

    Returns:
        The graph, with a stand-in for each value in `node.meta["val"]`: a tensor of the same shape, strides and dtype,
        with anything in it.

    Raises:
        UnrecordableError: if there is something that a graph can't hold.
    """
    recorder = _Recorder(table)
    for number, argument in enumerate(arguments):
        recorder.remember(argument, recorder.graph.placeholder(f"q_{number + 1}"))
    with recorder:
        results = function(*arguments)
    recorder.graph.output(map_aggregate(results, recorder.node_of))
    return GraphModule(recorder.constants, recorder.graph)


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees each operation below autograd and vmap, when it is carried out."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Torch would import its compiler, to keep it from compiling the method below."""
        return False

    def __init__(self, table: Mapping[Any, Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.table = table
        self.graph, self.constants = Graph(), nn.Module()
        # Tensors are known by their identity, so they have to stay.
        self.known: dict[int, tuple[Tensor, Node]] = {}
        self.count = 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Carry out an operation and write it down."""
        kwargs = kwargs or {}
        # What torch itself describes by other operations is described so.
        with self:
            found = self.table.get(operation, operation.decompose)(*args, **kwargs)
        if found is not NotImplemented:
            return found
        if operation is aten._local_scalar_dense.default:
            raise UnrecordableError("a value is asked for.")
        node_args, node_kwargs = map_aggregate(args, self.node_of), map_aggregate(kwargs, self.node_of)
        results = operation(*args, **kwargs)
        node = self.graph.call_function(operation, node_args, node_kwargs)
        if isinstance(results, Tensor):
            self.remember(results, node)
        elif isinstance(results, (tuple, list)):
            for place, result in enumerate(results):
                if isinstance(result, Tensor):
                    self.remember(result, self.graph.call_function(operator.getitem, (node, place)))
        return results

    def remember(self, value: Tensor, node: Node) -> None:
        """A node's value is this tensor."""
        if type(value) not in (Tensor, nn.Parameter) or value.device.type != "cpu" or value.layout != torch.strided:
            raise UnrecordableError(f"a tensor of another kind: {type(value)} on {value.device}.")
        node.meta["val"] = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype)
        self.known[id(value)] = (value, node)

    def node_of(self, value: Any) -> Any:
        """The node of a tensor, which is a constant if no operation has made it; other values as they are."""
        if not isinstance(value, Tensor):
            return value
        if id(value) not in self.known:
            name = f"_tensor_constant{self.count}"
            self.count += 1
            setattr(self.constants, name, value)
            self.remember(value, self.graph.get_attr(name))
        return self.known[id(value)][1]
