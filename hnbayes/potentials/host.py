"""A captured graph as a function of NumPy arrays, for potentials whose operations cost less than their dispatch.

An operation of torch on a small CPU tensor takes 3 to 5 us, NumPy's 0.5 to 1. A graph of a hundred of them, as models
of a probabilistic programming language give, takes a fifth of the time so. What has no NumPy counterpart here,
and elementwise operations on arrays so large that torch would share them among threads, call torch on the same memory.
All of it runs in one thread: with torch's and BLAS's threads in turn, a gradient took up to fifteen times as long.
The result is compared with the function that it came from before it is used (see `evaluators.build`).
"""

from __future__ import annotations

import keyword
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from hnbayes.potentials.host_operations import ELEMENTWISE, NUMPY_AT_ANY_SIZE, POWERS, RESHAPES, SAME, SLOW_WHEN_LARGE
from hnbayes.potentials.threads import OneThread

aten = torch.ops.aten

# With an array of more elements dispatch no longer matters, and torch is ahead by its threads and its memory.
LARGEST = 100_000
# From so many elements on BLAS adds up the rows of a matrix, as a product with ones, faster than a reduction does.
LARGE_SUM = 4_096
# Above so many elements torch divides elementwise work among threads, and its log1p and expm1 are vectorised.
LARGE = 32_768
LARGE_SCALAR = 2_048


class UntranslatableError(Exception):
    """The graph holds something that has no counterpart in NumPy."""


Arrays = Callable[[Any], tuple[Any, ...]]


class HostFunction:
    """What a graph gives for a CPU batch (C, D): tensors for a tensor, arrays for an array by `arrays`.

    Args:
        arrays: the function on NumPy arrays, whose results are new memory.
        several: whether the graph gives a tuple.
    """

    def __init__(self, arrays: Arrays, several: bool) -> None:
        self.arrays, self.several = arrays, several

    def __call__(self, positions: Tensor) -> Any:
        """The results as tensors."""
        results = tuple(map(torch.from_numpy, self.arrays(positions.detach().numpy())))
        return results if self.several else results[0]


def as_host_function(graph: GraphModule) -> HostFunction | None:
    """The function of a CPU batch (C, D) that gives what the graph gives, or None if there is none.

    Args:
        graph: functional (nothing is written to in place), with stand-ins of all values in `node.meta["val"]`.
    """
    values = [node.meta.get("val") for node in graph.graph.nodes]
    if max((value.numel() for value in values if isinstance(value, Tensor)), default=0) > LARGEST:
        return None
    try:
        return _Translation(graph).function()
    except UntranslatableError:
        return None


class _Translation:
    """The lines of Python that evaluate a graph, and the constants that they use.

    An `expand` is left undone until something needs its shape: elementwise operations broadcast by themselves. So an
    array may be smaller than the tensor it stands for; `shapes` holds what each node's array really has.
    """

    def __init__(self, graph: GraphModule) -> None:
        self.graph = graph
        self.lines: list[str] = []
        self.constants: dict[str, Any] = {"np": np, "call": _call_torch, "OneThread": OneThread}
        self.shapes: dict[Node, tuple[int, ...]] = {}
        self.names: dict[Node, str] = {}

    def function(self) -> HostFunction:
        for number, node in enumerate(self.graph.graph.nodes):
            self._node(node, f"v{number}")
        source = "def run(q):\n with OneThread(), np.errstate(all='ignore'):\n  " + "\n  ".join(self.lines)
        namespace = dict(self.constants)
        exec(compile(source, "<potential>", "exec"), namespace)
        return HostFunction(namespace["run"], self.several)

    def _node(self, node: Any, name: str) -> None:
        if node.op == "placeholder":
            self._is(node, "q", _meta(node).shape)
        elif node.op == "get_attr":
            value = _attribute(self.graph, str(node.target))
            if not isinstance(value, Tensor) or value.device.type != "cpu" or value.dtype == torch.bfloat16:
                raise UntranslatableError(str(node.target))
            node.meta["val"] = value
            self.constants[name] = value.detach().numpy()
            self._is(node, name, value.shape)
        elif node.op == "output":
            (results,) = node.args
            self.several = isinstance(results, (list, tuple))
            listed: Sequence[Any] = results if self.several else (results,)
            copies = [f"np.array({self._whole(result)}, dtype=np.{_dtype(result)}, order='C')" for result in listed]
            self.lines.append(f"return ({', '.join(copies)},)")
        elif node.op == "call_function":
            self._call(node, name)
        else:
            raise UntranslatableError(node.op)

    def _call(self, node: Any, name: str) -> None:
        target: Any = node.target
        if getattr(target, "__name__", "") == "getitem":
            parts, at = node.args
            self._assign(node, name, f"{self._name(parts)}[{at}]", _meta(node).shape)
            return
        source: Any = node.args[0] if node.args else None
        if target in SAME or target is aten.expand.default:
            self._is(node, self._name(source), self.shapes[source])
        elif target in ELEMENTWISE or target is aten.pow.Tensor_Scalar or target is aten._to_copy.default:
            self._elementwise(node, name)
        elif target in RESHAPES:
            self._assign(node, name, f"{self._whole(source)}.reshape({tuple(_meta(node).shape)})", _meta(node).shape)
        elif target in (aten.transpose.int, aten.t.default):
            axes = node.args[1:] if target is aten.transpose.int else (0, 1)
            self._swap(node, name, int(axes[0]), int(axes[1]))
        elif target is aten.permute.default:
            self._assign(node, name, f"{self._whole(source)}.transpose({tuple(node.args[1])})", _meta(node).shape)
        elif target is aten.select.int:
            self._assign(
                node,
                name,
                f"{self._whole(source)}[{_slices(node.args[1], node.args[2], _meta(source).ndim)}]",
                _meta(node).shape,
            )
        elif target is aten.slice.Tensor:
            at = _slices(*_slice_of(*node.args[1:]), _meta(source).ndim)
            self._assign(node, name, f"{self._whole(source)}[{at}]", _meta(node).shape)
        elif target is aten.slice_backward.default:
            self._into_zeros(node, name, *_slice_of(*node.args[2:]))
        elif target is aten.select_backward.default:
            self._into_zeros(node, name, node.args[2], node.args[3])
        elif target is aten.split_with_sizes.default:
            self._split(node, name)
        elif target in (aten.sum.dim_IntList, aten.sum.default):
            self._sum(node, name)
        elif target is aten.cat.default:
            parts = ", ".join(self._whole(part) for part in node.args[0])
            axis = node.args[1] if len(node.args) > 1 else 0
            self._assign(node, name, f"np.concatenate(({parts},), axis={axis})", _meta(node).shape)
        elif target is aten.mm.default:
            self._assign(node, name, f"np.dot({self._whole(source)}, {self._whole(node.args[1])})", _meta(node).shape)
        elif target is aten.bmm.default:
            # Without the broadcasting that torch wants to see: NumPy shares a factor among all batches as it is.
            self._assign(node, name, f"np.matmul({self._name(source)}, {self._name(node.args[1])})", _meta(node).shape)
        elif getattr(target, "__name__", "") == "host_tanh":
            self._assign(node, name, f"np.tanh({self._name(source)})", self.shapes[source])
        else:
            self._torch(node, name)

    def _swap(self, node: Any, name: str, first: int, second: int) -> None:
        source = node.args[0]
        ndim, real = _meta(source).ndim, self.shapes[source]
        if ndim < 2:
            self._is(node, self._whole(source), _meta(node).shape)
            return
        # Counted from the end, the axes are the same in what has yet to be broadcast along the leading ones.
        first, second = first % ndim - ndim, second % ndim - ndim
        if len(real) >= -min(first, second):
            shape = list(real)
            shape[first], shape[second] = shape[second], shape[first]
            self._assign(node, name, f"{self._name(source)}.swapaxes({first}, {second})", shape)
        else:
            self._assign(node, name, f"{self._whole(source)}.swapaxes({first}, {second})", _meta(node).shape)

    def _elementwise(self, node: Any, name: str) -> None:
        target: Any = node.target
        if target in (aten.mul.Tensor, aten.mul.Scalar) and node.args[1] == 1 and _dtype(node) == _dtype(node.args[0]):
            self._is(node, self._name(node.args[0]), self.shapes[node.args[0]])  # a copy, in effect
            return
        size, inputs = _meta(node).numel(), [arg for arg in node.args if isinstance(arg, Node)]
        small = size <= (LARGE_SCALAR if target in SLOW_WHEN_LARGE else LARGE) or target in NUMPY_AT_ANY_SIZE
        if not small:
            self._torch(node, name)
            return
        arguments = [self._argument(arg, node) for arg in node.args]
        if target is aten._to_copy.default:
            if not inputs or set(node.kwargs) - {"dtype"}:
                raise UntranslatableError("_to_copy")
            template = "{0}"
        elif target is aten.pow.Tensor_Scalar:
            template = POWERS.get(node.args[1], "np.power({0}, {1})")
        else:
            template = ELEMENTWISE[target]
        if target is not aten._to_copy.default and node.kwargs:
            raise UntranslatableError(f"{target} with {sorted(node.kwargs)}")
        expression = template.format(*arguments)
        wanted = np.dtype(_dtype(node))
        dtypes = {np.dtype(_dtype(arg)) for arg in inputs}
        if dtypes != {wanted} and wanted.kind == "f":
            expression = f"np.asarray({expression}, np.{_dtype(node)})"
        shape = np.broadcast_shapes(*(self.shapes[arg] for arg in inputs))
        self._assign(node, name, f"({expression})", shape)

    def _argument(self, arg: Any, node: Any) -> str:
        if isinstance(arg, Node):
            return self._name(arg)
        if isinstance(arg, (bool, int)):
            return repr(arg)
        if isinstance(arg, float):
            if arg != arg or arg in (float("inf"), float("-inf")):
                return f"np.{_dtype(node)}('{arg}')" if _meta(node).is_floating_point() else f"float('{arg}')"
            return repr(arg)
        raise UntranslatableError(f"argument {arg!r}")

    def _into_zeros(self, node: Any, name: str, axis: int, what: Any) -> None:
        """Zeros, but for one part of an axis, which is the argument."""
        shape = tuple(_meta(node).shape)
        self.lines.append(f"{name} = np.zeros({shape}, np.{_dtype(node)})")
        self._assign(node, f"{name}[{_slices(axis, what, len(shape))}]", self._whole(node.args[0]), shape)
        self._is(node, name, shape)

    def _split(self, node: Any, name: str) -> None:
        source, sizes = node.args[0], node.args[1]
        axis = node.args[2] if len(node.args) > 2 else 0
        ndim, start, parts = _meta(source).ndim, 0, []
        for size in sizes:
            parts.append(f"x[{_slices(axis, f'{start}:{start + size}', ndim)}]")
            start += size
        self.lines.append(f"x = {self._whole(source)}")
        self.lines.append(f"{name} = ({', '.join(parts)},)")
        self.names[node] = name

    def _sum(self, node: Any, name: str) -> None:
        source = node.args[0]
        axes: Any = node.args[1] if len(node.args) > 1 else None
        keep = bool(node.args[2]) if len(node.args) > 2 else False
        if node.kwargs or (axes is not None and not axes):
            raise UntranslatableError("sum with options")
        where = "None" if axes is None else str(tuple(axes))
        expression = f"np.add.reduce({self._whole(source)}, axis={where}, keepdims={keep})"
        value = _meta(source)
        rows = value.ndim - 2
        if axes is not None and [axis % value.ndim for axis in axes] == [rows] and value.numel() >= LARGE_SUM:
            ones = self._constant(np.ones((1, value.shape[rows]), _dtype(source)))
            expression = f"np.matmul({ones}, {self._whole(source)})" + ("" if keep else f".squeeze({rows})")
        self._assign(node, name, expression, _meta(node).shape)

    def _torch(self, node: Any, name: str) -> None:
        """A call of torch on the arrays' memory."""
        operation = f"op_{name}"
        self.constants[operation] = node.target
        if any(
            argument.type is not None and argument.alias_info is not None and argument.alias_info.is_write
            for argument in node.target._schema.arguments
        ):
            raise UntranslatableError(str(node.target))
        arguments = ", ".join(self._torch_argument(arg) for arg in node.args)
        keywords = []
        for key, value in node.kwargs.items():
            if not key.isidentifier() or keyword.iskeyword(key):
                raise UntranslatableError(key)
            keywords.append(f"{key}={self._torch_argument(value)}")
        self.lines.append(f"{name} = call({', '.join(filter(None, [operation, arguments, *keywords]))})")
        self.names[node] = name
        value = node.meta.get("val")
        if isinstance(value, Tensor):
            self.shapes[node] = tuple(value.shape)

    def _torch_argument(self, arg: Any) -> str:
        if isinstance(arg, Node):
            return self._whole(arg)
        if isinstance(arg, (list, tuple)):
            return "[" + ", ".join(self._torch_argument(item) for item in arg) + "]"
        if arg is None or isinstance(arg, (bool, int)):
            return repr(arg)
        return self._constant(arg)

    def _constant(self, value: Any) -> str:
        key = f"k{len(self.constants)}"
        self.constants[key] = value
        return key

    def _assign(self, node: Any, name: str, expression: str, shape: Sequence[int]) -> None:
        self.lines.append(f"{name} = {expression}")
        self._is(node, name, shape)

    def _is(self, node: Any, name: str, shape: Sequence[int]) -> None:
        self.names[node], self.shapes[node] = name, tuple(shape)

    def _name(self, node: Any) -> str:
        if node not in self.names:
            raise UntranslatableError(f"{node}")
        return self.names[node]

    def _whole(self, node: Any) -> str:
        """The array of a node in the node's full shape."""
        name, shape = self._name(node), tuple(_meta(node).shape)
        return name if self.shapes[node] == shape else f"np.broadcast_to({name}, {shape})"


def _call_torch(operation: Any, *args: Any, **kwargs: Any) -> Any:
    """Apply an operation of torch to arrays."""
    with torch.no_grad():
        result = operation(*map(_to_torch, args), **{key: _to_torch(value) for key, value in kwargs.items()})
    return tuple(map(_to_numpy, result)) if isinstance(result, (list, tuple)) else _to_numpy(result)


def _to_torch(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        # What was broadcast is marked as not to be written to, of which torch would warn.
        return torch.from_numpy(value if value.flags.writeable else value.copy())
    if isinstance(value, np.generic):
        return torch.from_numpy(np.asarray(value))
    if isinstance(value, list):
        return [_to_torch(item) for item in value]
    return value


def _to_numpy(value: Any) -> Any:
    return value.numpy() if isinstance(value, Tensor) else value


def _slice_of(axis: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> tuple[int, str]:
    """The axis and the slice that an operation of torch takes, as Python writes it."""
    return axis, f"{'' if start is None else start}:{'' if end is None else end}:{step}"


def _slices(axis: Any, what: Any, ndim: int) -> str:
    """The index that takes `what` of one axis."""
    return ", ".join([":"] * (int(axis) % ndim) + [str(what)])


def _attribute(graph: GraphModule, path: str) -> Any:
    value: Any = graph
    for part in path.split("."):
        value = getattr(value, part)
    return value


def _meta(node: Any) -> Tensor:
    value = node.meta.get("val") if isinstance(node, Node) else None
    if not isinstance(value, Tensor):
        raise UntranslatableError(f"{node} is no tensor")
    return value


def _dtype(node: Any) -> str:
    name = str(_meta(node).dtype).removeprefix("torch.")
    if name not in ("float32", "float64", "bool", "int64", "int32", "uint8", "int8", "int16", "float16"):
        raise UntranslatableError(name)
    return "bool_" if name == "bool" else name
