"""Indexing: numbers read and written where other numbers say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from hnbayes.potentials.translated.operations import aten
from hnbayes.potentials.translated.values import Access, UntranslatableError, address
from hnbayes.potentials.translated.writer import assign, filled, nest

if TYPE_CHECKING:
    from hnbayes.potentials.translated.translation import Translation


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
    return lines, " && ".join(conditions), address(layout, terms)


def _indices(to: Translation, node: Any) -> list[Access | None]:
    return [None if index is None else to.read(index) for index in node.args[1]]


def index(to: Translation, node: Any) -> Access:
    """`aten.index`: numbers of a tensor at the places that indices say."""
    source, value, indices = to.read(node.args[0]), node.meta["val"], _indices(to, node)
    target = to.computed(value.shape, value.dtype)
    before, inside, place = _picked(target.shape, source.layout, indices)
    return _read_at(to, source, target, [source, *filter(None, indices)], before, inside, place)


def gather(to: Translation, node: Any) -> Access:
    """`aten.gather`: numbers along an axis, at a place for each."""
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
    return [f"const int64_t j0 = {index.at(own)};"], f"j0 >= 0 && j0 < {size}", address(layout, terms)


def _read_at(
    to: Translation, source: Access, target: Access, reads: Any, before: list[str], inside: str, place: str
) -> Access:
    # Torch refuses an index that is out of bounds. There may be none where the graph was captured and some later.
    otherwise = "(real)NAN" if target.dtype.is_floating_point else "0"
    found = Access(source.base, source.layout.as_strided((), (), 0), to.real).at(place)
    own = " + ".join(["0", *(f"{step} * i{loop}" for loop, step in enumerate(target.strides))])
    body = [*before, f"({target.pointer()})[{own}] = {inside} ? {found} : {otherwise};"]
    return to.block(target, reads, lambda: nest(list(target.shape), body))


def index_put(to: Translation, node: Any) -> Access:
    """`aten.index_put`: a copy of a tensor with numbers written, or added, where indices say."""
    source, indices, new = to.read(node.args[0]), _indices(to, node), to.read(node.args[2])
    add = bool(node.args[3]) if len(node.args) > 3 else bool(node.kwargs.get("accumulate", False))
    target = to.computed(node.meta["val"].shape, node.meta["val"].dtype)
    picks = [None if index is None else _blank(index) for index in indices]
    shape = torch.empty(source.shape, device="meta")[tuple(slice(None) if p is None else p for p in picks)].shape
    return _write_at(to, source, target, new.expanded(shape), indices, _picked(shape, target.layout, indices), add)


def _blank(index: Access) -> Tensor:
    """An index without memory."""
    return torch.empty(index.shape, dtype=torch.int64, device="meta")


def embedding_backward(to: Translation, node: Any) -> Access:
    """The gradient of rows that were picked from a table: their sum for each row."""
    new, index = to.read(node.args[0]), to.read(node.args[1])
    _, padding, by_frequency = node.args[2:]
    if padding >= 0 or by_frequency:
        raise UntranslatableError("an embedding with options")
    target = to.computed(node.meta["val"].shape, node.meta["val"].dtype)
    shape = (*index.shape, *target.shape[1:])
    return _write_at(to, None, target, new, [index], _picked(shape, target.layout, [index]), True)


def scatter(to: Translation, node: Any) -> Access:
    """A copy of a tensor with numbers added (`aten.scatter_add`) or written (`aten.scatter`) along an axis."""
    source, axis, index = to.read(node.args[0]), node.args[1], to.read(node.args[2])
    if node.kwargs:
        raise UntranslatableError("a scatter with options")
    target = to.computed(node.meta["val"].shape, node.meta["val"].dtype)
    if node.target is aten.scatter.value:
        number = to.literal(node.args[3])
        new = to.elementwise(index.shape, target.dtype, number, [index])
    else:
        new = to.read(node.args[3])
    part = Access(new.base, new.layout[tuple(slice(size) for size in index.shape)], to.real)
    add = node.target is aten.scatter_add.default
    return _write_at(to, source, target, part, [index], _along(target.layout, axis, index), add)


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
