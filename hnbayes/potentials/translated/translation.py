"""Translation: the graph of a potential at one position as C."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from hnbayes.potentials.graph import FOLDED
from hnbayes.potentials.translated import operations, pieces
from hnbayes.potentials.translated.operations import aten
from hnbayes.potentials.translated.values import C_TYPES, Access, Base, UntranslatableError, blank
from hnbayes.potentials.translated.writer import Block, Elementwise, Memory, Step, assign, write

# More steps are a program that takes a compiler many seconds.
MOST_STEPS = 2_000
NAME = "graph_point"
HEAD = """#include "numbers.h"
#include "products.h"

"""


@dataclass(frozen=True)
class Program:
    """A graph in C.

    Attributes:
        source: of a library with the point `graph_point`.
        constants: the tensors whose memory its context points to, in order.
        data: which of them aren't this graph's own, so that they may change.
        bytes: the memory that a call needs.
        operations: about how many arithmetic operations a call takes.
    """

    source: str
    constants: list[Tensor]
    data: list[int]
    bytes: int
    operations: int


def translate(graph: GraphModule, dtype: torch.dtype, may_copy: bool = False) -> Program:
    """The C of a graph.

    Args:
        graph: functional (nothing is written to in place), from a position (D,) to its gradient and U, with stand-ins
            of all values in `node.meta["val"]`.
        dtype: of positions.
        may_copy: whether matrices among the constants may be read from copies.

    Raises:
        UntranslatableError: if it holds what isn't known here.
    """
    return Translation(graph, dtype, may_copy).program()


class Translation:
    """A translation in progress: what nodes stand for, and the steps that C takes."""

    def __init__(self, graph: GraphModule, dtype: torch.dtype, may_copy: bool) -> None:
        self.graph, self.real, self.may_copy = graph, dtype, may_copy
        self.values: dict[Node, Any] = {}
        self.steps: list[Step] = []
        self.constants: list[Tensor] = []
        self.data: list[int] = []
        self.copies: dict[Any, Access] = {}
        self.made = 0
        self.operations = 0
        self.space = 0

    def program(self) -> Program:
        """Translate node by node. See `translate`."""
        for node in self.graph.graph.nodes:
            if node.op == "placeholder":
                if self.values:
                    raise UntranslatableError("several arguments")
                self.values[node] = self.given("q", _meta(node))
            elif node.op == "get_attr":
                name = str(node.target)
                self.values[node] = self.constant(getattr(self.graph, name, None))
                if not name.startswith(FOLDED):
                    self.data.append(len(self.constants) - 1)
            elif node.op == "call_function":
                self._call(node)
            elif node.op == "output":
                self._output(node.args[0])
            else:
                raise UntranslatableError(node.op)
        if len(self.steps) > MOST_STEPS:
            raise UntranslatableError("too many steps")
        memory = Memory()
        lines = write(self.steps, memory)
        if self.space:
            memory.array("space", "char", self.space, 1)
        kinds = [C_TYPES[tensor.dtype] for tensor in self.constants]
        given = [
            f"const {kind} *const restrict c{at} = ((const void *const *)context)[{at}];"
            for at, kind in enumerate(kinds)
        ]
        head = f"void {NAME}(const void *context, const real *q, real *gradient, real *value, void *memory) {{"
        source = HEAD + "\n".join((head, *given, *memory.lines, *lines, "}\n"))
        return Program(source, self.constants, self.data, max(memory.bytes, 1), self.operations)

    # ---- values ----

    def given(self, name: str, like: Tensor) -> Access:
        """Memory that C is given, laid out as a tensor."""
        layout = blank(like.shape, like.dtype, like.stride())
        return Access(Base(name, like.dtype, layout, "given"), layout, self.real)

    def constant(self, value: Any) -> Access:
        """A tensor that C reads."""
        if (
            type(value) not in (Tensor, torch.nn.Parameter)
            or value.device.type != "cpu"
            or value.layout != torch.strided
            or value.dtype not in C_TYPES
            or value.is_neg()
        ):
            raise UntranslatableError("a constant of another kind")
        self.constants.append(value)
        return self.given(f"c{len(self.constants) - 1}", value)

    def computed(self, shape: Sequence[int], dtype: torch.dtype) -> Access:
        """New memory that C fills."""
        if dtype not in C_TYPES or (dtype.is_floating_point and dtype != self.real):
            raise UntranslatableError(str(dtype))
        layout = blank(shape, dtype)
        self.made += 1
        return Access(Base(f"v{self.made}", dtype, layout), layout, self.real)

    def read(self, node: Any) -> Access:
        """What a node stands for."""
        value = self.values.get(node) if isinstance(node, Node) else None
        if not isinstance(value, Access):
            raise UntranslatableError(f"{node!r} is no tensor")
        return value

    def add(self, step: Step, operations: int) -> None:
        """A step, and about how much work it is."""
        self.steps.append(step)
        self.operations += operations

    def block(self, target: Access, reads: Sequence[Access], lines: Any, operations: int | None = None) -> Access:
        """A step that isn't elementwise. Returns its target."""
        self.add(Block(target.base, list(reads), lines), target.layout.numel() if operations is None else operations)
        return target

    def elementwise(
        self, shape: Sequence[int], dtype: torch.dtype, expression: str, reads: Sequence[Access], target: Any = None
    ) -> Access:
        """An expression of values, broadcast to a shape."""
        access = self.computed(shape, dtype)
        step = Elementwise(
            access.base, [read.expanded(shape) for read in reads], expression, target in operations.SCALAR
        )
        self.add(step, access.layout.numel() * operations.COSTS.get(target, 1))
        return access

    def contiguous(self, access: Access) -> Access:
        """The same numbers in order."""
        return self.elementwise(access.shape, access.dtype, "{0}", [access])

    def reserve(self, size: int) -> None:
        """Bytes of memory that a step needs for itself, in `space`."""
        self.space = max(self.space, size)

    def with_longer_rows(self, matrix: Access) -> Access:
        """A matrix, from a copy whose longer axis is in order if it is a constant that may be copied."""
        axis = int(matrix.shape[1] > matrix.shape[0])
        given = [at for at in range(len(self.constants)) if matrix.base.name == f"c{at}"]
        if not given or not self.may_copy or matrix.strides[axis] == 1:
            return matrix
        key = (
            matrix.base.name,
            matrix.layout.storage_offset(),
            tuple(sorted(zip(matrix.shape, matrix.strides, strict=True))),
        )
        value = self.constants[given[0]].detach()
        layout = matrix.layout
        if key not in self.copies:
            view = value.as_strided(layout.shape, layout.stride(), value.storage_offset() + layout.storage_offset())
            self.copies[key] = self.constant((view if axis else view.T).contiguous())
        copy = self.copies[key].layout
        return Access(self.copies[key].base, copy if copy.shape == layout.shape else copy.T, self.real)

    def literal(self, value: Any) -> str:
        """A Python number in C."""
        if isinstance(value, bool):
            return str(int(value))
        if isinstance(value, int) and abs(value) < 2**53:
            return f"({value})" if value < 0 else str(value)
        if isinstance(value, float):
            if value != value:
                return "(real)NAN"
            if value in (float("inf"), float("-inf")):
                return f"({'-' if value < 0 else ''}(real)INFINITY)"
            return f"(real){value.hex()}" if value >= 0 else f"((real){value.hex()})"
        raise UntranslatableError(f"argument {value!r}")

    # ---- operations ----

    def _call(self, node: Any) -> None:
        target: Any = node.target
        if getattr(target, "__name__", "") == "getitem":
            parts = self.values.get(node.args[0])
            if not isinstance(parts, list):
                raise UntranslatableError("an item of something else")
            self.values[node] = parts[node.args[1]]
        elif getattr(target, "__name__", "") == "host_tanh":
            self._elementwise(node, aten.tanh.default)
        elif target in operations.SAME:
            self.values[node] = self.read(node.args[0])
        elif target in operations.VIEWS or target in operations.COPIES:
            self.values[node] = self._view(node, operations.COPIES.get(target, target))
        elif target in pieces.PIECES:
            self.values[node] = pieces.PIECES[target](self, node)
        else:
            self._elementwise(node, target)

    def _view(self, node: Any, target: Any) -> Any:
        source = self.read(node.args[0])
        if node.kwargs:
            raise UntranslatableError("a view with options")
        try:
            layout = target(source.layout, *node.args[1:])
        except RuntimeError:
            if target not in operations.RESHAPES:
                raise UntranslatableError(str(target)) from None
            source = self.contiguous(source)
            layout = target(source.layout, *node.args[1:])
        if isinstance(layout, (list, tuple)):
            return [Access(source.base, part, self.real) for part in layout]
        return Access(source.base, layout, self.real)

    def _elementwise(self, node: Any, target: Any) -> None:
        value, options = _meta(node), dict(node.kwargs)
        expression, args, target = _expression(target, list(node.args), options, value.dtype)
        if options:
            raise UntranslatableError(f"{target} with {sorted(options)}")
        reads: list[Access] = []
        arguments: list[str] = []
        for arg in args:
            if isinstance(arg, Node):
                arguments.append(f"{{{len(reads)}}}")
                reads.append(self.read(arg))
            else:
                arguments.append(self.literal(arg))
        # What C takes for whole numbers would be whole.
        floating = any(read.dtype.is_floating_point for read in reads)
        if not reads or (value.dtype.is_floating_point and not floating and target not in operations.OF_WHOLE_NUMBERS):
            raise UntranslatableError(f"{target} of whole numbers")
        self.values[node] = self.elementwise(value.shape, value.dtype, expression.format(*arguments), reads, target)

    def _output(self, results: Any) -> None:
        if not isinstance(results, (list, tuple)) or len(results) != 2:
            raise UntranslatableError("the graph gives no gradient and value")
        for name, result in zip(("gradient", "value"), results, strict=True):
            source = self.read(result)
            if source.dtype != self.real or len(source.shape) != (name == "gradient"):
                raise UntranslatableError("a result of another kind")
            target = self.given(name, blank(source.shape, self.real))
            self.block(target, [source], lambda target=target, source=source: assign(target, source))


def _expression(
    target: Any, args: list[Any], options: dict[str, Any], dtype: torch.dtype
) -> tuple[str, list[Any], Any]:
    """An elementwise operation as C's expression, its arguments, and the operation that says how much work it is.

    Options that are seen to are removed.
    """
    alpha = options.pop("alpha", 1)
    if alpha != 1 and target in (aten.add.Tensor, aten.sub.Tensor):
        return operations.EXPRESSIONS[target].replace("{1}", "{2} * {1}"), [*args, alpha], target
    if alpha != 1:
        raise UntranslatableError(f"{target} with alpha")
    if target in (aten._to_copy.default, aten.clone.default):
        for name in ("memory_format", "dtype", "non_blocking"):
            options.pop(name, None)
        if options.get("device") == torch.device("cpu"):
            del options["device"]
        return "({0} != 0)" if dtype == torch.bool else "{0}", args, target
    if target is aten.clamp.default:
        low, high = [*args[1:], None, None][:2]
        low, high = options.pop("min", low), options.pop("max", high)
        expression = "{0}" if low is None else "({0} < {1} ? {1} : {0})"
        if high is not None:
            expression = "({0} > {1} ? {1} : {0})" if low is None else "({0} < {1} ? {1} : {0} > {2} ? {2} : {0})"
        return expression, [args[0], *(bound for bound in (low, high) if bound is not None)], target
    if target is aten.softplus.default:
        return "softplus_of({0}, {1}, {2})", [*args, *(1.0, 20.0)[len(args) - 1 :]], target
    if target is aten.pow.Tensor_Scalar and args[1] in operations.POWERS:
        return operations.POWERS[args[1]], args, aten.mul.Tensor
    if target in operations.LOGICAL and dtype == torch.bool:
        return operations.LOGICAL[target], args, target
    found = operations.EXPRESSIONS.get(target) or operations.SCALAR.get(target)
    if found is None:
        raise UntranslatableError(str(target))
    return found, args, target


def _meta(node: Any) -> Tensor:
    value = node.meta.get("val") if isinstance(node, Node) else None
    if not isinstance(value, Tensor):
        raise UntranslatableError(f"{node} is no tensor")
    return value
