"""ParamSpec: the only place where a flat vector meets the parameters of a module."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class ParamSpec:
    """Names and shapes of the tensors that make up a flat position vector of D numbers.

    Attributes:
        names: one name a tensor, in the order in which they are laid out.
        shapes: their shapes; `()` is a single number.

    Example:
        >>> spec = hnbayes.ParamSpec.from_module(torch.nn.Linear(2, 3))
        >>> spec.names, spec.size
        (('weight', 'bias'), 9)
        >>> draws = torch.zeros(4, 100, 9)  # 4 chains, 100 draws
        >>> {name: tuple(w.shape) for name, w in spec.unflatten(draws).items()}
        {'weight': (4, 100, 3, 2), 'bias': (4, 100, 3)}
        >>> spec.indices("bias")
        range(6, 9)
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(self.names))
        object.__setattr__(self, "shapes", tuple(tuple(int(n) for n in shape) for shape in self.shapes))
        if len(self.names) != len(self.shapes):
            raise ValueError(
                f"names and shapes must be as many; received {len(self.names)} names and {len(self.shapes)} shapes."
            )
        if not self.names:
            raise ValueError("names and shapes must be of at least one tensor; received none.")
        if len(set(self.names)) != len(self.names):
            twice = sorted({name for name in self.names if self.names.count(name) > 1})
            raise ValueError(f"parameter names must differ; received more than once: {', '.join(twice)}.")

    @classmethod
    def from_module(cls, module: nn.Module) -> ParamSpec:
        """The spec of a module's trainable parameters, in `named_parameters` order.

        Raises:
            ValueError: if no parameter of the module requires a gradient.
        """
        trainable = [(name, tuple(p.shape)) for name, p in module.named_parameters() if p.requires_grad]
        if not trainable:
            raise ValueError(
                f"{type(module).__name__} must have at least one parameter with requires_grad=True; "
                "received none. Unfreeze what is to be sampled."
            )
        names, shapes = zip(*trainable, strict=True)
        return cls(names, shapes)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of elements of each tensor."""
        return tuple(math.prod(shape) for shape in self.shapes)

    @property
    def size(self) -> int:
        """D, the length of the flat vector."""
        return sum(self.sizes)

    def indices(self, name: str) -> range:
        """Where a parameter stands in the flat vector.

        Raises:
            ValueError: if there is no such parameter.
        """
        if name not in self.names:
            raise ValueError(f"there is no parameter {name!r}; the parameters are {', '.join(self.names)}.")
        at = self.names.index(name)
        start = sum(self.sizes[:at])
        return range(start, start + self.sizes[at])

    def flatten(self, params: Mapping[str, Tensor] | Sequence[Tensor]) -> Tensor:
        """Lay tensors out as one flat vector.

        Args:
            params: a mapping from name, or a sequence in the spec's order, of tensors of shape
                `(*batch, *shape)` with one `batch` shape for all of them.

        Returns:
            Tensor of shape `(*batch, D)`.

        Raises:
            ValueError: if names, number or shapes do not fit.
        """
        tensors = self._in_order(params)
        flat = []
        batch: tuple[int, ...] | None = None
        for name, shape, tensor in zip(self.names, self.shapes, tensors, strict=True):
            lead = tuple(tensor.shape[: tensor.ndim - len(shape)])
            batch = lead if batch is None else batch
            if tuple(tensor.shape) != batch + shape:
                raise ValueError(f"parameter {name!r} must have shape {batch + shape}; received {tuple(tensor.shape)}.")
            flat.append(tensor.reshape(*lead, -1))
        return torch.cat(flat, dim=-1)

    def unflatten(self, flat: Any) -> dict[str, Any]:
        """Split a flat vector into named tensors, as views.

        Args:
            flat: tensor or NumPy array of shape `(*batch, D)`: (D,), (C, D), (C, S, D), ...

        Returns:
            Name -> tensor of shape `(*batch, *shape)`.

        Raises:
            ValueError: if the last dimension is not D.
        """
        if flat.ndim < 1 or flat.shape[-1] != self.size:
            raise ValueError(
                f"the last dimension must be {self.size}, the number of parameters; received shape {tuple(flat.shape)}."
            )
        batch = tuple(flat.shape[:-1])
        if isinstance(flat, Tensor):
            # One split, whose gradient is one `cat`; slices would each cost a zero-filled vector.
            parts: Sequence[Any] = torch.split(flat, list(self.sizes), dim=-1)
        else:
            parts = np.split(flat, np.cumsum(self.sizes)[:-1], axis=-1)
        return {
            name: part.reshape(batch + shape) for name, shape, part in zip(self.names, self.shapes, parts, strict=True)
        }

    def _in_order(self, params: Mapping[str, Tensor] | Sequence[Tensor]) -> list[Tensor]:
        if isinstance(params, Mapping):
            if set(params) != set(self.names):
                missing, extra = set(self.names) - set(params), set(params) - set(self.names)
                raise ValueError(
                    f"parameters must be named as in the spec; missing: {sorted(missing) or 'none'}, "
                    f"unknown: {sorted(extra) or 'none'}."
                )
            return [params[name] for name in self.names]
        if len(params) != len(self.names):
            raise ValueError(f"{len(self.names)} parameters are needed; received {len(params)}.")
        return list(params)
