"""Arithmetic: the elementwise operations that NumPy and C write alike."""

from __future__ import annotations

from typing import Any

import torch

aten = torch.ops.aten

# As expressions of their arguments.
ARITHMETIC: dict[Any, str] = {
    aten.add.Tensor: "{0} + {1}",
    aten.add.Scalar: "{0} + {1}",
    aten.sub.Tensor: "{0} - {1}",
    aten.sub.Scalar: "{0} - {1}",
    aten.rsub.Scalar: "{1} - {0}",
    aten.rsub.Tensor: "{1} - {0}",
    aten.mul.Tensor: "{0} * {1}",
    aten.mul.Scalar: "{0} * {1}",
    aten.neg.default: "-{0}",
    aten.reciprocal.default: "1 / {0}",
    aten.tanh_backward.default: "{0} * (1 - {1} * {1})",
}
for _name, _symbol in {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}.items():
    for _kind in ("Scalar", "Tensor"):
        ARITHMETIC[getattr(getattr(aten, _name), _kind)] = f"({{0}} {_symbol} {{1}})"
