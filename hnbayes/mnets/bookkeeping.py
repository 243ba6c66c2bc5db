"""ParamBook: which tensors a network works with, which of them are its own, and how given ones replace them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from hnbayes._checks import describe
from hnbayes.params import ParamSpec

Weights = Sequence[Tensor] | nn.ParameterList | Mapping[str, Any] | None


@dataclass(frozen=True, eq=False)
class Entry:
    """One tensor that a network works with.

    Attributes:
        shape: its shape.
        kind: "weight", "bias", "bn_scale", "bn_shift", "cm_scale", "cm_shift", "embedding", or None.
        layer: a number that tensors of one layer share; -1 where none applies.
        owner: the module that holds the tensor, under `attribute`; the attribute is None where it comes from outside.
        attribute: its name in the owner.
        info: what else is to be said of it, for `param_shapes_meta`.
    """

    shape: tuple[int, ...]
    kind: str | None
    layer: int
    owner: nn.Module
    attribute: str
    info: Mapping[str, Any] = field(default_factory=dict)

    @property
    def modulates(self) -> bool:
        """Whether it is a gain or a shift of context modulation."""
        return self.kind is not None and self.kind.startswith("cm_")

    @property
    def own(self) -> Tensor | None:
        """The network's own tensor, looked up anew because `functional_call` may have replaced it."""
        own: Tensor | None = getattr(self.owner, self.attribute)
        return own


class ParamBook:
    """The tensors of a network in the order of `param_shapes`, and the choice between own and given ones.

    Args:
        entries: the tensors.
        groups: names for sets of them, under which they can be given together, each with its indices.
        short: the group that a plain list of its length stands for.
    """

    def __init__(self, entries: Sequence[Entry], groups: Mapping[str, Sequence[int]], short: str | None = None) -> None:
        self.entries = tuple(entries)
        self.groups = {name: tuple(indices) for name, indices in groups.items()}
        self.short = short
        names = tuple(f"weights.{i}" for i in range(len(self.entries)))
        self.spec = ParamSpec(names, tuple(entry.shape for entry in self.entries))

    @property
    def shapes(self) -> list[list[int]]:
        """Shapes of all tensors."""
        return [list(shape) for shape in self.spec.shapes]

    @property
    def own(self) -> list[int]:
        """Indices of the tensors that the network has itself."""
        return [i for i, entry in enumerate(self.entries) if entry.own is not None]

    @property
    def needed(self) -> list[int]:
        """Indices of the tensors that must come from outside."""
        return [i for i, entry in enumerate(self.entries) if entry.own is None]

    def tensors(self, weights: Weights) -> list[Tensor]:
        """All tensors for one pass: given ones, and the network's own for the rest.

        Args:
            weights: None; a list of all tensors, of those that must come from outside, or of the group `short`; or a
                dict from names of groups to lists.

        Returns:
            One tensor an entry.

        Raises:
            ValueError: if number, shapes or names don't fit, or a tensor is missing.
        """
        chosen = self.partial(weights)
        missing = [shape for shape, tensor in zip(self.shapes, chosen, strict=True) if tensor is None]
        if missing:
            raise ValueError(
                f"weights must hold the tensors that the network doesn't have itself, of shapes {missing}; "
                f"received {describe(weights)}. Pass them to forward()."
            )
        return [tensor for tensor in chosen if tensor is not None]

    def partial(self, weights: Weights) -> list[Tensor | None]:
        """As `tensors`, with None where a tensor is missing."""
        given = self._given(weights)
        return [given.get(i, entry.own) for i, entry in enumerate(self.entries)]

    def check(self, name: str, tensors: Any, indices: Sequence[int]) -> dict[int, Tensor]:
        """The tensors by index, after a check of number, type and shapes."""
        shapes = [self.shapes[i] for i in indices]
        if not isinstance(tensors, (list, tuple, nn.ParameterList)) or len(tensors) != len(indices):
            received = f"{len(tensors)} entries" if isinstance(tensors, (list, tuple)) else describe(tensors)
            raise ValueError(f"{name} must be a list of {len(indices)} tensors; received {received}.")
        for i, shape, tensor in zip(indices, shapes, tensors, strict=True):
            if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
                raise ValueError(f"{name} must hold floating-point tensors; received {describe(tensor)}.")
            # One set of gains and shifts a sample is fine: the context-mod layer checks those against its input.
            if list(tensor.shape) != shape and not self.entries[i].modulates:
                raise ValueError(
                    f"tensor {i} in {name} must have shape {tuple(shape)}; received {tuple(tensor.shape)}. "
                    f"The shapes are {shapes}."
                )
        return dict(zip(indices, tensors, strict=True))

    def _given(self, weights: Weights) -> dict[int, Tensor]:
        if weights is None:
            return {}
        if isinstance(weights, Mapping):
            unknown = sorted(set(weights) - set(self.groups))
            if unknown or not weights:
                raise ValueError(
                    f"a dict of weights has the keys {sorted(self.groups)}, at least one; received {list(weights)}."
                )
            given: dict[int, Tensor] = {}
            for name, tensors in weights.items():
                if tensors is not None:
                    given |= self.check(f"weights[{name!r}]", tensors, self.groups[name])
            return given
        choices: list[Sequence[int]] = [range(len(self.entries)), self.needed]
        if self.short is not None:
            choices.append(self.groups[self.short])
        if not isinstance(weights, (list, tuple, nn.ParameterList)):
            raise ValueError(
                f"weights must be a list of tensors or a dict of such lists; received {describe(weights)}."
            )
        for indices in choices:
            if len(indices) and len(indices) == len(weights):
                return self.check("weights", weights, indices)
        counts = " or ".join(str(n) for n in dict.fromkeys(len(indices) for indices in choices if len(indices)))
        raise ValueError(f"weights must be a list of {counts} tensors; received {len(weights)}.")
