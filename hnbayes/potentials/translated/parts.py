"""Parts: tensors put together from others, and written to views."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hnbayes.potentials.translated.values import Access, UntranslatableError, address, index_of
from hnbayes.potentials.translated.writer import assign, filled, nest

if TYPE_CHECKING:
    from hnbayes.potentials.translated.translation import Translation


def cat(to: Translation, node: Any) -> Access:
    """`aten.cat`: tensors one after another along an axis."""
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


def into(fill: str | None, view: Any) -> Callable[[Translation, Any], Access]:
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


def pad(to: Translation, node: Any) -> Access:
    """`aten.constant_pad_nd`: a tensor with a margin of one number, or without its own."""
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


def flip(to: Translation, node: Any) -> Access:
    """`aten.flip`: a tensor with axes reversed."""
    source, value = to.read(node.args[0]), node.meta["val"]
    target = to.computed(value.shape, value.dtype)
    turned = {axis % len(source.shape) for axis in node.args[1]}
    terms = [
        (step, f"({source.shape[axis]} - 1 - i{axis})" if axis in turned else f"i{axis}")
        for axis, step in enumerate(source.strides)
    ]
    place = address(source.layout.as_strided((), (), 0), terms)
    body = [f"({target.pointer()})[{index_of(target.strides)}] = {source.at(place)};"]
    return to.block(target, [source], lambda: nest(list(target.shape), body))
