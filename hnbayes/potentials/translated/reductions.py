"""Reductions: sums, products and extremes along axes, and cumulative sums."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hnbayes.potentials.translated.values import C_TYPES, Access, UntranslatableError, coalesced, index_of
from hnbayes.potentials.translated.writer import Total, nest

if TYPE_CHECKING:
    from hnbayes.potentials.translated.translation import Translation

# First value, and how another is added.
REDUCTIONS = {
    "sum": ("0", "{0} + {1}"),
    "prod": ("1", "{0} * {1}"),
    "amax": ("-INFINITY", "larger({0}, {1})"),
    "amin": ("INFINITY", "smaller({0}, {1})"),
}


def reduce(to: Translation, source: Access, axes: Sequence[int], value: Tensor, kind: str) -> Access:
    """A reduction along axes; sums are kept in double precision.

    Args:
        to: the translation.
        source: what is reduced.
        axes: which.
        value: like the result.
        kind: one of `REDUCTIONS`.
    """
    target = to.computed(value.shape, value.dtype)
    gone = {axis % len(source.shape) for axis in axes} if source.shape else set()
    start, add = REDUCTIONS[kind]
    name = "double" if kind == "sum" else "real"
    count = target.layout.numel()

    def lines() -> list[str]:
        stride, strides = 1, [0] * len(source.shape)
        for axis in reversed(range(len(source.shape))):
            if axis not in gone:
                strides[axis] = stride
                stride *= source.shape[axis]
        sizes, (out, at) = coalesced(source.shape, [strides, source.strides])
        number = f"({name}){source.at(index_of(at))}"
        place = f"sums[{index_of(out)}]"
        together = "#pragma omp simd reduction(+ : sum)" if kind == "sum" else ""
        if sizes and not out[-1]:
            inner = [f"{name} sum = {start};"]
            if together:
                inner.append(together)
            last = len(sizes) - 1
            inner += [
                f"for (int64_t i{last} = 0; i{last} < {sizes[-1]}; i{last}++)",
                f"sum = {add.format('sum', number)};",
                f"{place} = {add.format(place, 'sum')};",
            ]
            loops = nest(sizes[:-1], inner)
        else:
            loops = nest(sizes, [f"{place} = {add.format(place, number)};"], "#pragma omp simd")
        first = nest([count], [f"sums[i0] = {start};"])
        finish = nest([count], [f"{target.pointer()}[i0] = ({C_TYPES[value.dtype]})sums[i0];"])
        if target.base.is_number:
            finish = [f"{target.base.name} = ({C_TYPES[value.dtype]})sums[0];"]
        return ["{", f"{name} *const restrict sums = (void *)space;", *first, *loops, *finish, "}"]

    to.reserve(8 * count)
    return to.block(target, [source], lines, source.layout.numel())


def reduction(kind: str) -> Callable[[Translation, Any], Access]:
    """The piece of a reduction of one kind."""

    def piece(to: Translation, node: Any) -> Access:
        source, value = to.read(node.args[0]), node.meta["val"]
        if set(node.kwargs) - {"dtype"} or not (kind == "sum" or source.dtype == value.dtype == to.real):
            raise UntranslatableError("a reduction with options")
        axes = node.args[1] if len(node.args) > 1 else None
        listed = [axes] if isinstance(axes, int) else axes or list(range(len(source.shape)))
        return total(to, source, listed, value) if kind == "sum" else reduce(to, source, listed, value, kind)

    return piece


def total(to: Translation, source: Access, axes: Sequence[int], value: Tensor) -> Access:
    """A sum along axes, in the loop that makes its terms if it is one of all of them."""
    if value.numel() != 1:
        return reduce(to, source, axes, value, "sum")
    target = to.computed(value.shape, value.dtype)
    to.add(Total(target.base, [source]), source.layout.numel())
    return target


def variance(to: Translation, node: Any) -> Access:
    """The mean squared distance from the mean, with what is taken off the number of terms."""
    source, value = to.read(node.args[0]), node.meta["val"]
    options = dict(node.kwargs)
    axes = node.args[1] if len(node.args) > 1 else options.pop("dim", None)
    correction = node.args[2] if len(node.args) > 2 else options.pop("correction", None)
    options.pop("keepdim", None)
    if options:
        raise UntranslatableError("a variance with options")
    listed = [axis % len(source.shape) for axis in axes or range(len(source.shape))]
    kept = torch.Size(1 if axis in listed else size for axis, size in enumerate(source.shape))
    count = math.prod(source.shape[axis] for axis in listed)
    sums = total(to, source, listed, value.new_empty(kept))
    apart = f"({{0}} - {{1}} / {count})"
    squares = to.elementwise(source.shape, value.dtype, f"{apart} * {apart}", [source, sums])
    freedom = to.literal(float(max(count - (1 if correction is None else correction), 0)))
    return to.elementwise(value.shape, value.dtype, f"{{0}} / {freedom}", [total(to, squares, listed, value)])


def deviation(to: Translation, node: Any) -> Access:
    """The root of the variance."""
    square = variance(to, node)
    return to.elementwise(square.shape, square.dtype, "root({0})", [square])


def cumsum(to: Translation, node: Any) -> Access:
    """`aten.cumsum`: cumulative sums along an axis, kept in double precision."""
    source, value = to.read(node.args[0]), node.meta["val"]
    if node.kwargs or not source.dtype.is_floating_point:
        raise UntranslatableError("a cumulative sum with options")
    target = to.computed(value.shape, value.dtype)
    if not source.shape:
        return to.contiguous(source)
    axis = node.args[1] % len(source.shape)
    order = [at for at in range(len(source.shape)) if at != axis] + [axis]
    sizes = [source.shape[at] for at in order]
    out, at = (index_of([access.strides[at] for at in order]) for access in (target, source))
    last = len(sizes) - 1
    body = [
        "double sum = 0;",
        f"for (int64_t i{last} = 0; i{last} < {sizes[-1]}; i{last}++)",
        f"({target.pointer()})[{out}] = (real)(sum += (double){source.at(at)});",
    ]
    return to.block(target, [source], lambda: nest(sizes[:-1], ["{", *body, "}"]))
