"""Pieces: the C of operations that aren't done number by number, such as reductions, products and scatters."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from hnbayes.potentials.translated.operations import aten, prims
from hnbayes.potentials.translated.values import C_TYPES, Access, UntranslatableError, coalesced, index_of
from hnbayes.potentials.translated.writer import ALIGNMENT, Total, assign, nest

if TYPE_CHECKING:
    from hnbayes.potentials.translated.translation import _Translation as Translation

# A product of more multiplications is one that a BLAS, blocked for all caches, was made for.
LARGEST_PRODUCT = 4_000_000
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


def _reduction(kind: str) -> Callable[[Translation, Any], Access]:
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


def _variance(to: Translation, node: Any) -> Access:
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


def _deviation(to: Translation, node: Any) -> Access:
    variance = _variance(to, node)
    return to.elementwise(variance.shape, variance.dtype, "root({0})", [variance])


# ---- products ----


def _mm(to: Translation, node: Any) -> Access:
    left, right = to.read(node.args[0]), to.read(node.args[1])
    return _product(to, left.layout, right.layout, left, right, node.meta["val"])


def _mv(to: Translation, node: Any) -> Access:
    left, right = to.read(node.args[0]), to.read(node.args[1])
    return _product(to, left.layout, right.layout[:, None], left, right, node.meta["val"])


def _dot(to: Translation, node: Any) -> Access:
    left, right = to.read(node.args[0]), to.read(node.args[1])
    return _product(to, left.layout[None], right.layout[:, None], left, right, node.meta["val"])


def _product(to: Translation, a: Tensor, b: Tensor, left: Access, right: Access, value: Tensor) -> Access:
    """The product of matrices, or of as many matrices as an axis before theirs has.

    Args:
        to: the translation.
        a: the first factor's layout, (rows, depth) or (batch, rows, depth).
        b: the second's, (depth, columns) or (batch, depth, columns).
        left: the first factor.
        right: the second.
        value: like the result.
    """
    *batch, rows, depth = a.shape
    columns = b.shape[-1]
    if depth == 1:
        reads = [Access(factor.base, layout, factor.real) for layout, factor in ((a, left), (b, right))]
        full = to.elementwise((*batch, rows, columns), value.dtype, "{0} * {1}", reads)
        return Access(full.base, full.layout.view(value.shape), to.real)
    factors = []
    for layout, factor in ((a, left), (b, right)):
        access = Access(factor.base, layout, factor.real)
        if factor.base.dtype != to.real:
            access = to.contiguous(access)
        elif not batch and 1 in (rows, columns):
            access = to.with_longer_rows(access)
        factors.append(access)
    first, second = factors
    target = to.computed(value.shape, value.dtype)
    work = rows * columns * depth * (batch[0] if batch else 1)
    if work > LARGEST_PRODUCT:
        raise UntranslatableError("a large product")
    vector = ALIGNMENT // to.real.itemsize
    sides = [(rows, columns), (columns, rows)] if rows > 1 and columns > 1 else []
    to.reserve(ALIGNMENT)
    for one, other in sides:
        to.reserve((depth + one) * -(-other // vector) * ALIGNMENT)

    def lines() -> list[str]:
        sizes = f"{rows}, {columns}, {depth}"
        places = [first.pointer(), second.pointer(), target.pointer()]
        if batch:
            shares = first.strides[0], second.strides[0], rows * columns
            places = [f"{place} + {share} * i0" for place, share in zip(places, shares, strict=True)]
        strides = [*first.strides[-2:], *second.strides[-2:], columns, 1]
        parts = [f"{place}, {strides[2 * at]}, {strides[2 * at + 1]}" for at, place in enumerate(places)]
        return nest(list(batch), [f"product({sizes}, {', '.join(parts)}, (void *)space);"])

    return to.block(target, [first, second], lines, 2 * work)


# ---- parts put together ----


def _cat(to: Translation, node: Any) -> Access:
    axis = node.args[1] if len(node.args) > 1 else 0
    parts = [to.read(part) for part in node.args[0]]
    target = to.computed(node.meta["val"].shape, node.meta["val"].dtype)
    parts = [part for part in parts if part.shape != (0,) or len(target.shape) == 1]
    start, pairs = 0, []
    for part in parts:
        size = part.shape[axis]
        pairs.append((Access(target.base, target.layout.narrow(axis, start, size), to.real), part))
        start += size

    return to.block(target, parts, lambda: [line for place, part in pairs for line in assign(place, part)])


def _into(fill: str | None, view: Any) -> Callable[[Translation, Any], Access]:
    """A piece that fills its result, or copies its first argument, and then writes the next argument to a view of it.

    Args:
        fill: C's expression of the number that fills it, or None.
        view: of the result's layout, by the other arguments.
    """

    def piece(to: Translation, node: Any) -> Access:
        value = node.meta["val"]
        if node.kwargs:
            raise UntranslatableError("a part with options")
        sources = [to.read(arg) for arg in node.args[: 1 if fill is not None else 2]]
        target = to.computed(value.shape, value.dtype)
        place = Access(target.base, view(target.layout, *node.args[2:]), to.real)

        def lines() -> list[str]:
            return [
                *(filled(target, fill) if fill is not None else assign(target, sources[0])),
                *assign(place, sources[-1]),
            ]

        return to.block(target, sources, lines)

    return piece


def filled(target: Access, number: str) -> list[str]:
    """Lines that make all of a new array one number."""
    return nest([target.layout.numel()], [f"({target.pointer()})[i0] = {number};"])


def _pad(to: Translation, node: Any) -> Access:
    source, value = to.read(node.args[0]), node.meta["val"]
    pads, number = list(node.args[1]), node.args[2] if len(node.args) > 2 else 0.0
    target = to.computed(value.shape, value.dtype)
    layout, inner = target.layout, source.layout
    for axis, (before, after) in enumerate(zip(pads[::2], pads[1::2], strict=True)):
        axis = len(value.shape) - 1 - axis
        inner = inner.narrow(axis, max(-before, 0), inner.shape[axis] - max(-before, 0) - max(-after, 0))
        layout = layout.narrow(axis, max(before, 0), inner.shape[axis])
    place, part = Access(target.base, layout, to.real), Access(source.base, inner, to.real)
    return to.block(target, [source], lambda: [*filled(target, to.literal(number)), *assign(place, part)])


# ---- by index ----


def _address(layout: Tensor, terms: Sequence[tuple[int, str]]) -> str:
    """Where a number stands, given steps and indices along axes."""
    parts = [str(layout.storage_offset()), *(f"{step} * {index}" for step, index in terms if step)]
    return " + ".join(parts)


def _picked(shape: Sequence[int], layout: Tensor, indices: Sequence[Access | None]) -> tuple[list[str], str, str]:
    """Lines that read indices, a condition that they are within bounds, and the place of a number that they pick.

    Args:
        shape: of the result of indexing.
        layout: of what is indexed.
        indices: by axis, as torch takes them.
    """
    at = [axis for axis, index in enumerate(indices) if index is not None]
    picks = [index for index in indices if index is not None]
    if any(index.dtype in (torch.bool, torch.uint8) for index in picks):
        raise UntranslatableError("an index of logical values")
    common: Any = np.broadcast_shapes(*(index.shape for index in picks))
    together = at == list(range(at[0], at[-1] + 1))
    first = at[0] if together else 0
    loops = list(range(len(shape)))
    own, others = loops[first : first + len(common)], loops[:first] + loops[first + len(common) :]
    lines, conditions, terms = [], [], []
    for number, (axis, index) in enumerate(zip(at, picks, strict=True)):
        size = layout.shape[axis]
        steps = index.expanded(common).strides
        place = " + ".join(["0", *(f"{step} * i{loop}" for step, loop in zip(steps, own, strict=True) if step)])
        lines.append(f"int64_t j{number} = {index.at(place)};")
        lines.append(f"if (j{number} < 0) j{number} += {size};")
        conditions.append(f"j{number} >= 0 && j{number} < {size}")
        terms.append((layout.stride(axis), f"j{number}"))
    rest = [axis for axis in range(layout.ndim) if axis not in at]
    terms += [(layout.stride(axis), f"i{loop}") for axis, loop in zip(rest, others, strict=True)]
    return lines, " && ".join(conditions), _address(layout, terms)


def _indices(to: Translation, node: Any) -> list[Access | None]:
    return [None if index is None else to.read(index) for index in node.args[1]]


def _index(to: Translation, node: Any) -> Access:
    source, value, indices = to.read(node.args[0]), node.meta["val"], _indices(to, node)
    target = to.computed(value.shape, value.dtype)
    before, inside, place = _picked(target.shape, source.layout, indices)
    return _read_at(to, source, target, [source, *filter(None, indices)], before, inside, place)


def _gather(to: Translation, node: Any) -> Access:
    source, axis, index = to.read(node.args[0]), node.args[1], to.read(node.args[2])
    target = to.computed(node.meta["val"].shape, node.meta["val"].dtype)
    before, inside, place = _along(source.layout, axis, index)
    return _read_at(to, source, target, [source, index], before, inside, place)


def _along(layout: Tensor, axis: int, index: Access) -> tuple[list[str], str, str]:
    """As `_picked`, for indices of an axis that there are for each number."""
    axis %= max(layout.ndim, 1)
    own = " + ".join(["0", *(f"{step} * i{loop}" for loop, step in enumerate(index.strides) if step)])
    terms = [(step, f"i{loop}" if loop != axis else "j0") for loop, step in enumerate(layout.stride())]
    size = layout.shape[axis] if layout.ndim else 1
    return [f"const int64_t j0 = {index.at(own)};"], f"j0 >= 0 && j0 < {size}", _address(layout, terms)


def _read_at(
    to: Translation, source: Access, target: Access, reads: Any, before: list[str], inside: str, place: str
) -> Access:
    # Torch refuses an index that is out of bounds. There may be none where the graph was captured and some later.
    otherwise = "(real)NAN" if target.dtype.is_floating_point else "0"
    found = Access(source.base, source.layout.as_strided((), (), 0), to.real).at(place)
    own = " + ".join(["0", *(f"{step} * i{loop}" for loop, step in enumerate(target.strides))])
    body = [*before, f"({target.pointer()})[{own}] = {inside} ? {found} : {otherwise};"]
    return to.block(target, reads, lambda: nest(list(target.shape), body))


def _index_put(to: Translation, node: Any) -> Access:
    source, indices, new = to.read(node.args[0]), _indices(to, node), to.read(node.args[2])
    add = bool(node.args[3]) if len(node.args) > 3 else bool(node.kwargs.get("accumulate", False))
    target = to.computed(node.meta["val"].shape, node.meta["val"].dtype)
    picks = [None if index is None else blank_index(index) for index in indices]
    shape = torch.empty(source.shape, device="meta")[tuple(slice(None) if p is None else p for p in picks)].shape
    return _write_at(to, source, target, new.expanded(shape), indices, _picked(shape, target.layout, indices), add)


def blank_index(index: Access) -> Tensor:
    """An index without memory."""
    return torch.empty(index.shape, dtype=torch.int64, device="meta")


def _embedding_backward(to: Translation, node: Any) -> Access:
    new, index = to.read(node.args[0]), to.read(node.args[1])
    _, padding, by_frequency = node.args[2:]
    if padding >= 0 or by_frequency:
        raise UntranslatableError("an embedding with options")
    target = to.computed(node.meta["val"].shape, node.meta["val"].dtype)
    shape = (*index.shape, *target.shape[1:])
    return _write_at(to, None, target, new, [index], _picked(shape, target.layout, [index]), True)


def _scatter_add(to: Translation, node: Any) -> Access:
    source, axis, index, new = to.read(node.args[0]), node.args[1], to.read(node.args[2]), to.read(node.args[3])
    target = to.computed(node.meta["val"].shape, node.meta["val"].dtype)
    part = Access(new.base, new.layout[tuple(slice(size) for size in index.shape)], to.real)
    return _write_at(to, source, target, part, [index], _along(target.layout, axis, index), True)


def _write_at(
    to: Translation, source: Access | None, target: Access, new: Access, indices: Any, where: Any, add: bool
) -> Access:
    before, inside, place = where
    own = " + ".join(["0", *(f"{step} * i{loop}" for loop, step in enumerate(new.strides) if step)])
    body = [*before, f"if ({inside}) ({target.pointer()})[{place}] {'+=' if add else '='} {new.at(own)};"]
    reads = [*filter(None, (source, new, *indices))]

    def lines() -> list[str]:
        first = filled(target, "0") if source is None else assign(target, source)
        return [*first, *nest(list(new.shape), body)]

    return to.block(target, reads, lines)


# ---- in order ----


def _cumsum(to: Translation, node: Any) -> Access:
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


def _flip(to: Translation, node: Any) -> Access:
    source, value = to.read(node.args[0]), node.meta["val"]
    target = to.computed(value.shape, value.dtype)
    turned = {axis % len(source.shape) for axis in node.args[1]}
    terms = [
        (step, f"({source.shape[axis]} - 1 - i{axis})" if axis in turned else f"i{axis}")
        for axis, step in enumerate(source.strides)
    ]
    place = _address(source.layout.as_strided((), (), 0), terms)
    body = [f"({target.pointer()})[{index_of(target.strides)}] = {source.at(place)};"]
    return to.block(target, [source], lambda: nest(list(target.shape), body))


PIECES: dict[Any, Callable[[Any, Any], Access]] = {
    aten.sum.default: _reduction("sum"),
    aten.sum.dim_IntList: _reduction("sum"),
    prims.sum.default: _reduction("sum"),
    prims.prod.default: _reduction("prod"),
    aten.var.correction: _variance,
    prims.var.default: _variance,
    aten.std.correction: _deviation,
    aten.embedding_dense_backward.default: _embedding_backward,
    aten.amax.default: _reduction("amax"),
    aten.amin.default: _reduction("amin"),
    aten.prod.default: _reduction("prod"),
    aten.prod.dim_int: _reduction("prod"),
    aten.mm.default: _mm,
    aten.bmm.default: _mm,
    aten.mv.default: _mv,
    aten.dot.default: _dot,
    aten.vdot.default: _dot,
    aten.cat.default: _cat,
    aten.slice_backward.default: _into("0", aten.slice.Tensor),
    aten.select_backward.default: _into("0", aten.select.int),
    aten.diagonal_backward.default: _into("0", aten.diagonal.default),
    aten.slice_scatter.default: _into(None, aten.slice.Tensor),
    aten.select_scatter.default: _into(None, aten.select.int),
    aten.diagonal_scatter.default: _into(None, aten.diagonal.default),
    aten.constant_pad_nd.default: _pad,
    aten.index.Tensor: _index,
    aten.gather.default: _gather,
    aten.index_put.default: _index_put,
    aten._unsafe_index_put.default: _index_put,
    aten._unsafe_index.Tensor: _index,
    aten.scatter_add.default: _scatter_add,
    aten.cumsum.default: _cumsum,
    aten.flip.default: _flip,
}
