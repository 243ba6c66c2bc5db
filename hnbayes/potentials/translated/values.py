"""Values: what a graph's nodes stand for, as places in memory that C reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

C_TYPES = {
    torch.float32: "float",
    torch.float64: "double",
    torch.bool: "uint8_t",
    torch.uint8: "uint8_t",
    torch.int8: "int8_t",
    torch.int16: "int16_t",
    torch.int32: "int32_t",
    torch.int64: "int64_t",
}


class UntranslatableError(Exception):
    """The graph holds something that has no counterpart in C."""


@dataclass(frozen=True, eq=False)
class Base:
    """Memory that one operation fills, or that is given.

    Attributes:
        name: in C.
        dtype: of its numbers.
        layout: shape and strides, as a tensor without memory.
        kind: whether C computes it or is given it.
    """

    name: str
    dtype: torch.dtype
    layout: Tensor
    kind: Literal["computed", "given"] = "computed"

    @property
    def is_number(self) -> bool:
        """Whether it is one number, which C keeps in a variable."""
        return self.kind == "computed" and self.layout.numel() == 1

    @property
    def pointer(self) -> str:
        """C's expression of the place of its first number."""
        return f"&{self.name}" if self.is_number else self.name


@dataclass(frozen=True, eq=False)
class Access:
    """A view of memory.

    Attributes:
        base: the memory.
        layout: shape, strides and offset, as a tensor without memory.
        real: the dtype that floating-point numbers are read as.
    """

    base: Base
    layout: Tensor
    real: torch.dtype = field(repr=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the view."""
        return tuple(self.layout.shape)

    @property
    def dtype(self) -> torch.dtype:
        """Of a number as it is read."""
        return self.real if self.base.dtype.is_floating_point else self.base.dtype

    @property
    def strides(self) -> tuple[int, ...]:
        """In numbers, by axis."""
        return self.layout.stride()

    def at(self, index: str) -> str:
        """C's expression of the number that stands `index` after the view's first."""
        offset = int(self.layout.storage_offset())
        text = self.base.name
        if not self.base.is_number:
            place = index if not offset else str(offset) if index == "0" else f"{offset} + {index}"
            text = f"{self.base.name}[{place}]"
        return text if self.dtype == self.base.dtype else f"(real){text}"

    def pointer(self) -> str:
        """C's expression of the place of the view's first number."""
        offset = int(self.layout.storage_offset())
        return f"{self.base.pointer} + {offset}" if offset else self.base.pointer

    def expanded(self, shape: Sequence[int]) -> Access:
        """The view broadcast to a shape."""
        return Access(self.base, self.layout.expand(tuple(shape)), self.real)

    def follows(self, shape: Sequence[int]) -> bool:
        """Whether it reads all its memory in order when it is read in the order of a shape without axes of size 1."""
        return (
            self.base.kind == "computed"
            and squeezed(self.shape) == tuple(shape)
            and self.layout.numel() == self.base.layout.numel()
            and not self.layout.storage_offset()
            and self.layout.is_contiguous()
        )


def blank(shape: Sequence[int], dtype: torch.dtype, strides: Sequence[int] | None = None) -> Tensor:
    """A tensor without memory."""
    if strides is None:
        return torch.empty(tuple(shape), dtype=dtype, device="meta")
    return torch.empty_strided(tuple(shape), tuple(strides), dtype=dtype, device="meta")


def squeezed(shape: Sequence[int]) -> tuple[int, ...]:
    """A shape without its axes of size 1."""
    return tuple(size for size in shape if size != 1)


def coalesced(shape: Sequence[int], strides: Sequence[Sequence[int]]) -> tuple[list[int], list[list[int]]]:
    """Loops over a shape, as few as will do for these strides of what is read and written in them.

    Returns:
        Sizes of the loops, outermost first, and each one's strides by loop.
    """
    sizes: list[int] = []
    steps: list[list[int]] = [[] for _ in strides]
    for axis, size in enumerate(shape):
        if size == 1:
            continue
        if sizes and all(step[-1] == one[axis] * size for step, one in zip(steps, strides, strict=True)):
            sizes[-1] *= size
            for step, one in zip(steps, strides, strict=True):
                step[-1] = one[axis]
            continue
        sizes.append(size)
        for step, one in zip(steps, strides, strict=True):
            step.append(one[axis])
    return sizes, steps


def index_of(steps: Sequence[int]) -> str:
    """C's index of what has these strides by loop; loop variables are i0, i1 and so on."""
    terms = [f"i{loop}" if step == 1 else f"{step} * i{loop}" for loop, step in enumerate(steps) if step]
    return " + ".join(terms) or "0"


def address(layout: Tensor, terms: Sequence[tuple[int, str]]) -> str:
    """Where a number stands, given steps and indices along axes."""
    parts = [str(layout.storage_offset()), *(f"{step} * {index}" for step, index in terms if step)]
    return " + ".join(parts)
