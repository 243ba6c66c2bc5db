"""Simplifies a captured graph: fewer operations, the same numbers.

On networks of the size that people sample, an operation's dispatch costs as much as its arithmetic, and a graph that
came out of `vmap` and autograd is half made of views that change nothing and of constants that are made anew in every
call. The result is compared with the graph it came from before it is used (see `evaluators.build`).
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule, Node

aten = torch.ops.aten

# Operations that give a view of their first argument.
VIEWS = {aten.view.default, aten._unsafe_view.default, aten.expand.default, aten.transpose.int, aten.detach.default}
# Others that may share memory with their argument.
ALIASES = VIEWS | {
    *(aten.unsqueeze.default, aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims, aten.permute.default),
    *(aten.t.default, aten.select.int, aten.slice.Tensor, aten.split.Tensor, aten.split_with_sizes.default),
    *(aten.unbind.int, aten.alias.default, aten.diagonal.default, aten.as_strided.default, operator.getitem),
}
RESHAPES = {aten.view.default, aten._unsafe_view.default}
# Operations whose result depends on the shape of their argument only.
SHAPE_ONLY = {aten.ones_like.default, aten.zeros_like.default, aten.full_like.default, aten.empty_like.default}
# Operations that change nothing with this number as their second argument.
NEUTRAL = {
    aten.pow.Tensor_Scalar: 1,
    aten.mul.Scalar: 1,
    aten.mul.Tensor: 1,
    aten.div.Tensor: 1,
    aten.sub.Tensor: 0,
    aten.add.Tensor: 0,
}
# What names of attributes begin with that were computed once.
FOLDED = "_constant_"
SYMMETRIC = {aten.mul.Tensor, aten.add.Tensor}


def simplify(graph: GraphModule, fold_data: bool = False) -> GraphModule:
    """Simplify a graph of plain tensor operations, in place.

    Graphs that hold in-place operations on what is used elsewhere too are left as they are: an operation's result might
    then not stay what it was.

    Args:
        graph: with stand-ins of all values in `node.meta["val"]`.
        fold_data: whether what depends on the data alone is computed once too; changes of the data in place, after
            that, are not seen.
    """
    nodes = graph.graph.nodes
    for node in list(nodes):
        _out_of_place(node)
    if any(_mutates(node) for node in nodes):
        return graph
    _fold_constants(graph, fold_data)
    for node in list(nodes):
        _drop_identity(graph, node)
    _share_results(graph)
    for node in list(nodes):
        _shorten_views(node)
        _turned_product(graph, node)
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
    """Whether an operation writes to one of its arguments."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable


def _out_of_place(node: Node) -> None:
    """Write an operation in place as the one that makes a new result, which later operations then use."""
    if not _mutates(node) or not isinstance(node.args[0], Node) or node.kwargs:
        return
    source = node.args[0]
    others = [user for user in source.users if user is not node]
    # What looks at the same memory would have to change with it.
    if source.op != "call_function" or any(n.target in ALIASES for n in (source, *others)):
        return
    schema: Any = node.target._schema  # type: ignore[union-attr]
    name, overload = schema.name.removeprefix("aten::"), schema.overload_name or "default"
    packet = getattr(aten, name.removesuffix("_"), None) if name.endswith("_") else None
    if packet is None or overload not in packet.overloads():
        return
    node.target = getattr(packet, overload)
    for user in others:
        if node < user:
            user.replace_input_with(source, node)


def _meta(node: Node) -> Tensor:
    """A stand-in for a node's value, of the same shape, strides, dtype and device."""
    value: Tensor = node.meta["val"]
    return value


def _same_layout(a: Node, b: Node) -> bool:
    x, y = a.meta.get("val"), b.meta.get("val")
    if not isinstance(x, Tensor) or not isinstance(y, Tensor):
        return False
    return x.shape == y.shape and x.stride() == y.stride() and x.dtype == y.dtype


def _fold_constants(graph: GraphModule, fold_data: bool) -> None:
    """Compute once what depends on neither the position nor (unless they are to be folded) the data."""
    values: dict[Node, Any] = {}
    data: dict[Node, Any] = {}
    for node in graph.graph.nodes:
        if node.op == "get_attr":
            data[node] = getattr(graph, str(node.target))
            continue
        if node.op != "call_function" or torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
            continue
        if node.target in SHAPE_ONLY:
            shape_of = _meta(node.args[0])
            blank = torch.empty_strided(
                tuple(shape_of.shape), shape_of.stride(), dtype=shape_of.dtype, device=shape_of.device
            )
            arguments: tuple[Any, ...] = (blank, *node.args[1:])
        elif _makes_tensor(node) and (
            all(value in values or (fold_data and value in data) for value in node.all_input_nodes)
            # A number that the function makes a tensor of in every call: nobody else holds that tensor.
            or node.target is aten.lift_fresh_copy.default
        ):
            arguments = torch.fx.node.map_arg(node.args, {**data, **values}.__getitem__)
        else:
            continue
        values[node] = node.target(*arguments, **node.kwargs)
    for number, (node, value) in enumerate(values.items()):
        name = f"{FOLDED}{number}"
        graph.register_buffer(name, value, persistent=False)
        with graph.graph.inserting_before(node):
            constant = graph.graph.get_attr(name)
        constant.meta["val"] = value
        node.replace_all_uses_with(constant)
    graph.graph.eliminate_dead_code()


def _makes_tensor(node: Node) -> bool:
    return isinstance(node.meta.get("val"), Tensor)


def _drop_identity(graph: GraphModule, node: Node) -> None:
    """Remove what changes nothing: views, arithmetic with a neutral number, sums of one term, two minus signs."""
    source: Any = node.args[0] if node.args else None
    other: Any = node.args[1] if len(node.args) > 1 else None
    if node.target in SYMMETRIC and _is_neutral(graph, source, NEUTRAL[node.target]):
        source, other = other, source
    if not isinstance(source, Node):
        return
    if node.target is aten.neg.default and source.target is aten.neg.default:
        node.replace_all_uses_with(source.args[0])  # type: ignore[arg-type]
        return
    if node.target is aten.sum.dim_IntList and _makes_tensor(source) and not node.kwargs:
        shape = _meta(source).shape
        if isinstance(other, (list, tuple)) and other and all(shape[axis] == 1 for axis in other):
            node.target, node.args = aten.view.default, (source, list(_meta(node).shape))
            other = None
    changes_nothing = node.target in VIEWS or (
        node.target in NEUTRAL and _is_neutral(graph, other, NEUTRAL[node.target])
    )
    if changes_nothing and _same_layout(node, source):
        node.replace_all_uses_with(source)


def _is_neutral(graph: GraphModule, value: Any, number: int) -> bool:
    """Whether a number, or each number of a folded constant, is a certain one."""
    if not isinstance(value, Node):
        return isinstance(value, (int, float)) and value == number
    if value.op != "get_attr" or not str(value.target).startswith(FOLDED):
        return False
    constant = getattr(graph, str(value.target))
    return bool((constant == number).all())


def _share_results(graph: GraphModule) -> None:
    """Compute once what is computed twice."""
    known: dict[Any, Node] = {}
    for node in list(graph.graph.nodes):
        if node.op != "call_function" or torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
            continue
        key = (node.target, repr(node.args), repr(node.kwargs))
        if key in known:
            node.replace_all_uses_with(known[key])
        else:
            known[key] = node


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
    with graph.graph.inserting_before(node):
        flipped = _call(graph, aten.bmm.default, _call(graph, aten.transpose.int, right, 1, 2), source)
        # Views of the product follow, which need it laid out as it was.
        turned = _call(graph, aten.transpose.int, flipped, 1, 2)
        product = graph.graph.call_function(aten.clone.default, (turned,), {"memory_format": torch.contiguous_format})
    product.meta["val"] = node.meta["val"]
    node.replace_all_uses_with(product)


def _turned_product(graph: GraphModule, node: Node) -> None:
    """(A B)^T as B^T A^T, which comes out contiguous: what follows then runs over memory in order."""
    product = _transposed(node)
    if product is None or product.target is not aten.mm.default or len(product.users) > 1:
        return
    with graph.graph.inserting_before(node):
        left, right = (_transposed(factor) or _call(graph, aten.t.default, factor) for factor in reversed(product.args))
        turned = _call(graph, aten.mm.default, left, right)
    node.replace_all_uses_with(turned)


def _transposed(node: Any) -> Node | None:
    """The matrix that a node is the transpose of, if it is one."""
    source: Any = node.args[0] if node.args else None
    swaps = {aten.permute.default: ([1, 0],), aten.transpose.int: (0, 1), aten.t.default: ()}
    if node.op != "call_function" or swaps.get(node.target) != tuple(node.args[1:]) or _meta(node).ndim != 2:
        return None
    return source if isinstance(source, Node) else None


def _call(graph: GraphModule, operation: Any, *args: Any) -> Node:
    """A new operation, with the stand-in for its value."""
    node = graph.graph.call_function(operation, args)
    node.meta["val"] = operation(*(_blank(_meta(arg)) if isinstance(arg, Node) else arg for arg in args))
    return node


def _blank(tensor: Tensor) -> Tensor:
    """A tensor of the same kind without memory."""
    return torch.empty_strided(tuple(tensor.shape), tensor.stride(), dtype=tensor.dtype, device="meta")
