"""Inputs and data as tensors, from whatever users hold them in."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from hnbayes._checks import check_finite, describe
from hnbayes.likelihoods import Likelihood


def as_tensor(name: str, values: Any, like: Tensor) -> Tensor:
    """Numbers as a tensor: of the network's dtype if they are floating-point, on its device if they were no tensor.

    Args:
        name: what the caller calls them, for messages.
        values: tensor, NumPy array, pandas object or nested lists.
        like: a tensor of the network's dtype and device.

    Raises:
        TypeError: if they aren't numbers.
        ValueError: if there are none, or some are NaN or infinite.
    """
    if isinstance(values, Tensor):
        # A tensor of inference mode can't take part in what is differentiated.
        tensor = values.clone() if values.is_inference() else values.detach()
    else:
        tensor = torch.as_tensor(_as_array(name, values), device=like.device)
    if tensor.is_complex():
        raise TypeError(f"{name} must be real; received {describe(tensor)}.")
    if tensor.ndim == 0 or tensor.numel() == 0:
        raise ValueError(f"{name} must hold at least one data point; received {describe(tensor)}.")
    if tensor.is_floating_point():
        check_finite(name, tensor)
        return tensor.to(like.dtype)
    return tensor


def as_inputs(values: Any, like: Tensor) -> Tensor:
    """The inputs X as a tensor (N, ...); whole numbers in NumPy arrays and tables become floating-point numbers.

    Tensors of integers stay: they may be what an embedding takes.
    """
    tensor = as_tensor("X", values, like)
    if not isinstance(values, Tensor) and not tensor.is_floating_point():
        return tensor.to(like.dtype)
    return tensor


def as_data(values: Any, output: Tensor, likelihood: Likelihood) -> Tensor:
    """The data y as the likelihood takes them, checked.

    One number a data point may come as (N,) or (N, 1), whichever the network has; and whole numbers are real numbers
    where the likelihood is of those.

    Args:
        values: tensor, NumPy array, pandas object or nested lists.
        output: the outputs of one forward pass, (N, ...).
        likelihood: the likelihood.

    Raises:
        TypeError, ValueError: if they can't be the data; see `Likelihood.check`.
    """
    y = as_tensor("y", values, output)
    wanted = likelihood.data_shape(output)
    if y.shape[:1] == wanted[:1] and ((*y.shape, 1) == wanted or tuple(y.shape) == (*wanted, 1)):
        y = y.reshape(wanted)
    integers = not y.is_floating_point() and y.dtype != torch.bool
    if integers and likelihood.task(output) == "regression":
        y = y.to(output.dtype)
    elif not integers and not isinstance(values, Tensor) and likelihood.task(output) == "classification":
        # Tables of numbers hold labels as floating-point numbers where another column does.
        y = y.long() if bool((y == y.long()).all()) else y
    likelihood.check(output, y)
    return likelihood.cast(y, output)


def _as_array(name: str, values: Any) -> np.ndarray[Any, Any]:
    array = np.asarray(values.to_numpy() if hasattr(values, "to_numpy") else values)
    if array.dtype.kind not in "biuf":
        raise TypeError(
            f"{name} must hold numbers; received {type(values).__name__} of dtype {array.dtype}. Encode text and dates "
            "as numbers first."
        )
    if array.dtype.kind == "u":
        array = array.astype(np.int64)
    # A copy where memory is read-only or strides are negative, which torch doesn't take.
    return np.require(array, requirements=["C", "W"])
