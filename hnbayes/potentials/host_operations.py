"""Operations: those of torch that NumPy has an expression for."""

from __future__ import annotations

from typing import Any

import torch

from hnbayes.potentials.arithmetic import ARITHMETIC

aten = torch.ops.aten

# Elementwise ones, as expressions of their arguments.
ELEMENTWISE: dict[Any, str] = {
    **ARITHMETIC,
    aten.div.Tensor: "{0} / {1}",
    aten.div.Scalar: "{0} / {1}",
    aten.exp.default: "np.exp({0})",
    aten.log.default: "np.log({0})",
    aten.log1p.default: "np.log1p({0})",
    aten.expm1.default: "np.expm1({0})",
    aten.sqrt.default: "np.sqrt({0})",
    aten.rsqrt.default: "1 / np.sqrt({0})",
    aten.tanh.default: "np.tanh({0})",
    aten.sigmoid.default: "1 / (1 + np.exp(-{0}))",
    aten.abs.default: "np.abs({0})",
    aten.sign.default: "np.sign({0})",
    aten.sgn.default: "np.sign({0})",
    aten.sin.default: "np.sin({0})",
    aten.cos.default: "np.cos({0})",
    aten.relu.default: "np.maximum({0}, 0)",
    aten.maximum.default: "np.maximum({0}, {1})",
    aten.minimum.default: "np.minimum({0}, {1})",
    aten.clamp_min.default: "np.maximum({0}, {1})",
    aten.clamp_max.default: "np.minimum({0}, {1})",
    aten.sigmoid_backward.default: "{0} * ({1} * (1 - {1}))",
    aten.threshold_backward.default: "np.where({1} <= {2}, 0, {0})",
    aten.where.self: "np.where({0}, {1}, {2})",
    aten.masked_fill.Scalar: "np.where({1}, {2}, {0})",
    aten.masked_fill.Tensor: "np.where({1}, {2}, {0})",
    aten.logical_not.default: "np.logical_not({0})",
    aten.bitwise_not.default: "~{0}",
    aten.logical_and.default: "np.logical_and({0}, {1})",
    aten.logical_or.default: "np.logical_or({0}, {1})",
    aten.bitwise_and.Tensor: "{0} & {1}",
    aten.bitwise_or.Tensor: "{0} | {1}",
}
SLOW_WHEN_LARGE = {aten.log1p.default, aten.expm1.default}
# NumPy's vectorised tanh beats torch's at any size.
NUMPY_AT_ANY_SIZE = {aten.tanh.default}
POWERS = {
    1: "{0}",
    2: "np.square({0})",
    3: "{0} * {0} * {0}",
    0.5: "np.sqrt({0})",
    -1: "1 / {0}",
    -2: "1 / np.square({0})",
}
# Operations that only look at their argument in another way, where nothing is written to in place.
SAME = {aten.clone.default, aten.detach.default, aten.alias.default, aten.lift_fresh_copy.default}
RESHAPES = {
    *(aten.view.default, aten._unsafe_view.default, aten.reshape.default),
    *(aten.unsqueeze.default, aten.squeeze.dim, aten.squeeze.dims),
}
