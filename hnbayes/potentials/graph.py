"""Simplifies a captured graph: fewer operations, the same numbers.

On networks of the size that people sample, an operation's dispatch costs as much as its arithmetic, and a graph that
came out of `vmap` and autograd is half made of views that change nothing and of constants that are made anew in every
call. The result is compared with the graph it came from before it is used (see `evaluators.build`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule, Node

aten = torch.ops.aten

# Operations that give a view of their first argument.
VIEWS = {aten.view.default, aten._unsafe_view.default, aten.expand.default, aten.transpose.int, aten.detach.default}
RESHAPES = {aten.view.default, aten._unsafe_view.default}
# Operations whose result depends on the shape of their argument only.
SHAPE_ONLY = {aten.ones_like.default, aten.zeros_like.default, aten.full_like.default}
# Operations that change nothing with this number as their second argument.
NEUTRAL = {
    aten.pow.Tensor_Scalar: 1,
    aten.mul.Scalar: 1,
    aten.mul.Tensor: 1,
    aten.div.Tensor: 1,
    aten.sub.Tensor: 0,
    aten.add.Tensor: 0,
}


def simplify(graph: GraphModule) -> GraphModule:
    """Simplify a graph of plain tensor operations, in place.

    Graphs that hold in-place operations are left as they are: an operation's result might then not stay what it was.
    """
    nodes = graph.graph.nodes
    if any(_mutates(node) for node in nodes):
        return graph
    _fold_constants(graph)
    for node in list(nodes):
        _drop_identity(graph, node)
    for node in list(nodes):
        _shorten_views(node)
        _cheaper_product(graph, node)
        if node.target is aten.tanh.default and _meta(node).device.type == "cpu":
            node.target = host_tanh
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def host_tanh(x: Tensor) -> Tensor:
    """The hyperbolic tangent by NumPy, whose vectorised one takes a tenth of the time of torch's on a CPU."""
    return torch.from_numpy(np.tanh(x.numpy()))


def _mutates(node: Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable


def _meta(node: Node) -> Tensor:
    """A stand-in for a node's value, of the same shape, strides, dtype and device."""
    value: Tensor = node.meta["val"]
    return value


def _same_layout(a: Node, b: Node) -> bool:
    x, y = a.meta.get("val"), b.meta.get("val")
    if not isinstance(x, Tensor) or not isinstance(y, Tensor):
        return False
    return x.shape == y.shape and x.stride() == y.stride() and x.dtype == y.dtype


def _fold_constants(graph: GraphModule) -> None:
    """Compute once what depends on neither the position nor the data."""
    values: dict[Node, Any] = {}
    for node in graph.graph.nodes:
        if node.op != "call_function" or torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
            continue
        if node.target in SHAPE_ONLY:
            shape_of = _meta(node.args[0])
            blank = torch.empty_strided(
                tuple(shape_of.shape), shape_of.stride(), dtype=shape_of.dtype, device=shape_of.device
            )
            arguments: tuple[Any, ...] = (blank, *node.args[1:])
        elif all(value in values for value in node.all_input_nodes) and _makes_tensor(node):
            arguments = torch.fx.node.map_arg(node.args, values.__getitem__)
        else:
            continue
        values[node] = node.target(*arguments, **node.kwargs)
    for number, (node, value) in enumerate(values.items()):
        name = f"_constant_{number}"
        graph.register_buffer(name, value, persistent=False)
        with graph.graph.inserting_before(node):
            constant = graph.graph.get_attr(name)
        constant.meta["val"] = value
        node.replace_all_uses_with(constant)
    graph.graph.eliminate_dead_code()


def _makes_tensor(node: Node) -> bool:
    return isinstance(node.meta.get("val"), Tensor)


def _drop_identity(graph: GraphModule, node: Node) -> None:
    """Remove views that change nothing, and sums, products and powers with a neutral number."""
    source: Any = node.args[0] if node.args else None
    other: Any = node.args[1] if len(node.args) > 1 else None
    if node.target is aten.mul.Tensor and _is_ones(graph, source):
        source, other = other, source
    if not isinstance(source, Node):
        return
    changes_nothing = (
        node.target in VIEWS
        or (node.target in NEUTRAL and _is_number(other, NEUTRAL[node.target]))
        or (node.target is aten.mul.Tensor and _is_ones(graph, other))
    )
    if changes_nothing and _same_layout(node, source):
        node.replace_all_uses_with(source)


def _is_number(value: Any, number: int) -> bool:
    return isinstance(value, (int, float)) and value == number


def _is_ones(graph: GraphModule, node: Any) -> bool:
    if not isinstance(node, Node) or node.op != "get_attr" or not str(node.target).startswith("_constant_"):
        return False
    value = getattr(graph, str(node.target))
    return bool((value == 1).all())


def _shorten_views(node: Node) -> None:
    """A view of a view, and a transposition undone, start from the tensor they came from."""
    source = node.args[0] if node.args else None
    if not isinstance(source, Node) or not source.args or not isinstance(source.args[0], Node):
        return
    origin = source.args[0]
    if node.target in RESHAPES and source.target in RESHAPES and _meta(origin).is_contiguous():
        node.replace_input_with(source, origin)
    elif node.target is aten.transpose.int and source.target is aten.transpose.int and _same_layout(node, origin):
        node.replace_all_uses_with(origin)


def _cheaper_product(graph: GraphModule, node: Node) -> None:
    """Write batched matrix products in the form that CPU libraries are fast at.

    A product over a single inner index is elementwise. The product A^T B that gives a layer's weight gradient, over
    many data points and with fewer columns than rows, is faster as the transpose of B^T A.
    """
    if node.target is not aten.bmm.default or _meta(node).device.type != "cpu":
        return
    left, right = node.args
    if not isinstance(left, Node) or not isinstance(right, Node):
        return
    _, rows, inner = _meta(left).shape
    columns = _meta(right).shape[2]
    if inner == 1:
        node.target = aten.mul.Tensor
        return
    source = left.args[0] if left.target is aten.transpose.int else None
    if not isinstance(source, Node) or not _meta(source).is_contiguous() or columns >= rows or inner <= rows:
        return
    call = graph.graph.call_function
    with graph.graph.inserting_before(node):
        flipped = call(aten.bmm.default, (call(aten.transpose.int, (right, 1, 2)), source))
        # Views of the product follow, which need it laid out as it was.
        product = call(
            aten.clone.default,
            (call(aten.transpose.int, (flipped, 1, 2)),),
            {"memory_format": torch.contiguous_format},
        )
    product.meta["val"] = node.meta["val"]
    node.replace_all_uses_with(product)
