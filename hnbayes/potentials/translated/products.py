"""Products of matrices and vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from hnbayes.potentials.translated.values import Access, UntranslatableError
from hnbayes.potentials.translated.writer import ALIGNMENT, nest

if TYPE_CHECKING:
    from hnbayes.potentials.translated.translation import Translation

# A product of more multiplications is one that a BLAS, blocked for all caches, was made for.
LARGEST_PRODUCT = 4_000_000


def mm(to: Translation, node: Any) -> Access:
    """A product of matrices, or of a batch of them."""
    left, right = to.read(node.args[0]), to.read(node.args[1])
    return _product(to, left.layout, right.layout, left, right, node.meta["val"])


def mv(to: Translation, node: Any) -> Access:
    """A matrix times a vector."""
    left, right = to.read(node.args[0]), to.read(node.args[1])
    return _product(to, left.layout, right.layout[:, None], left, right, node.meta["val"])


def dot(to: Translation, node: Any) -> Access:
    """The scalar product of two vectors."""
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
