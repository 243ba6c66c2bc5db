"""Writer: steps of a computation, and the C that takes them.

Elementwise steps of one shape that need nothing that others have yet to compute share a loop; what only they need is
never stored. A number of its own is a variable.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from hnbayes.potentials.translated.values import (
    C_TYPES,
    Access,
    Base,
    coalesced,
    index_of,
    squeezed,
)

# Bytes to which arrays are aligned, as many as the longest vectors have.
ALIGNMENT = 64


@dataclass(eq=False)
class Elementwise:
    """target = an expression of numbers at the same place.

    Attributes:
        target: what it makes.
        reads: the arguments, broadcast to the target's shape.
        expression: in C, with {0}, {1} and so on for the arguments.
        scalar: whether it calls a function that keeps a compiler from making vectors.
    """

    target: Base
    reads: list[Access]
    expression: str
    scalar: bool = False


@dataclass(eq=False)
class Total:
    """target = the sum of all numbers of `reads[0]`."""

    target: Base
    reads: list[Access]


@dataclass(eq=False)
class Block:
    """Any other step.

    Attributes:
        target: what it makes, in full.
        reads: what it reads.
        lines: makes its C.
    """

    target: Base
    reads: list[Access]
    lines: Callable[[], list[str]]


Step = Elementwise | Total | Block


class Memory:
    """Lays arrays out in the memory that a call is given."""

    def __init__(self) -> None:
        self.bytes = 0
        self.lines: list[str] = []

    def array(self, name: str, kind: str, count: int, size: int) -> None:
        """Room for `count` numbers of `size` bytes."""
        self.lines.append(f"{kind} *const restrict {name} = ({kind} *)((char *)memory + {self.bytes});")
        self.bytes += -(-max(count, 1) * size // ALIGNMENT) * ALIGNMENT


def write(steps: Sequence[Step], memory: Memory) -> list[str]:
    """The lines of C that take all steps.

    Args:
        steps: each after those that it needs.
        memory: where arrays are laid out.
    """
    waiting = list(steps)
    users: dict[Base, list[Step]] = {}
    for step in steps:
        for read in step.reads:
            users.setdefault(read.base, []).append(step)
    unmade = {step.target for step in steps}
    lines: list[str] = []
    while waiting:
        group = _together(waiting, unmade)
        members = set(map(id, group))
        waiting = [step for step in waiting if id(step) not in members]
        unmade -= {step.target for step in group}
        if isinstance(group[0], Block):
            _declare(group[0].target, memory, lines)
            lines += group[0].lines()
        else:
            lines += _loop(group, users, memory)
    return lines


def _shape(step: Step) -> tuple[int, ...]:
    """The shape that a step runs over."""
    return squeezed(step.reads[0].shape if isinstance(step, Total) else step.target.layout.shape)


def _together(waiting: Sequence[Step], unmade: set[Base]) -> list[Step]:
    """The first step and all others that may share its loop."""
    first = waiting[0]
    if isinstance(first, Block):
        return [first]
    shape, made = _shape(first), {first.target}
    group: list[Step] = [first]
    for step in waiting[1:]:
        if isinstance(step, Block) or _shape(step) != shape or _is_scalar(step) != _is_scalar(first):
            continue
        # A sum is there only after the loop.
        if all(
            read.base not in unmade or (read.base in made and (not shape or read.follows(shape))) for read in step.reads
        ):
            group.append(step)
            if isinstance(step, Elementwise) or not shape:
                made.add(step.target)
    return group


def _is_scalar(step: Step) -> bool:
    return isinstance(step, Elementwise) and step.scalar and bool(_shape(step))


def _declare(target: Base, memory: Memory, lines: list[str]) -> None:
    kind = C_TYPES[target.dtype]
    if target.kind == "given":
        return
    if target.is_number:
        lines.append(f"{kind} {target.name} = 0;")
    else:
        memory.array(target.name, kind, target.layout.numel(), target.dtype.itemsize)


def _loop(group: Sequence[Step], users: dict[Base, list[Step]], memory: Memory) -> list[str]:
    """A loop that takes steps of one shape."""
    shape = _shape(group[0])
    if not shape:
        return [line for step in group for line in _number(step)]
    inside = {step.target for step in group if isinstance(step, Elementwise)}
    members = set(map(id, group))
    outside = [read for step in group for read in step.reads if read.base not in inside]
    stored = [base for base in inside if any(id(user) not in members for user in users.get(base, ()))]
    stored.sort(key=lambda base: int(base.name[1:]))
    layouts = [_strides(read, shape) for read in outside]
    contiguous = torch.empty(shape, device="meta").stride()
    sizes, steps = coalesced(shape, [*layouts, contiguous])
    for base in stored:
        _declare(base, memory, [])
    names: dict[tuple[str, str], str] = {}
    given: list[str] = []
    fixed: list[str] = []
    body: list[str] = []
    for read, step in zip(outside, steps[:-1], strict=True):
        text, kind = read.at(index_of(step)), C_TYPES[read.dtype]
        if (text, kind) not in names:
            names[text, kind] = f"r{len(names)}"
            (body if any(step) else fixed).append(f"const {kind} {names[text, kind]} = {text};")
        given.append(names[text, kind])
    rest = iter(given)
    sums: list[Base] = []
    for one in group:
        arguments = [f"x{read.base.name[1:]}" if read.base in inside else next(rest) for read in one.reads]
        number = one.target.name[1:]
        if isinstance(one, Total):
            body.append(f"s{number} += (double){arguments[0]};")
            sums.append(one.target)
        elif isinstance(one, Elementwise):
            body.append(f"const {C_TYPES[one.target.dtype]} x{number} = {one.expression.format(*arguments)};")
            if one.target in stored:
                body.append(f"{one.target.name}[{index_of(steps[-1])}] = x{number};")
    reduction = f" reduction(+ : {', '.join(f's{base.name[1:]}' for base in sums)})" if sums else ""
    pragma = "" if _is_scalar(group[0]) else f"#pragma omp simd{reduction}"
    started = [f"double s{base.name[1:]} = 0;" for base in sums]
    ended = [f"const {C_TYPES[base.dtype]} {base.name} = ({C_TYPES[base.dtype]})s{base.name[1:]};" for base in sums]
    return [*started, "{", *fixed, *nest(sizes, body, pragma), "}", *ended]


def _strides(read: Access, shape: Sequence[int]) -> list[int]:
    """Of a view, by the axes of its shape without those of size 1."""
    return [step for step, size in zip(read.strides, read.shape, strict=True) if size != 1]


def _number(step: Step) -> list[str]:
    """A step that makes one number of others."""
    kind, name = C_TYPES[step.target.dtype], step.target.name
    arguments = [read.at("0") for read in step.reads]
    expression = step.expression.format(*arguments) if isinstance(step, Elementwise) else arguments[0]
    return [f"const {kind} {name} = {expression};"]


def nest(sizes: Sequence[int], body: Sequence[str], pragma: str = "") -> list[str]:
    """Loops around lines of C."""
    lines = []
    for loop, size in enumerate(sizes):
        if pragma and loop == len(sizes) - 1:
            lines.append(pragma)
        lines.append(f"for (int64_t i{loop} = 0; i{loop} < {size}; i{loop}++) {{")
    return [*lines, *body, *["}"] * len(sizes)]


def assign(target: Access, source: Access) -> list[str]:
    """Lines that copy one view to another of the same shape."""
    sizes, (to, at) = coalesced(target.shape, [target.strides, source.strides])
    return nest(sizes, [f"{target.at(index_of(to))} = {source.at(index_of(at))};"])


def filled(target: Access, number: str) -> list[str]:
    """Lines that make all of a new array one number."""
    return nest([target.layout.numel()], [f"({target.pointer()})[i0] = {number};"])
