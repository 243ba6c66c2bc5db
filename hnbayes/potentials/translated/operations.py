"""Operations: those of torch that C has an expression for, number by number."""

from __future__ import annotations

from typing import Any

import torch

from hnbayes.potentials.arithmetic import ARITHMETIC

aten, prims = torch.ops.aten, torch.ops.prims

# As C expressions of their arguments.
EXPRESSIONS: dict[Any, str] = {
    **ARITHMETIC,
    aten.div.Tensor: "(real){0} / (real){1}",
    aten.div.Scalar: "(real){0} / (real){1}",
    prims.div.default: "(real){0} / (real){1}",
    aten.exp.default: "exponential({0})",
    aten.exp2.default: "exponential({0} * (real)0x1.62e42fefa39efp-1)",
    aten.log.default: "logarithm({0})",
    aten.log2.default: "logarithm({0}) * (real)0x1.71547652b82fep+0",
    aten.log10.default: "logarithm({0}) * (real)0x1.bcb7b1526e50ep-2",
    aten.log1p.default: "logarithm_1_plus({0})",
    aten.expm1.default: "exponential_less_1({0})",
    aten.sqrt.default: "root({0})",
    aten.rsqrt.default: "1 / root({0})",
    aten.square.default: "{0} * {0}",
    aten.tanh.default: "tangent_h({0})",
    aten.sigmoid.default: "logistic({0})",
    aten.silu.default: "{0} * logistic({0})",
    aten.abs.default: "({0} < 0 ? -{0} : {0})",
    aten.sign.default: "(real)(({0} > 0) - ({0} < 0))",
    aten.sgn.default: "(real)(({0} > 0) - ({0} < 0))",
    aten.relu.default: "({0} <= 0 ? 0 : {0})",
    aten.maximum.default: "larger({0}, {1})",
    aten.minimum.default: "smaller({0}, {1})",
    aten.clamp_min.default: "({0} < {1} ? {1} : {0})",
    aten.clamp_max.default: "({0} > {1} ? {1} : {0})",
    aten.sigmoid_backward.default: "{0} * ((1 - {1}) * {1})",
    aten.threshold_backward.default: "({1} <= {2} ? 0 : {0})",
    aten.where.self: "({0} ? {1} : {2})",
    aten.masked_fill.Scalar: "({1} ? {2} : {0})",
    aten.masked_fill.Tensor: "({1} ? {2} : {0})",
    aten.logical_not.default: "!{0}",
    aten.logical_and.default: "({0} && {1})",
    aten.logical_or.default: "({0} || {1})",
    aten.isnan.default: "({0} != {0})",
    aten.addcmul.default: "{0} + {1} * {2}",
    aten.addcdiv.default: "{0} + {1} / {2}",
    aten.clone.default: "{0}",
}
# Of logical values only.
LOGICAL: dict[Any, str] = {
    aten.bitwise_not.default: "!{0}",
    aten.bitwise_and.Tensor: "({0} & {1})",
    aten.bitwise_or.Tensor: "({0} | {1})",
    aten.bitwise_xor.Tensor: "({0} ^ {1})",
}
# By a function that isn't made into vectors.
SCALAR: dict[Any, str] = {
    aten.sin.default: "MATH(sin)({0})",
    aten.cos.default: "MATH(cos)({0})",
    aten.tan.default: "MATH(tan)({0})",
    aten.atan.default: "MATH(atan)({0})",
    aten.asin.default: "MATH(asin)({0})",
    aten.acos.default: "MATH(acos)({0})",
    aten.sinh.default: "MATH(sinh)({0})",
    aten.cosh.default: "MATH(cosh)({0})",
    aten.atan2.default: "MATH(atan2)({0}, {1})",
    aten.erf.default: "MATH(erf)({0})",
    aten.erfc.default: "MATH(erfc)({0})",
    aten.floor.default: "MATH(floor)({0})",
    aten.ceil.default: "MATH(ceil)({0})",
    aten.lgamma.default: "log_gamma({0})",
    aten.digamma.default: "digamma({0})",
    aten.pow.Tensor_Scalar: "MATH(pow)({0}, {1})",
    aten.pow.Tensor_Tensor: "MATH(pow)({0}, {1})",
    aten.pow.Scalar: "MATH(pow)({0}, {1})",
}
# Operations that may make real numbers of whole ones alone.
OF_WHOLE_NUMBERS = {
    *(aten._to_copy.default, aten.where.self, aten.div.Tensor, aten.div.Scalar, prims.div.default),
}
POWERS = {
    0: "1",
    1: "{0}",
    2: "{0} * {0}",
    3: "{0} * {0} * {0}",
    4: "({0} * {0}) * ({0} * {0})",
    0.5: "root({0})",
    -0.5: "1 / root({0})",
    -1: "1 / {0}",
    -2: "1 / ({0} * {0})",
    -3: "1 / ({0} * {0} * {0})",
}
# About how many operations a call takes, where that isn't one.
COSTS: dict[Any, int] = dict.fromkeys(
    (
        *(aten.exp.default, aten.log.default, aten.log1p.default, aten.expm1.default, aten.tanh.default),
        *(aten.sigmoid.default, aten.silu.default, aten.softplus.default),
    ),
    20,
) | dict.fromkeys(SCALAR, 100)
# Operations that give a view of their first argument: applied to a tensor without memory, they say which.
VIEWS = {
    *(aten.view.default, aten._unsafe_view.default, aten.reshape.default, aten._reshape_alias.default),
    *(aten.expand.default, aten.permute.default, aten.transpose.int, aten.t.default, aten.unsqueeze.default),
    *(aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims, aten.select.int, aten.slice.Tensor),
    *(aten.diagonal.default, aten.split.Tensor, aten.split_with_sizes.default, aten.unbind.int, aten.unfold.default),
    prims.broadcast_in_dim.default,
}
COPIES = {aten.diagonal_copy.default: aten.diagonal.default}
# Operations that are a view with an argument for its shape, which may need a copy first.
RESHAPES = {aten.view.default, aten._unsafe_view.default, aten.reshape.default, aten._reshape_alias.default}
# Operations whose result is their argument.
SAME = {aten.detach.default, aten.alias.default, aten.lift_fresh_copy.default, aten.lift_fresh.default}
# Operations that torch itself describes by those above.
DECOMPOSED = (
    *(aten.log_sigmoid_forward, aten.log_sigmoid_backward, aten.nll_loss_forward, aten.nll_loss_backward),
    *(aten.nll_loss2d_forward, aten.nll_loss2d_backward, aten._log_softmax, aten._log_softmax_backward_data),
    *(aten._softmax, aten._softmax_backward_data, aten.softplus_backward, aten.logsumexp, aten.logaddexp),
    *(aten.binary_cross_entropy_with_logits, aten.binary_cross_entropy, aten.binary_cross_entropy_backward),
    *(aten.mse_loss, aten.mse_loss_backward, aten.smooth_l1_loss, aten.smooth_l1_loss_backward),
    *(aten.huber_loss, aten.huber_loss_backward, aten.mean, aten.silu_backward, aten.gelu, aten.gelu_backward),
    *(aten.elu, aten.elu_backward, aten.leaky_relu, aten.leaky_relu_backward, aten.hardtanh, aten.hardtanh_backward),
    *(
        aten.hardsigmoid,
        aten.hardsigmoid_backward,
        aten.hardswish,
        aten.hardswish_backward,
        aten.mish,
        aten.mish_backward,
        aten.xlogy,
        aten.special_xlog1py,
        aten.lerp,
    ),
    *(aten.var_mean, aten.native_layer_norm, aten.native_layer_norm_backward, aten.stack),
    *(aten.addmm, aten.addmv, aten.baddbmm, aten.addr, aten.linalg_vector_norm, aten.norm),
    *(aten.embedding, aten.index_select, aten.index_add, aten.tril),
    *(aten.triu, aten.cumprod, aten.logit, aten.logit_backward, aten.nan_to_num),
    *(aten.threshold, aten.new_zeros, aten.new_ones, aten.new_full, aten.isinf, aten.frac),
)
